"""What a write does inside its transaction: upsert, delete, purge, and remembering request ids."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from index.documents import WriteMode, Written
from index.errors import DocumentExists, DocumentNotFound, RequestIdReused
from index.fields import canonical_json
from index.filter import Filter
from index.filter_sql import rows_sql
from index.records import Reader, Record, insert, remove
from index.settings import StoreSettings


@dataclass(slots=True)
class Transaction:
    """A transaction in progress: the database as it will be, and what memory must learn.

    Each change that alters something takes the next sequence number.
    """

    reader: Reader
    sequence: int
    next_row: int
    added_rows: list[int] = field(default_factory=list)
    added_vectors: list[NDArray[np.float32]] = field(default_factory=list)
    removed_rows: list[int] = field(default_factory=list)

    def add(self, record: Record, vector: NDArray[np.float32]) -> None:
        insert(self.reader.connection, record, vector)
        self.added_rows.append(record.row)
        self.added_vectors.append(vector)
        self.next_row = record.row + 1

    def remove(self, record: Record) -> None:
        remove(self.reader.connection, record)
        self.removed_rows.append(record.row)

    def mark(self) -> Transaction:
        """A copy to come back to with `rewind`."""
        return replace(
            self, added_rows=[], added_vectors=[], removed_rows=[],
        )  # fmt: skip

    def rewind(self, mark: Transaction, added: int, removed: int) -> None:
        self.sequence, self.next_row = mark.sequence, mark.next_row
        del self.added_rows[added:], self.added_vectors[added:], self.removed_rows[removed:]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document that was checked: its metadata as JSON, its vector as it is stored."""

    id: str
    text: str
    metadata: str
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Upsert:
    documents: Sequence[Prepared]
    mode: WriteMode

    def digest(self) -> bytes:
        hashed = hashlib.sha256(b"upsert" + self.mode.encode())
        for document in self.documents:
            parts = (document.id.encode(), document.text.encode(), document.metadata.encode())
            for part in (*parts, document.vector.tobytes()):
                hashed.update(len(part).to_bytes(8, "little") + part)
        return hashed.digest()

    def apply(self, transaction: Transaction) -> Written:
        """Raises DocumentExists or DocumentNotFound where the mode forbids the write."""
        sequence = transaction.sequence + 1
        inserted = updated = 0
        now = time.time()
        for document in self.documents:
            old = transaction.reader.by_id(document.id)
            self._check_mode(document.id, exists=old is not None)
            if old is not None:
                transaction.remove(old)
            created = now if old is None else old.created_at
            record = Record(
                transaction.next_row, document.id, sequence, created, now,
                document.metadata, document.text,
            )  # fmt: skip
            transaction.add(record, document.vector)
            inserted += old is None
            updated += old is not None
        transaction.sequence = sequence
        return Written(sequence=sequence, inserted=inserted, updated=updated)

    def _check_mode(self, id: str, *, exists: bool) -> None:
        if exists and self.mode is WriteMode.INSERT:
            raise DocumentExists(id)
        if not exists and self.mode is WriteMode.UPDATE:
            raise DocumentNotFound(id)


@dataclass(frozen=True, slots=True)
class Delete:
    ids: Sequence[str]

    def digest(self) -> bytes:
        return hashlib.sha256(b"delete" + canonical_json(list(self.ids)).encode()).digest()

    def apply(self, transaction: Transaction) -> Written:
        """Ids that are not there are passed over: deleting twice is no error."""
        found = (transaction.reader.by_id(id) for id in dict.fromkeys(self.ids))
        return _remove_all(transaction, (record for record in found if record is not None))


@dataclass(frozen=True, slots=True)
class Purge:
    filter: Filter
    limit: int

    def digest(self) -> bytes:
        return hashlib.sha256(f"purge {self.limit} {self.filter!r}".encode()).digest()

    def apply(self, transaction: Transaction) -> Written:
        sql, parameters = rows_sql(self.filter)
        reader = transaction.reader
        rows = reader.rows_where(
            f"row IN ({sql}) ORDER BY id LIMIT ?", [*parameters, self.limit + 1]
        )
        records = (reader.by_rows([row])[row] for row in rows[: self.limit])
        return replace(_remove_all(transaction, records), more=len(rows) > self.limit)


Change = Upsert | Delete | Purge


def _remove_all(transaction: Transaction, records: Iterable[Record]) -> Written:
    """records: each is read when those before it are gone, so that one at a time is in memory"""
    deleted = 0
    for record in records:
        transaction.remove(record)
        deleted += 1
    transaction.sequence += bool(deleted)
    return Written(sequence=transaction.sequence, deleted=deleted)


@dataclass(frozen=True, slots=True)
class Once:
    """A change that is made once for its request id, however often it is asked for.

    digest: what tells another request with the same id from a retry.
    """

    change: Change
    request_id: str
    digest: bytes
    limits: StoreSettings

    def apply(self, transaction: Transaction) -> Written:
        """Raises RequestIdReused when the id was used for another content."""
        first = answered(transaction.reader, self.request_id, self.digest)
        if first is not None:
            return first
        written = self.change.apply(transaction)
        connection = transaction.reader.connection
        connection.execute(
            "INSERT INTO requests (request_id, digest, created_at, result) VALUES (?, ?, ?, ?)",
            (self.request_id, self.digest, time.time(), json.dumps(asdict(written))),
        )
        connection.execute(
            "DELETE FROM requests WHERE number <= (SELECT max(number) FROM requests) - ?"
            " OR created_at < ?",
            (self.limits.request_ids_max, time.time() - self.limits.request_id_age_s_max),
        )
        # The id must survive, even when the change found nothing to do.
        transaction.sequence = max(transaction.sequence, written.sequence)
        return written


def answered(reader: Reader, request_id: str, digest: bytes) -> Written | None:
    """The answer that this request got before; None for a new one. Raises RequestIdReused."""
    found = reader.connection.execute(
        "SELECT digest, result FROM requests WHERE request_id = ?", (request_id,)
    ).fetchone()
    if found is None:
        return None
    if found[0] != digest:
        raise RequestIdReused(request_id)
    return replace(Written(**json.loads(found[1])), replayed=True)
