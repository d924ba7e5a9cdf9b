"""A collection: documents that can be written, read and searched, by many threads at once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.changes import Change, Delete, Once, Purge, Upsert, answered
from index.checking import Finding
from index.dense import Ranked, nearest_to_each
from index.documents import (
    Document,
    Page,
    Query,
    SearchMode,
    SearchResult,
    StoredDocument,
    WriteMode,
    Written,
)
from index.engine import Engine
from index.errors import FingerprintMismatch
from index.fields import check_text
from index.filter import Filter, check_filter
from index.filter_sql import Parameters, rows_sql
from index.generation import Generation
from index.paging import page_after, token_after
from index.room import Room, first_page, vector_bytes
from index.searching import Search
from index.settings import StoreSettings
from index.snapshots import Snapshot, take
from index.spec import JSON, CollectionSpec
from index.statistics import Statistics
from index.validation import (
    check_count,
    check_ids,
    check_query,
    prepare_documents,
    prepare_vectors,
)

REQUEST_ID_BYTES_MAX = 256  # UTF-8

# `list` is a method of Collection, so its annotations cannot use the name.
Results = list[SearchResult]
Vectors = list[NDArray[np.float32] | None]
Findings = list[Finding]


class State(StrEnum):
    READY = "ready"
    READ_ONLY = "read_only"


class Collection:
    """Thread-safe: writes go one after another, reads beside them, each on one generation."""

    def __init__(self, directory: Path, settings: StoreSettings) -> None:
        """Open what is in `directory`. Raises DataDamaged, FormatTooNew or StorageFailed."""
        self.directory = directory
        self._settings = settings
        self._engine = Engine(directory, settings)
        self.created_at = self._engine.created_at  # seconds since 1970, UTC

    # What it is

    @property
    def spec(self) -> CollectionSpec:
        return self._engine.spec

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def etag(self) -> str:
        """Changes whenever the specification changes."""
        return hashlib.sha256(self.spec.to_json().encode()).hexdigest()[:16]

    @property
    def sequence(self) -> int:
        """Of the last durable write."""
        return self._engine.current.sequence

    @property
    def documents_count(self) -> int:
        return self._engine.current.live

    @property
    def reason(self) -> str:
        """Why it is read-only; empty if it is not."""
        return self._engine.reason

    @property
    def state(self) -> State:
        return State.READ_ONLY if self.reason else State.READY

    def check_fingerprint(self, hash: str, fingerprint: Mapping[str, JSON]) -> None:
        """Raises FingerprintMismatch when vectors of that model do not belong here."""
        expected = self.spec.fingerprint_hash
        if not expected or hash == expected:
            return
        keys = sorted(self.spec.fingerprint.keys() | fingerprint.keys())
        differences = [
            f"{key}: {fingerprint.get(key)!r} is not {self.spec.fingerprint.get(key)!r}"
            for key in keys
            if fingerprint.get(key) != self.spec.fingerprint.get(key)
        ]
        raise FingerprintMismatch(self.name, hash, expected, differences)

    def update_spec(self, spec: CollectionSpec) -> None:
        """For `Store.update`: store another description or embedding."""
        self._engine.update_spec(spec)

    # Writing

    def upsert(
        self,
        documents: Sequence[Document],
        *,
        request_id: str = "",
        digest: bytes = b"",
        mode: WriteMode = WriteMode.UPSERT,
    ) -> Written:
        """Write all of them or none; durable and visible on return.

        digest: what tells this request from another with the same `request_id`. Without it, all
        that is in `documents` counts, the vectors included; give one (a hash of what the caller
        sent) where vectors are computed and may differ in their last bits.
        """
        prepared = prepare_documents(documents, self.spec, self._settings)
        return self._write(Upsert(prepared, mode), request_id, digest)

    def delete(self, ids: Sequence[str], *, request_id: str = "") -> Written:
        """Remove those that are there."""
        check_ids(ids, self._settings)
        return self._write(Delete(tuple(ids)), request_id, b"")

    def purge(self, filter: Filter, *, request_id: str = "", limit: int = 0) -> Written:
        """Remove what passes `filter`, at most `limit` (0: the setting's), by rising id."""
        check_filter(filter, self._settings)
        limit = limit or self._settings.purge_documents_max
        check_count(limit, "limit", self._settings.purge_documents_max)
        return self._write(Purge(filter, limit), request_id, b"")

    def replay(self, request_id: str, digest: bytes) -> Written | None:
        """What this request was answered before, so that its work need not be done again."""
        with self._engine.view() as view:
            return answered(view.reader, request_id, digest)

    def _write(self, change: Change, request_id: str, digest: bytes) -> Written:
        if not request_id:
            return self._engine.write(change)
        check_text(request_id, "request_id", REQUEST_ID_BYTES_MAX)
        once = Once(change, request_id, digest or change.digest(), self._settings)
        return self._engine.write(once)

    # Reading

    def get(self, ids: Sequence[str], *, with_vectors: bool = True) -> list[StoredDocument | None]:
        """The documents in the order of `ids`; None for one that is not there.

        Raises AnswerTooLarge.
        """
        check_ids(ids, self._settings)
        room = Room(self._settings.answer_bytes_max)
        with self._engine.view() as view:
            found = (record for id in ids if (record := view.reader.by_id(id)) is not None)
            records = {record.id: record for record in room.holding(found)}
            vectors: Mapping[int, NDArray[np.float32]] = {}
            if with_vectors:
                room.take_vectors(sum(id in records for id in ids), self.spec.dimensions)
                vectors = view.reader.vectors(record.row for record in records.values())
        stored = {id: record.stored(vectors.get(record.row)) for id, record in records.items()}
        return [stored.get(id) for id in ids]

    def vectors(self, ids: Sequence[str]) -> Vectors:
        """The documents' vectors alone, in the order of `ids`; None for one that is not there."""
        check_ids(ids, self._settings)
        with self._engine.view() as view:
            rows = view.reader.rows(ids)
            found = view.reader.vectors(rows.values())
        return [found[rows[id]] if id in rows else None for id in ids]

    def list(
        self,
        *,
        page_size: int = 100,
        page_token: str = "",
        filter: Filter | None = None,
        with_vectors: bool = False,
    ) -> Page:
        """Documents by rising id. A page begins after the last id of the one before, so writes
        between pages neither repeat nor hide documents that stay. It is shorter than asked for
        where it would have more than `page_bytes_max`."""
        check_count(page_size, "page_size", self._settings.page_documents_max)
        after, condition = "", ""
        parameters: Parameters = []
        if filter is not None:
            check_filter(filter, self._settings)
            sql, parameters = rows_sql(filter)
            # The plus keeps SQLite from sorting all that pass, for each page anew.
            condition = f" AND +row IN ({sql})"
        if page_token:
            after = page_after(page_token, filter, self._settings)
        with self._engine.view() as view:
            found, more = first_page(
                view.reader.select(
                    f"id > ?{condition} ORDER BY id LIMIT ?", (after, *parameters, page_size + 1)
                ),
                page_size,
                self._settings.page_bytes_max,
                vector_bytes(self.spec.dimensions) if with_vectors else 0,
            )
            rows = [record.row for record in found]
            vectors = view.reader.vectors(rows) if with_vectors else {}
        documents = tuple(record.stored(vectors.get(record.row)) for record in found)
        return Page(
            documents=documents,
            next_page_token=token_after(documents[-1].id, filter) if more else "",
        )

    def count(self, filter: Filter | None = None) -> int:
        if filter is None:
            return self.documents_count
        check_filter(filter, self._settings)
        sql, parameters = rows_sql(filter)
        with self._engine.view() as view:
            counted = view.reader.connection.execute(f"SELECT count(*) FROM ({sql})", parameters)
            return int(counted.fetchone()[0])

    # Searching

    def search(self, query: Query) -> SearchResult:
        """Hits by falling score, ties by rising id.

        Raises InvalidInput, SequenceNotReached, AnswerTooLarge.
        """
        return self.search_batch([query])[0]

    def search_batch(self, queries: Sequence[Query]) -> Results:
        """Each query's answer, all on the same generation; quicker than one by one."""
        check_count(len(queries), "queries", self._settings.batch_queries_max)
        start = time.perf_counter()
        for query in queries:
            check_query(query, self._settings)
        vectors = self._query_vectors(queries)
        newest = max(query.min_sequence for query in queries)
        self._engine.wait(newest)
        with self._engine.view() as view:
            ranked = self._together(view.generation, queries, vectors)
            ids = view.reader.ids({row for rows, _ in ranked.values() for row in rows.tolist()})
            room = Room(self._settings.answer_bytes_max)
            results = [
                Search(view, query, vectors.get(i), self._settings, room).run(
                    ranked.get(i), ids if i in ranked else None
                )
                for i, query in enumerate(queries)
            ]
        search_s = time.perf_counter() - start
        return [replace(result, search_s=search_s) for result in results]

    def _query_vectors(self, queries: Sequence[Query]) -> dict[int, NDArray[np.float32]]:
        given = {
            i: query.vector
            for i, query in enumerate(queries)
            if query.vector is not None and query.mode is not SearchMode.LEXICAL
        }
        where = ["vector" if len(queries) == 1 else f"queries[{i}].vector" for i in given]
        prepared = prepare_vectors(list(given.values()), where, self.spec)
        return dict(zip(given, prepared, strict=True))

    def _together(
        self,
        generation: Generation,
        queries: Sequence[Query],
        vectors: Mapping[int, NDArray[np.float32]],
    ) -> dict[int, Ranked]:
        """The dense answers of plain queries with the same k, found by one call to FAISS."""
        plain: dict[int, list[int]] = {}
        for i, query in enumerate(queries):
            if query.mode is SearchMode.DENSE and not query.exact and query.filter is None:
                plain.setdefault(query.k, []).append(i)
        found: dict[int, Ranked] = {}
        for k, members in plain.items():
            stacked = np.stack([vectors[i] for i in members])
            answers = nearest_to_each(generation, stacked, k, self._settings)
            found.update(zip(members, answers, strict=True))
        return found

    # Maintenance

    def wait_for_builds(self) -> None:
        """Until no segment is being built; for measurements and tests."""
        self._engine.wait_for_builds()

    def compact(self) -> None:
        """Merge all segments into one, drop what was deleted, shorten the write-ahead log.

        Reads and writes go on meanwhile. Raises DiskFull, StorageFailed.
        """
        self._engine.compact()

    def check(self) -> Findings:
        """Read everything and tell what is damaged; `Store.repair` mends it.

        It takes as long as reading all files; writes wait for a part of it. A damaged database
        makes the collection read-only.
        """
        return self._engine.check()

    def statistics(self) -> Statistics:
        return self._engine.statistics()

    def snapshot(self, directory: Path) -> Snapshot:
        """Copy the collection, as it is now, into the new `directory`. Writes go on meanwhile.

        Raises InvalidInput when the directory exists, DiskFull, StorageFailed.
        """
        with self._engine.view() as view:
            return take(view.reader.connection, self.name, directory)

    def close(self, *, sealed: bool = True) -> None:
        """Wait for the write in progress; running reads end as they please.

        sealed: remember what the files hold; not worth the time for what will be removed
        """
        self._engine.close(sealed=sealed)
