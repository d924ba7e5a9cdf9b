"""Files that are there whole or not at all, and the lock on a data directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from index.database import free_bytes_told
from index.errors import DirectoryInUse, DiskFull, StorageFailed

HASHED_BYTES = 1024 * 1024  # read at once


def write_file(path: Path, data: bytes | memoryview) -> None:
    """Replace `path` so that a crash leaves the old or the new content. Raises DiskFull."""
    temporary = path.with_name(path.name + ".tmp")
    with translated(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error says more
                temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make names durable: after a rename the bytes are on the disk, the name may not be."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the system's errors about `path` into ours."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(path, free_bytes_told(path.parent) or 0) from error
        raise StorageFailed(path, error.strerror or str(error)) from error


class DirectoryLock:
    """Held for as long as the process uses the directory; the system releases it at its end.

    The file holds the process id as text. It is never removed: removing a lock file races.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._take(path)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _take(self, path: Path) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            pid = int(holder) if holder.isdecimal() else None
            raise DirectoryInUse(path.parent, pid) from error
        # A full disk keeps nobody from reading: the lock holds whether it names us or not.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)
