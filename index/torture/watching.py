"""Both doors to the disk led past a watcher, for as long as wanted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from index.torture import disk, python_files, sqlite_files
from index.torture.disk import Watcher


@contextmanager
def watched(home: Path, watcher: Watcher) -> Iterator[None]:
    """Ask `watcher` about every call below `home`. Raises VfsOutOfReach."""
    sqlite_files.install()
    with python_files.installed():
        disk.begin(home, watcher)
        try:
            yield
        finally:
            disk.end()
