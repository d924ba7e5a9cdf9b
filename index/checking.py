"""Reading everything of a collection to see whether it still is what was written."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from index import database
from index.documents import Written
from index.errors import DataDamaged
from index.records import Reader, field_rows

FINDINGS_MAX = 100  # of one kind; a file that is all wrong needs no longer list


class Part(StrEnum):
    """What is damaged, in falling order of what is lost with it."""

    DATABASE = "database"  # documents may be lost: repair saves what can be read
    DERIVED = "derived"  # filters or words: repair makes them again from the documents
    SEGMENT = "segment"  # a cache: it is rebuilt


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not what it should be; `path` is the file."""

    part: Part
    path: Path
    problem: str


def check_database(reader: Reader, path: Path) -> Iterator[Finding]:
    """What is wrong with the database that `reader` reads, in one transaction of its own."""
    for look in (_structure, _documents, _requests):
        problems = list(look(reader))
        yield from (Finding(Part.DATABASE, path, problem) for problem in problems)
        if problems:
            return  # what follows would stumble over the same damage
    for problem in _derived(reader):
        yield Finding(Part.DERIVED, path, problem)


def examine(reader: Reader, connection: sqlite3.Connection, path: Path) -> str:
    """Why a database that is not the one that was closed may only be read; empty if it is sound.

    Raises DataDamaged for damage by which documents would not be found, without a word.
    connection: the same as the reader's; it may write
    """
    for problem in _structure(reader):
        raise DataDamaged(path, problem)
    damaged = list(_documents(reader))
    unreadable = _unreadable(reader) if damaged else frozenset()
    for problem in _derived(reader, unreadable):
        raise DataDamaged(path, problem)
    if damaged:  # whoever reads such a document is told
        return f"{path} is damaged: {damaged[0]}"
    for finding in check_words(connection, path):
        raise DataDamaged(path, finding.problem)
    return ""


def _unreadable(reader: Reader) -> frozenset[int]:
    """Rows of documents whose checksum is wrong."""
    found = set()
    for row in _rows(reader.connection, "SELECT row FROM documents ORDER BY row"):
        try:
            reader.by_rows([row])
        except (DataDamaged, *database.ERRORS):
            found.add(row)
    return frozenset(found)


def check_words(connection: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    """Whether FTS5 has the words of the documents. It needs a connection that may write."""
    try:
        # Rank 1 makes it compare with the documents' texts too (sqlite.org/fts5.html, 6.4).
        connection.execute("INSERT INTO lexical (lexical, rank) VALUES ('integrity-check', 1)")
    except database.ERRORS as error:
        yield Finding(Part.DERIVED, path, f"the words of the documents are not in order: {error}")


def _structure(reader: Reader) -> Iterator[str]:
    try:
        for (line,) in reader.connection.execute(f"PRAGMA integrity_check({FINDINGS_MAX})"):
            if line != "ok":
                yield line
    except database.ERRORS as error:
        yield str(error)


def _documents(reader: Reader) -> Iterator[str]:
    """Rows whose checksum is wrong, and documents without a vector or the other way round."""
    connection = reader.connection
    for table, read in (("documents", reader.by_rows), ("vectors", reader.vectors)):
        for row in _rows(connection, f"SELECT row FROM {table} ORDER BY row"):
            try:
                read([row])
            except (DataDamaged, *database.ERRORS) as damage:
                yield str(damage)
    for one, other in (("documents", "vectors"), ("vectors", "documents")):
        for row in _rows(connection, f"SELECT row FROM {one} EXCEPT SELECT row FROM {other}"):
            yield f"row {row} is in {one} and not in {other}"


def _requests(reader: Reader) -> Iterator[str]:
    """Answers to earlier requests that cannot be read: a retry would be told of damage."""
    connection = reader.connection
    for number in _rows(connection, "SELECT number FROM requests ORDER BY number"):
        sql = "SELECT request_id, digest, result FROM requests WHERE number = ?"
        try:
            _, _, result = connection.execute(sql, (number,)).fetchone()
            Written(**json.loads(result))
        except (ValueError, TypeError, *database.ERRORS) as error:
            yield f"the answer to request {number} cannot be read: {error}"


def _derived(reader: Reader, unreadable: frozenset[int] = frozenset()) -> Iterator[str]:
    """Filter values that are missing or belong to nothing; of `unreadable` rows, any may be."""
    connection = reader.connection
    sound = 0
    rows = _rows(connection, "SELECT row FROM documents ORDER BY row") if unreadable else []
    readable = (reader.by_rows([row])[row] for row in rows if row not in unreadable)
    for record in readable if unreadable else reader.select("1 ORDER BY row", ()):
        for values in field_rows(record):
            found = connection.execute(
                "SELECT 1 FROM fields WHERE path = ? AND kind = ? AND value = ? AND row = ?", values
            ).fetchone()
            if found is None:
                yield f"{values[0]!r} of document {record.id!r} is missing from the filter values"
            sound += found is not None
    (count,) = connection.execute("SELECT count(*) FROM fields").fetchone()
    for row in unreadable:
        sql = "SELECT count(*) FROM fields WHERE row = ?"
        count -= connection.execute(sql, (row,)).fetchone()[0]
    if count != sound:
        yield f"{count - sound} filter values belong to no document"


def _rows(connection: sqlite3.Connection, sql: str) -> list[int]:
    return [row for (row,) in connection.execute(sql)]
