"""A collection's state as a directory of files that can be carried away and restored.

    <snapshot>/documents.sqlite3  the database, complete (no write-ahead log)
    <snapshot>/SNAPSHOT           line 1: SHA-256 (hex) of the rest; the rest: JSON {"format",
                                  "name", "sequence", "created_at", "files": {name: {"bytes",
                                  "sha256"}}}

Segments are not part of it: they are made from the database again.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from index import database
from index.errors import DataDamaged, FormatTooNew, InvalidInput
from index.files import sha256_of, sync_directory, translated, write_file
from index.spec import CollectionSpec

MANIFEST_NAME = "SNAPSHOT"
FORMAT = 1
COPIED_PAGES = 4096  # at once: 32 MiB, after which other readers and the writer get a turn


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A finished snapshot. `sequence` is the last write that it holds."""

    path: Path
    sequence: int
    created_at: float  # seconds since 1970, UTC
    files: Mapping[str, SnapshotFile]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files.values())


def take(source: sqlite3.Connection, name: str, directory: Path) -> Snapshot:
    """Copy what `source` sees in its transaction into `directory`, which must not exist.

    The directory gets its name when everything in it is durable.
    """
    with translated(directory):
        if directory.exists():
            raise InvalidInput("directory", f"{directory} exists; a snapshot is never overwritten")
    temporary = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}.tmp")
    try:
        with translated(temporary), database.translated(temporary / database.FILE_NAME):
            for left in directory.parent.glob(f".{directory.name}.*.tmp"):
                shutil.rmtree(left)  # of a try that failed
            temporary.mkdir(parents=True)
            _copy(source, temporary / database.FILE_NAME)
            snapshot = _describe(source, name, temporary, directory)
            temporary.rename(directory)
            sync_directory(directory.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return snapshot


def verify(directory: Path) -> Snapshot:
    """Read every file of a snapshot. Raises DataDamaged, FormatTooNew."""
    path = directory / MANIFEST_NAME
    try:
        digest, _, source = path.read_bytes().partition(b"\n")
    except FileNotFoundError as error:
        raise DataDamaged(path, "it is missing: this is no snapshot") from error
    if hashlib.sha256(source).hexdigest().encode() != digest:
        raise DataDamaged(path, "its SHA-256 is wrong")
    body = json.loads(source)
    if body["format"] > FORMAT:
        raise FormatTooNew(path, body["format"], FORMAT)
    files = {name: SnapshotFile(**file) for name, file in body["files"].items()}
    for name, file in files.items():
        if not (directory / name).exists():
            raise DataDamaged(directory / name, "it is missing")
        if sha256_of(directory / name) != file.sha256:
            raise DataDamaged(directory / name, "its SHA-256 is wrong")
    return Snapshot(
        path=directory, sequence=body["sequence"], created_at=body["created_at"], files=files
    )


def restore(directory: Path, target: Path, name: str) -> CollectionSpec:
    """Copy a verified snapshot's database into the existing directory `target`.

    It gets another uid, so that no segment of its origin can be taken for its own, and `name`.
    """
    verify(directory)
    path = target / database.FILE_NAME
    with translated(path), database.translated(path):
        shutil.copyfile(directory / database.FILE_NAME, path)
        connection = database.connect(path, writer=True)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            meta = database.read_meta(connection, path)
            spec = replace(CollectionSpec.from_json(str(meta["spec"])), name=name)
            values = [(secrets.token_hex(16), "uid"), (spec.to_json(), "spec")]
            connection.executemany("UPDATE meta SET value = ? WHERE key = ?", values)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()
        _sync_file(path)
    return spec


def _copy(source: sqlite3.Connection, path: Path) -> None:
    target = sqlite3.connect(path, isolation_level=None)
    try:
        source.backup(target, pages=COPIED_PAGES)
        # A single file: whoever copies a snapshot need not know of write-ahead logs.
        target.execute("PRAGMA journal_mode = DELETE")
    finally:
        target.close()
    # SQLite says nothing where it cannot remove these, and whoever opens the file takes them for
    # a part of it.
    for suffix in ("-wal", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    _sync_file(path)


def _describe(source: sqlite3.Connection, name: str, temporary: Path, final: Path) -> Snapshot:
    path = temporary / database.FILE_NAME
    sequence = source.execute("SELECT value FROM meta WHERE key = 'sequence'").fetchone()[0]
    files = {path.name: SnapshotFile(path.stat().st_size, sha256_of(path))}
    snapshot = Snapshot(path=final, sequence=sequence, created_at=time.time(), files=files)
    body = {
        "format": FORMAT,
        "name": name,
        "sequence": sequence,
        "created_at": snapshot.created_at,
        "files": {name: asdict(file) for name, file in files.items()},
    }
    encoded = json.dumps(body, indent=1).encode()
    digest = hashlib.sha256(encoded).hexdigest().encode()
    write_file(temporary / MANIFEST_NAME, digest + b"\n" + encoded)
    return snapshot


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
