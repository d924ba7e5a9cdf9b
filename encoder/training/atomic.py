"""Files that are whole or absent, whatever happens while they are written."""

import os
from pathlib import Path


class NotWritten(OSError):
    """A file could not be written; what was there before is untouched."""


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Replace `path` by a file with `content`.

    After a crash at any moment `path` holds the old content or the new one, in full. Raises
    NotWritten, with the reason, and leaves nothing behind when the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise NotWritten(
            f"{path} was not written ({error.strerror}); the file there before is untouched"
        ) from error
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut (fsync(2): a directory needs its own)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
