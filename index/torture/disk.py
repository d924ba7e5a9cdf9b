"""What a disk is asked to do, as values, and whoever wants to know of it or to forbid it.

Two doors lead to the disk: Python's own functions (index/torture/python_files.py) and SQLite's
VFS (index/torture/sqlite_files.py). While `watched` lasts, both ask one watcher.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class Create:
    """An empty file under a name that nothing had."""

    path: Path
    synced_name: bool = False  # the file's first sync makes its name durable too


@dataclass(frozen=True, slots=True)
class Write:
    path: Path
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """fsync of a file, or of a directory's names."""

    path: Path


@dataclass(frozen=True, slots=True)
class Rename:
    path: Path
    to: Path


@dataclass(frozen=True, slots=True)
class Remove:
    """A file, or an empty directory."""

    path: Path
    synced: bool = False


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    path: Path


@dataclass(frozen=True, slots=True)
class Look:
    """Whatever changes nothing: reading, listing, asking for a size, locking."""

    path: Path
    what: str


Change: TypeAlias = Create | Write | Truncate | Sync | Rename | Remove | MakeDirectory
Call: TypeAlias = Change | Look


class Watcher(Protocol):
    """Asked by the threads that make the calls, one at a time."""

    def before(self, call: Call) -> None:
        """Raises OSError or MemoryError to make the call fail without having done anything."""

    def after(self, call: Call) -> None:
        """The call was made. Raises to make it fail all the same."""


class _Watch:
    """Who watches which directory. Calls made by a watcher itself are not watched."""

    def __init__(self) -> None:
        self.watcher: Watcher | None = None
        self.home = ""
        self.lock = threading.RLock()
        self.aside = threading.local()


_watch = _Watch()


def concerns(path: str) -> bool:
    """Whether calls about `path` are watched now, on this thread."""
    if _watch.watcher is None or getattr(_watch.aside, "active", False):
        return False
    return path.startswith(_watch.home)


@contextmanager
def unwatched() -> Iterator[None]:
    """Calls that this thread makes meanwhile are nobody's business."""
    before = getattr(_watch.aside, "active", False)
    _watch.aside.active = True
    try:
        yield
    finally:
        _watch.aside.active = before


@contextmanager
def asked(call: Call) -> Iterator[None]:
    """Around the call itself. Raises what the watcher raises."""
    watcher = _watch.watcher
    if watcher is None:
        yield
        return
    with _watch.lock:
        with unwatched():
            watcher.before(call)
        yield
        with unwatched():
            watcher.after(call)


def begin(home: Path, watcher: Watcher) -> None:
    """For `index.torture.watching`. One watcher at a time in a process."""
    assert _watch.watcher is None, "somebody watches already"
    _watch.home, _watch.watcher = str(home.resolve()), watcher


def end() -> None:
    _watch.watcher = None
