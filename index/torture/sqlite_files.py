"""SQLite's door to the disk: its VFS, with every call of interest led past the watcher.

SQLite reaches files through two tables of function pointers, sqlite3_vfs and, for each open
file, sqlite3_io_methods (sqlite.org/vfs.html). Here some of these pointers lead to Python, which
asks the watcher and then calls what was there before. The shared-memory file of the write-ahead
log is mapped, not written; it is void after a crash, and nobody watches it.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import errno
import os
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

from index.torture.disk import Call, Create, Look, Remove, Sync, Truncate, Write, asked, concerns

OPEN_CREATE = 0x4
OPEN_JOURNALS = 0x800 | 0x4000 | 0x80000  # main journal, super-journal, write-ahead log

OK, FULL, CANTOPEN = 0, 13, 14
IOERR_NOMEM = 10 | 12 << 8
IOERR = {
    "read": 10 | 1 << 8,
    "write": 10 | 3 << 8,
    "sync": 10 | 4 << 8,
    "truncate": 10 | 6 << 8,
    "size": 10 | 7 << 8,
    "delete": 10 | 10 << 8,
    "access": 10 | 13 << 8,
    "lock": 10 | 15 << 8,
    "map": 10 | 21 << 8,
}

_OPEN = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_DELETE = ctypes.CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_ACCESS = ctypes.CFUNCTYPE(c_int, c_void_p, c_char_p, c_int, c_void_p)
_READ = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(c_int, c_void_p, c_int64)
_FLAG = ctypes.CFUNCTYPE(c_int, c_void_p, c_int)
_SIZE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)
_MAP = ctypes.CFUNCTYPE(c_int, c_void_p, c_int, c_int, c_int, c_void_p)


class _Vfs(ctypes.Structure):
    _fields_ = [
        ("iVersion", c_int), ("szOsFile", c_int), ("mxPathname", c_int), ("pNext", c_void_p),
        ("zName", c_char_p), ("pAppData", c_void_p), ("xOpen", _OPEN), ("xDelete", _DELETE),
        ("xAccess", _ACCESS),
    ]  # fmt: skip


class _Methods(ctypes.Structure):
    _fields_ = [
        ("iVersion", c_int), ("xClose", c_void_p), ("xRead", _READ), ("xWrite", _READ),
        ("xTruncate", _TRUNCATE), ("xSync", _FLAG), ("xFileSize", _SIZE), ("xLock", _FLAG),
        ("xUnlock", c_void_p), ("xCheckReservedLock", c_void_p), ("xFileControl", c_void_p),
        ("xSectorSize", c_void_p), ("xDeviceCharacteristics", c_void_p), ("xShmMap", _MAP),
        ("xShmLock", c_void_p), ("xShmBarrier", c_void_p), ("xShmUnmap", c_void_p),
        ("xFetch", c_void_p), ("xUnfetch", c_void_p),
    ]  # fmt: skip


class _File(ctypes.Structure):
    _fields_ = [("methods", POINTER(_Methods))]


_paths: dict[int, str] = {}  # by the address of the open file's structure
_tables: dict[int, _Methods] = {}  # by the address of the table that each replaces
_kept: list[object] = []  # what SQLite points at must live as long as the process


class VfsOutOfReach(RuntimeError):
    """This Python's SQLite is built so that its VFS cannot be reached."""


def install() -> None:
    """Lead SQLite's calls past the watcher, from now on. Raises VfsOutOfReach."""
    if _kept:
        return
    vfs = _default_vfs()
    open_file, delete, access = (_fixed(f) for f in (vfs.xOpen, vfs.xDelete, vfs.xAccess))
    vfs.xOpen = _keep(_OPEN(lambda *arguments: _open(open_file, *arguments)))
    vfs.xDelete = _keep(_DELETE(lambda *arguments: _delete(delete, *arguments)))
    vfs.xAccess = _keep(_ACCESS(lambda *arguments: _access(access, *arguments)))


def _default_vfs() -> _Vfs:
    try:
        library = ctypes.CDLL(_sqlite3.__file__)
        find = library.sqlite3_vfs_find
    except (AttributeError, OSError) as error:
        raise VfsOutOfReach(str(error)) from error
    find.restype, find.argtypes = POINTER(_Vfs), [c_char_p]
    vfs: _Vfs = find(None).contents
    return vfs


