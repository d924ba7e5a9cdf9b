"""Making a damaged collection whole again, from what can still be read of it."""

from __future__ import annotations

import contextlib
import logging
import secrets
import sqlite3
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from index import database
from index.checking import Part
from index.errors import DataDamaged
from index.files import sync_directory, translated
from index.records import Reader, Record, insert, insert_derived, remove
from index.seal import Seal, read_seal
from index.spec import CollectionSpec

log = logging.getLogger(__name__)

NEW_NAME = "documents.sqlite3.repaired"
SPEC_COPY_NAME = "collection.json"  # read only when the database cannot say what it was


@dataclass(slots=True)
class Repair:
    """What a repair did."""

    kept_documents: int = 0
    lost: list[str] = field(default_factory=list)  # ids, or row numbers where these say more
    lost_writes: range = range(0)  # sequences of acknowledged writes that no file knows any more
    salvaged: bool = False  # the database was written anew


def mend(directory: Path, spec: CollectionSpec, damaged: Collection[Part]) -> Repair:
    """Make the database in `directory`, which nobody has open, whole again.

    Raises DiskFull, StorageFailed; then it is as it was.
    """
    path = directory / database.FILE_NAME
    with translated(path), database.translated(path):
        if Part.DERIVED in damaged and Part.DATABASE not in damaged:
            try:
                rebuild_derived(path, spec)
            except (DataDamaged, *database.ERRORS) as error:
                log.warning("%s: %s; its documents are copied into a new database", path, error)
                damaged = [Part.DATABASE]
        if Part.DATABASE not in damaged:
            return Repair()
        fresh = directory / f"{database.FILE_NAME}.tmp"
        fresh.unlink(missing_ok=True)
        repair = salvage(path, fresh, spec, read_seal(directory))
        put_in_place(directory, fresh)
        return repair


def rebuild_derived(path: Path, spec: CollectionSpec) -> None:
    """Make words and filter values again from the documents, in one transaction."""
    connection = database.connect(path, writer=True)
    reader = Reader(connection, path, spec.dimensions)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM fields")
        connection.execute("DROP TABLE lexical")
        connection.execute(database.LEXICAL_TABLE)
        for record in reader.select("1 ORDER BY row", ()):
            insert_derived(connection, record)
        connection.execute("COMMIT")
    finally:
        connection.close()  # which rolls back what was not committed


def salvage(path: Path, target: Path, spec: CollectionSpec, seal: Seal | None = None) -> Repair:
    """Write every document of `path` that is whole into a new database `target`.

    Rows are read one at a time in both directions and by every index, because a damaged page
    ends a scan; a row counts only if its checksums are right.
    """
    repair = Repair(salvaged=True)
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None
    )
    try:
        meta = _readable_meta(connection)
        reader = Reader(connection, path, spec.dimensions)
        rows = sorted(set(_all_rows(connection)))
        highest = max([*rows, int(meta.get("next_row", 1)) - 1, 0])
        values: dict[str, object] = {
            "uid": secrets.token_hex(16),
            "spec": spec.to_json(),
            "created_at": meta.get("created_at", time.time()),
            "next_row": highest + 1,
            "sequence": 0,
        }
        database.create(target, values)
        sequence = int(meta.get("sequence", 0))
        if seal is not None and seal.uid != _readable_uid(connection, default=seal.uid):
            seal = None  # another database's; it says nothing of this one
        if seal is not None and seal.sequence > sequence:
            if "sequence" in meta:
                repair.lost_writes = range(sequence + 1, seal.sequence + 1)
            sequence = seal.sequence  # which never goes back
        _copy_rows(reader, rows, target, repair, sequence)
    finally:
        with contextlib.suppress(*database.ERRORS):
            connection.close()
    return repair


