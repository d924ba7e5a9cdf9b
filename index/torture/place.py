"""Where directories are tortured."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = Path("/dev/shm")  # what is faulty here is said, not done: no disk need turn


@contextmanager
def temporary_home() -> Iterator[Path]:
    """An empty directory, gone afterwards."""
    place = MEMORY if os.access(MEMORY, os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="polyseme-torture-", dir=place)).resolve()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
