"""Python's door to the disk: `open`, the functions of `os`, memory maps.

They are replaced while somebody watches. `pathlib` and `shutil` look them up when they are
called, so whoever works with files, by whatever means, is watched.
"""

from __future__ import annotations

import builtins
import errno
import io
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from index.torture.disk import (
    Call,
    Create,
    Look,
    MakeDirectory,
    Remove,
    Rename,
    Sync,
    Truncate,
    Write,
    asked,
    concerns,
)

_open = io.open
_os = {
    name: getattr(os, name)
    for name in (
        *("open", "fsync", "rename", "replace", "unlink", "remove", "mkdir", "rmdir", "stat"),
        *("listdir", "scandir", "statvfs", "pwrite", "ftruncate", "sendfile"),
    )
}
_map = mmap.mmap


@contextmanager
def installed() -> Iterator[None]:
    """Watch Python's calls while this lasts. Files opened meanwhile stay usable."""
    _put(
        {
            "open": _os_open, "fsync": _fsync, "rename": _rename, "replace": _rename,
            "unlink": _unlink, "remove": _unlink, "mkdir": _mkdir, "rmdir": _rmdir,
            "stat": _looking("stat"), "listdir": _looking("listdir"),
            "scandir": _looking("scandir"), "statvfs": _looking("statvfs"),
            "pwrite": _pwrite, "ftruncate": _ftruncate, "sendfile": _sendfile,
        },
        _watched_open,
        _watched_map,
    )  # fmt: skip
    try:
        yield
    finally:
        _put(_os, _open, _map)


def _put(functions: dict[str, Any], opening: Any, mapping: Any) -> None:
    for name, function in functions.items():
        setattr(os, name, function)
    builtins.open = io.open = opening
    mmap.mmap = mapping  # type: ignore[misc]


class _File(io.FileIO):
    """A file whose reads and writes are watched."""

    def write(self, data: Any, /) -> int:
        name = str(self.name)
        if not concerns(name):
            return super().write(data)
        with asked(Write(Path(name), self.tell(), bytes(data))):
            return super().write(data)

    def readall(self) -> bytes:
        with _look(str(self.name), "read"):
            return super().readall()

    def readinto(self, buffer: Any, /) -> int:
        with _look(str(self.name), "read"):
            return super().readinto(buffer)

    def read(self, size: int | None = -1, /) -> bytes:
        with _look(str(self.name), "read"):
            return super().read(size)


@contextmanager
def _look(path: str, what: str) -> Iterator[None]:
    if not concerns(path):
        yield
        return
    with asked(Look(Path(path), what)):
        yield


def _watched_open(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
    path = "" if isinstance(file, int) else _path(file)
    if not concerns(path):
        return _open(file, mode, buffering, *rest, **named)
    writes = set(mode) & set("wax+")
    raw_mode = mode.replace("b", "").replace("t", "")
    raw = _asked(
        _opening(path, creates=bool(writes & set("wax")), empties="w" in mode),
        lambda: _File(path, raw_mode),
    )
    if buffering == 0:
        return raw
    buffered = io.BufferedWriter(raw) if writes else io.BufferedReader(raw)
    if "b" in mode:
        return buffered
    return io.TextIOWrapper(buffered, *rest, **named)


def _opening(path: str, *, creates: bool, empties: bool) -> Call:
    exists = os.path.lexists(path)
    if creates and not exists:
        return Create(Path(path))
    return Truncate(Path(path), 0) if empties and exists else Look(Path(path), "open")


def _path(path: Any, directory: int | None = None) -> str:
    """As an absolute string; descriptors as what they are open for."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    text = os.fsdecode(path)
    if directory is not None:
        text = os.path.join(os.readlink(f"/proc/self/fd/{directory}"), text)
    return os.path.abspath(text)


def _guarded(call: Callable[[], Call], path: str, real: Callable[[], Any]) -> Any:
    if not concerns(path):
        return real()
    return _asked(call(), real)


def _asked(call: Call, real: Callable[[], Any]) -> Any:
    """What `real` gives, unless the watcher calls it a failure: then nobody has it to close."""
    made: Any = None
    try:
        with asked(call):
            made = real()
    except (OSError, MemoryError):
        if hasattr(made, "close"):
            made.close()
        raise
    return made


def _os_open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    name = _path(path, dir_fd)
    creates, empties = bool(flags & os.O_CREAT), bool(flags & os.O_TRUNC)
    made: int = _guarded(
        lambda: _opening(name, creates=creates, empties=empties),
        name,
        lambda: _os["open"](path, flags, mode, dir_fd=dir_fd),
    )
    return made


def _fsync(descriptor: Any) -> None:
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    name = _path(number)
    _guarded(lambda: Sync(Path(name)), name, lambda: _os["fsync"](number))


def _rename(source: Any, target: Any, **named: Any) -> None:
    name, to = _path(source), _path(target)
    _guarded(
        lambda: Rename(Path(name), Path(to)), name, lambda: _os["replace"](source, target, **named)
    )


def _unlink(path: Any, *, dir_fd: int | None = None) -> None:
    name = _path(path, dir_fd)
    _guarded(lambda: Remove(Path(name)), name, lambda: _os["unlink"](path, dir_fd=dir_fd))


def _mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
    name = _path(path, dir_fd)
    _guarded(lambda: MakeDirectory(Path(name)), name, lambda: _os["mkdir"](path, mode))


def _rmdir(path: Any, *, dir_fd: int | None = None) -> None:
    name = _path(path, dir_fd)
    _guarded(lambda: Remove(Path(name)), name, lambda: _os["rmdir"](path, dir_fd=dir_fd))


def _looking(what: str) -> Callable[..., Any]:
    def look(path: Any = ".", **named: Any) -> Any:
        name = _path(path, named.get("dir_fd"))
        return _guarded(lambda: Look(Path(name), what), name, lambda: _os[what](path, **named))

    return look


def _pwrite(descriptor: int, data: Any, offset: int) -> int:
    name = _path(descriptor)
    written: int = _guarded(
        lambda: Write(Path(name), offset, bytes(data)),
        name,
        lambda: _os["pwrite"](descriptor, data, offset),
    )
    return written


def _ftruncate(descriptor: int, size: int) -> None:
    name = _path(descriptor)
    _guarded(lambda: Truncate(Path(name), size), name, lambda: _os["ftruncate"](descriptor, size))


def _sendfile(target: int, source: int, offset: int | None, count: int) -> int:
    """`shutil` falls back to reading and writing, which is watched."""
    if concerns(_path(target)):
        raise OSError(errno.EINVAL, "not for watched files")
    sent: int = _os["sendfile"](target, source, offset, count)
    return sent


def _watched_map(descriptor: int, *arguments: Any, **named: Any) -> Any:
    if descriptor < 0:
        return _map(descriptor, *arguments, **named)
    name = _path(descriptor)
    return _guarded(
        lambda: Look(Path(name), "map"), name, lambda: _map(descriptor, *arguments, **named)
    )
