"""Documents as rows of SQLite: written, removed, read, and checked when read."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.documents import StoredDocument
from index.errors import DataDamaged
from index.fields import Field, fields_of

VECTOR_TYPE = np.dtype("<f4")
ROWS_A_QUERY = 500  # row numbers in one IN (...); SQLite's own limit is far above
IDS_KNOWN_MAX = 65_536  # rows whose ids a collection remembers: some 10 MiB

COLUMNS = "row, id, sequence, created_at, updated_at, crc, metadata, text"

# The checksum covers the text too, which takes time to read. Here the index of ids, which stores
# each id once more, must agree: a wrong bit in one of them makes the row missing.
IDS = """
SELECT row, id FROM documents AS d WHERE row IN ({rows}) AND EXISTS (
    SELECT 1 FROM documents AS i INDEXED BY sqlite_autoindex_documents_1
    WHERE i.id = d.id AND i.row = d.row
)
"""


@dataclass(frozen=True, slots=True)
class Record:
    """A row of `documents`."""

    row: int
    id: str
    sequence: int
    created_at: float
    updated_at: float
    metadata: str  # canonical JSON
    text: str

    @property
    def bytes(self) -> int:
        """Of UTF-8, text and metadata."""
        return _utf8_bytes(self.text) + _utf8_bytes(self.metadata)

    def crc(self) -> int:
        head = f"{self.row},{self.sequence},{self.created_at!r},{self.updated_at!r}"
        return zlib.crc32("\0".join((head, self.id, self.metadata, self.text)).encode())

    def stored(self, vector: NDArray[np.float32] | None = None) -> StoredDocument:
        return StoredDocument(
            id=self.id, text=self.text, metadata=json.loads(self.metadata), vector=vector,
            sequence=self.sequence, created_at=self.created_at, updated_at=self.updated_at,
        )  # fmt: skip


def insert(connection: sqlite3.Connection, record: Record, vector: NDArray[np.float32]) -> None:
    connection.execute(
        f"INSERT INTO documents ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.row, record.id, record.sequence, record.created_at, record.updated_at,
            record.crc(), record.metadata, record.text,
        ),
    )  # fmt: skip
    blob = vector.astype(VECTOR_TYPE).tobytes()
    connection.execute(
        "INSERT INTO vectors VALUES (?, ?, ?)", (record.row, vector_crc(record.row, blob), blob)
    )
    insert_derived(connection, record)


def insert_derived(connection: sqlite3.Connection, record: Record) -> None:
    """What filters and lexical search need to find `record`."""
    connection.execute("INSERT INTO lexical (rowid, text) VALUES (?, ?)", (record.row, record.text))
    connection.executemany("INSERT INTO fields VALUES (?, ?, ?, ?)", field_rows(record))


def remove(connection: sqlite3.Connection, record: Record) -> None:
    """Take `record` out of every table; it must be exactly as it is stored."""
    connection.execute(
        "INSERT INTO lexical (lexical, rowid, text) VALUES ('delete', ?, ?)",
        (record.row, record.text),
    )
    connection.executemany(
        "DELETE FROM fields WHERE path = ? AND kind = ? AND value = ? AND row = ?",
        field_rows(record),
    )
    connection.execute("DELETE FROM vectors WHERE row = ?", (record.row,))
    connection.execute("DELETE FROM documents WHERE row = ?", (record.row,))


def field_rows(record: Record) -> Iterator[tuple[str, str, int | float | str, int]]:
    fields: set[Field] = fields_of(json.loads(record.metadata))
    return ((f.path, f.kind, f.value, record.row) for f in fields)


def vector_crc(row: int, blob: bytes) -> int:
    return zlib.crc32(blob, row & 0xFFFFFFFF)


class Reader:
    """Reads documents on one connection, and refuses those whose checksum is wrong.

    known_ids: the ids of rows that were read before, which readers of committed rows may share:
    a row number is never used twice, so what is known of it stays true. None for who writes: what
    it reads may be rolled back.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        dimensions: int,
        known_ids: dict[int, str] | None = None,
    ) -> None:
        self.connection = connection
        self.path = path
        self.dimensions = dimensions
        self._known_ids = known_ids

    def sequence(self) -> int:
        found = self.connection.execute("SELECT value FROM meta WHERE key = 'sequence'").fetchone()
        if found is None or not isinstance(found[0], int):
            raise DataDamaged(self.path, "it has no sequence")
        return found[0]

    def by_id(self, id: str) -> Record | None:
        found = self.connection.execute(
            f"SELECT {COLUMNS} FROM documents WHERE id = ?", (id,)
        ).fetchone()
        if found is None:
            return None
        record = self._record(found)
        if record.id != id:
            raise DataDamaged(self.path, f"the index of ids leads from {id!r} to {record.id!r}")
        return record

    def select(self, condition: str, parameters: Sequence[object]) -> Iterator[Record]:
        """Records for `SELECT … FROM documents WHERE condition`."""
        cursor = self.connection.execute(
            f"SELECT {COLUMNS} FROM documents WHERE {condition}", tuple(parameters)
        )
        return map(self._record, cursor)

    def rows_where(self, condition: str, parameters: Sequence[object]) -> list[int]:
        """As `select`, but row numbers alone."""
        cursor = self.connection.execute(
            f"SELECT row FROM documents WHERE {condition}", tuple(parameters)
        )
        return [row for (row,) in cursor]

    def by_rows(
        self,
        rows: Iterable[int],
        holding: Callable[[Iterator[Record]], Iterator[Record]] = iter,
    ) -> dict[int, Record]:
        """The records with these row numbers. Raises DataDamaged when one is missing.

        holding: sees each as it is read, and may raise
        """
        found: dict[int, Record] = {}
        for chunk in _chunks(rows, self.path):
            selected = holding(self.select(f"row IN ({_marks(chunk)})", chunk))
            found.update({record.row: record for record in selected})
            self._check_found(chunk, found, "document")
        return found

    def rows(self, ids: Iterable[str]) -> dict[str, int]:
        """The rows of those ids that are there, without reading their texts. Raises DataDamaged
        where the index of ids leads astray."""
        found: dict[str, int] = {}
        for id in ids:
            row = self.connection.execute(
                "SELECT row FROM documents WHERE id = ?", (id,)
            ).fetchone()
            if row is not None:
                found[id] = row[0]
        named = self.ids(found.values())
        for id, row in found.items():
            if named[row] != id:
                raise DataDamaged(
                    self.path, f"the index of ids leads from {id!r} to {named[row]!r}"
                )
        return found

    def ids(self, rows: Iterable[int]) -> dict[int, str]:
        """The ids of these rows, without reading their texts. Raises DataDamaged likewise."""
        if self._known_ids is None:
            return self._read_ids(rows)
        found: dict[int, str] = {}
        unknown = []
        for row in rows:
            id = self._known_ids.get(row)
            if id is None:
                unknown.append(row)
            else:
                found[row] = id
        if unknown:
            read = self._read_ids(unknown)
            if len(self._known_ids) + len(read) > IDS_KNOWN_MAX:
                self._known_ids.clear()
            self._known_ids.update(islice(read.items(), IDS_KNOWN_MAX))
            found.update(read)
        return found

    def _read_ids(self, rows: Iterable[int]) -> dict[int, str]:
        found: dict[int, str] = {}
        for chunk in _chunks(rows, self.path):
            found.update(self.connection.execute(IDS.format(rows=_marks(chunk)), chunk))
            self._check_found(chunk, found, "document")
        return found

    def vectors(self, rows: Iterable[int]) -> dict[int, NDArray[np.float32]]:
        """The vectors of these rows. Raises DataDamaged likewise."""
        found: dict[int, NDArray[np.float32]] = {}
        for chunk in _chunks(rows, self.path):
            found.update(self.vectors_where(f"row IN ({_marks(chunk)})", chunk))
            self._check_found(chunk, found, "vector")
        return found

    def vector_blocks(self, rows: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """The same, in the order of `rows`, some hundred at a time: (n, dimensions)."""
        for chunk in _chunks(rows, self.path):
            found = self.vectors(chunk)
            yield np.stack([found[row] for row in chunk])

    def _check_found(self, rows: Sequence[int], found: Mapping[int, object], what: str) -> None:
        for row in rows:
            if row not in found:
                raise DataDamaged(self.path, f"the {what} of row {row} is missing")

    def vectors_where(
        self, condition: str, parameters: Sequence[object]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        cursor = self.connection.execute(
            f"SELECT row, crc, vector FROM vectors WHERE {condition}", tuple(parameters)
        )
        for row, crc, blob in cursor:
            yield row, self._vector(row, crc, blob)

    def numbers(self, select: str, parameters: Sequence[object]) -> NDArray[np.int64]:
        """The column `n` of a SELECT, in its order. Raises DataDamaged for what is no whole number.

        As one string: thousands of rows of one number each would be thousands of objects.
        """
        [found] = self.connection.execute(
            f"SELECT group_concat(n) FROM ({select})", tuple(parameters)
        ).fetchone()
        source = found or ""
        try:
            numbers = np.fromstring(source, np.int64, sep=",")
        except ValueError:
            numbers = np.empty(0, np.int64)
        if len(numbers) < source.count(",") + bool(source):
            raise DataDamaged(self.path, "what should be the number of a row is none")
        return numbers

    def all_rows(self) -> NDArray[np.int64]:
        """Every document's row number, rising."""
        found = [row for (row,) in self.connection.execute("SELECT row FROM documents")]
        if not all(isinstance(row, int) for row in found) or len(set(found)) < len(found):
            raise DataDamaged(self.path, "its row numbers are not in order")
        return np.sort(np.array(found, np.int64))

    def _record(self, columns: tuple[object, ...]) -> Record:
        row, id, sequence, created_at, updated_at, crc, metadata, text = columns
        try:
            record = Record(row, id, sequence, created_at, updated_at, metadata, text)  # type: ignore[arg-type]  # the checksum says whether they are what was stored
            right = record.crc() == crc
        except (TypeError, UnicodeEncodeError):
            right = False
        if not right:
            raise DataDamaged(self.path, f"the checksum of document {id!r} is wrong")
        return record

    def _vector(self, row: int, crc: int, blob: object) -> NDArray[np.float32]:
        size = self.dimensions * VECTOR_TYPE.itemsize
        if not isinstance(blob, bytes) or len(blob) != size or vector_crc(row, blob) != crc:
            raise DataDamaged(self.path, f"the checksum of the vector in row {row} is wrong")
        return np.frombuffer(blob, dtype=VECTOR_TYPE)


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _chunks(rows: Iterable[int | None], path: Path) -> Iterator[list[int]]:
    """Raises DataDamaged where an index of the database gave something else than a row."""
    remaining = iter(rows)
    while chunk := list(islice(remaining, ROWS_A_QUERY)):
        whole = [int(row) for row in chunk if row is not None]
        if len(whole) < len(chunk):
            raise DataDamaged(path, "an index names a document that has no row")
        yield whole


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
