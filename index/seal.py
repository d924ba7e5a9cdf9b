"""What a collection's database must hold, kept beside it, because SQLite itself cannot tell.

A write-ahead log that is cut, or has one wrong bit, reads as a shorter log: acknowledged writes
would be gone without a word. And a wrong bit in a b-tree that leads to documents makes them
unfindable. So a file beside the database has one line of 128 bytes:

    <uid> <sequence, 20 digits> <SHA-256 of documents.sqlite3, or 64 dashes> <CRC-32>

The sequence is that of the last acknowledged write. It is written after each commit and not
synced, so it is never ahead of the database; after kill -9 it is exact. The digest is there
while the collection is closed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from index.errors import DataDamaged
from index.files import sha256_of, write_file

FILE_NAME = "SEAL"
LINE_BYTES = 128
NO_DIGEST = "-" * 64

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seal:
    """One line. digest: hexadecimal; empty while the collection is open."""

    uid: str
    sequence: int
    digest: str = ""

    def line(self) -> bytes:
        head = f"{self.uid} {self.sequence:020} {self.digest or NO_DIGEST} "
        return f"{head}{zlib.crc32(head.encode()):08x}\n".encode()


def read_seal(directory: Path) -> Seal | None:
    """None where there is no seal, or one that is damaged itself. Raises OSError."""
    path = directory / FILE_NAME
    try:
        line = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        uid, sequence, digest, _ = line.decode("ascii").split()
        seal = Seal(uid, int(sequence), "" if digest == NO_DIGEST else digest)
    except ValueError:
        seal = None
    if seal is None or seal.line() != line:
        log.warning("%s cannot be read; nothing is compared with it", path)
        return None
    return seal


def digest_of_closed(database: Path) -> str:
    """SHA-256; empty where a write-ahead log has a part of it. Raises OSError.

    Only while this process has no connection to it: closing a file drops every lock that the
    process holds on it (fcntl(2)), and an outsider who connects would then remove the log.
    """
    with contextlib.suppress(FileNotFoundError):
        if database.with_name(f"{database.name}-wal").stat().st_size:
            return ""
    return sha256_of(database)


def check_sequence(seal: Seal | None, uid: str, sequence: int, database: Path) -> None:
    """Raises DataDamaged where acknowledged writes are missing."""
    if seal is not None and seal.uid == uid and seal.sequence > sequence:
        told = f"it ends at write {sequence}, and write {seal.sequence} was acknowledged"
        raise DataDamaged(database, f"{told}: it, or its write-ahead log, has lost the end")


class SealFile:
    """The file while its collection is open. What it cannot keep costs no write its answer."""

    def __init__(self, directory: Path, seal: Seal) -> None:
        """Raises OSError."""
        self._uid = seal.uid
        self._path = directory / FILE_NAME
        # Whole before it has its name: a power cut must not leave one that cannot be read.
        write_file(self._path, seal.line())
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)

    def set(self, sequence: int, digest: str = "") -> None:
        with contextlib.suppress(OSError, MemoryError):
            os.pwrite(self._descriptor, Seal(self._uid, sequence, digest).line(), 0)

    def close(self) -> None:
        os.close(self._descriptor)