def _copy_rows(
    reader: Reader, rows: list[int], target: Path, repair: Repair, sequence: int
) -> None:
    """rows: rising, so that the newest version of a document comes last"""
    copy = database.connect(target, writer=True)
    copied = Reader(copy, target, reader.dimensions)
    try:
        copy.execute("BEGIN IMMEDIATE")
        for row in rows:
            record = _whole(reader, row)
            if record is None:
                repair.lost.append(_name(reader, row))
                continue
            # Where the index of ids was damaged, a write did not find the version before it.
            older = copied.by_id(record.id)
            if older is not None:
                remove(copy, older)
                repair.lost.append(f"row {older.row}, an older version of {older.id}")
                repair.kept_documents -= 1
            insert(copy, record, reader.vectors([row])[row])
            sequence = max(sequence, record.sequence)
            repair.kept_documents += 1
        copy.execute("UPDATE meta SET value = ? WHERE key = 'sequence'", (sequence,))
        copy.execute("COMMIT")
        copy.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        copy.close()


def _whole(reader: Reader, row: int) -> Record | None:
    """The record, if it and its vector can be read and their checksums are right."""
    try:
        reader.vectors([row])
        return reader.by_rows([row])[row]
    except (DataDamaged, *database.ERRORS):
        return None


def _name(reader: Reader, row: int) -> str:
    try:
        return reader.ids([row])[row]
    except (DataDamaged, *database.ERRORS):
        return f"row {row}"


def _all_rows(connection: sqlite3.Connection) -> Iterator[int]:
    """Row numbers, from every b-tree that has them, as far as each can be walked."""
    for sql in (
        "SELECT row FROM documents NOT INDEXED ORDER BY row",
        "SELECT row FROM documents NOT INDEXED ORDER BY row DESC",
        "SELECT row FROM documents INDEXED BY sqlite_autoindex_documents_1",
        "SELECT row FROM vectors ORDER BY row",
        "SELECT row FROM vectors ORDER BY row DESC",
    ):
        try:
            for (row,) in connection.execute(sql):
                if isinstance(row, int):
                    yield row
        except database.ERRORS:
            continue


def _readable_meta(connection: sqlite3.Connection) -> dict[str, float]:
    try:
        found = connection.execute("SELECT key, value FROM meta").fetchall()
    except database.ERRORS:
        return {}
    return {key: value for key, value in found if isinstance(value, int | float)}


def _readable_uid(connection: sqlite3.Connection, *, default: str) -> str:
    try:
        [uid] = connection.execute("SELECT value FROM meta WHERE key = 'uid'").fetchone() or [None]
    except database.ERRORS:
        return default
    return uid if isinstance(uid, str) else default


def put_in_place(directory: Path, fresh: Path) -> Path:
    """Make `fresh`, a complete database, the collection's; the damaged files are kept aside.

    The old database goes first. Whenever this is interrupted, `finish` can complete it.
    """
    new = directory / NEW_NAME
    fresh.rename(new)
    sync_directory(directory)
    aside = directory / f"damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    aside.mkdir(exist_ok=True)
    path = directory / database.FILE_NAME
    if path.exists():
        path.rename(aside / path.name)
        sync_directory(directory)
    finish(directory, aside)
    return aside


def finish(directory: Path, aside: Path | None = None) -> None:
    """Complete a replacement that was interrupted; nothing if there was none."""
    new, path = directory / NEW_NAME, directory / database.FILE_NAME
    if path.exists() or not new.exists():
        return
    # An old write-ahead log would be replayed into the new database.
    for suffix in ("-wal", "-shm"):
        old = path.with_name(path.name + suffix)
        if old.exists():
            old.rename((aside or directory) / (old.name if aside else f"{old.name}.damaged"))
    sync_directory(directory)
    new.rename(path)
    sync_directory(directory)


def spec_of(directory: Path) -> CollectionSpec:
    """From the copy beside the database. Raises DataDamaged."""
    path = directory / SPEC_COPY_NAME
    try:
        return CollectionSpec.from_json(path.read_text())
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataDamaged(path, f"what the collection was cannot be read: {error}") from error