def _fixed(pointer: Any) -> Any:
    """The function as it is now: what ctypes gives for a field follows the field's changes."""
    return type(pointer)(ctypes.cast(pointer, c_void_p).value)


def _keep(function: Any) -> Any:
    _kept.append(function)
    return function


class _Failed(Exception):
    """The call itself failed; nobody need hear of it."""


def _guarded(call: Call, code: int, function: Callable[[], int]) -> int:
    """The code of `function`, or `code` where the watcher refuses."""
    result = OK
    try:
        with asked(call):
            result = function()
            if result != OK:
                raise _Failed
    except _Failed:
        return result
    except MemoryError:
        return IOERR_NOMEM
    except OSError as error:
        return FULL if error.errno == errno.ENOSPC and isinstance(call, Write) else code
    return result


def _open(real: Any, vfs: int, name: int, file: int, *rest: int) -> int:
    if not name:  # a temporary file: there should be none
        return int(real(vfs, name, file, *rest))
    path, flags = os.fsdecode(ctypes.string_at(name)), rest[0]
    if not concerns(path):
        code = int(real(vfs, name, file, *rest))
    elif flags & OPEN_CREATE and not os.path.lexists(path):
        created = Create(Path(path), synced_name=bool(flags & OPEN_JOURNALS))
        code = _guarded(created, CANTOPEN, lambda: real(vfs, name, file, *rest))
    else:
        call = Look(Path(path), "open")
        code = _guarded(call, CANTOPEN, lambda: real(vfs, name, file, *rest))
    opened = _File.from_address(file)
    if opened.methods:
        _paths[file] = path
        opened.methods = ctypes.pointer(_table(opened.methods.contents))
    return code


def _delete(real: Any, vfs: int, name: bytes, synced: int) -> int:
    path = os.fsdecode(name)
    if not concerns(path) or not os.path.lexists(path):
        return int(real(vfs, name, synced))
    call = Remove(Path(path), synced=bool(synced))
    return _guarded(call, IOERR["delete"], lambda: real(vfs, name, synced))


def _access(real: Any, vfs: int, name: bytes, flags: int, out: int) -> int:
    path = os.fsdecode(name)
    if not concerns(path):
        return int(real(vfs, name, flags, out))
    call = Look(Path(path), "access")
    return _guarded(call, IOERR["access"], lambda: real(vfs, name, flags, out))


def _table(old: _Methods) -> _Methods:
    """The table to put in the place of `old`."""
    address = ctypes.addressof(old)
    for table in _tables.values():
        if address == ctypes.addressof(table):
            return table
    if address not in _tables:
        new = _tables[address] = _Methods.from_buffer_copy(old)
        looks = (("xRead", _READ, "read"), ("xFileSize", _SIZE, "size"), ("xLock", _FLAG, "lock"))
        for field, kind, what in (*looks, ("xShmMap", _MAP, "map")):
            setattr(new, field, _keep(kind(_looking(getattr(old, field), what))))
        new.xWrite = _keep(_READ(_writing(old.xWrite)))
        new.xTruncate = _keep(_TRUNCATE(_truncating(old.xTruncate)))
        new.xSync = _keep(_FLAG(_syncing(old.xSync)))
    return _tables[address]


def _looking(real: Any, what: str) -> Callable[..., int]:
    def look(file: int, *arguments: int) -> int:
        path = _paths[file]
        if not concerns(path):
            return int(real(file, *arguments))
        return _guarded(Look(Path(path), what), IOERR[what], lambda: real(file, *arguments))

    return look


def _writing(real: Any) -> Callable[..., int]:
    def write(file: int, data: int, count: int, offset: int) -> int:
        path = _paths[file]
        if not concerns(path):
            return int(real(file, data, count, offset))
        call = Write(Path(path), offset, ctypes.string_at(data, count))
        return _guarded(call, IOERR["write"], lambda: real(file, data, count, offset))

    return write


def _truncating(real: Any) -> Callable[..., int]:
    def truncate(file: int, size: int) -> int:
        path = _paths[file]
        if not concerns(path):
            return int(real(file, size))
        return _guarded(Truncate(Path(path), size), IOERR["truncate"], lambda: real(file, size))

    return truncate


def _syncing(real: Any) -> Callable[..., int]:
    def sync(file: int, flags: int) -> int:
        path = _paths[file]
        if not concerns(path):
            return int(real(file, flags))
        return _guarded(Sync(Path(path)), IOERR["sync"], lambda: real(file, flags))

    return sync
