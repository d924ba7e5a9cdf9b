"""A collection: documents that can be written, read and searched, by many threads at once."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index import database
from index.builder import Builder
from index.changes import Change, Delete, Once, Purge, Upsert, answered
from index.checking import Finding, check_database, check_words
from index.checking import Part as Damage
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
from index.errors import DataDamaged, FingerprintMismatch, PageTokenInvalid, ReadOnly
from index.files import write_file
from index.filter import Filter, check_filter
from index.filter_sql import Parameters, rows_sql
from index.generation import Generation, Part
from index.reading import Generations, Readers, View
from index.records import Reader
from index.repairing import SPEC_COPY_NAME, finish
from index.searching import Search
from index.segments import Segments
from index.settings import StoreSettings
from index.snapshots import Snapshot, take
from index.spec import JSON, CollectionSpec
from index.statistics import SegmentStatistics, Statistics
from index.validation import (
    check_count,
    check_ids,
    check_query,
    prepare_documents,
    prepare_vectors,
)
from index.writer import Writer

log = logging.getLogger(__name__)

# `list` is a method of Collection, so its annotations cannot use the name.
Results = list[SearchResult]
Findings = list[Finding]


class State(StrEnum):
    READY = "ready"
    READ_ONLY = "read_only"


class Collection:
    """Thread-safe: writes go one after another, reads beside them, each on one generation."""

    def __init__(self, directory: Path, settings: StoreSettings) -> None:
        """Open what is in `directory`. Raises DataDamaged or FormatTooNew."""
        self.directory = directory
        self._path = directory / database.FILE_NAME
        self._settings = settings
        self.reason = ""  # why it is read-only
        finish(directory)
        with database.translated(self._path):
            connection = database.connect(self._path, writer=True)
            try:
                self._open(connection)
            except BaseException:
                connection.close()
                raise

    def _open(self, connection: sqlite3.Connection) -> None:
        meta = database.read_meta(connection, self._path)
        self.spec = _spec(str(meta["spec"]), self._path)
        self.created_at = float(meta["created_at"])
        self._writing = Reader(connection, self._path, self.spec.dimensions)
        self._segments = Segments(
            self.directory, str(meta["uid"]), self.spec.dimensions, self._settings
        )
        parts, problems = self._segments.load(self._writing.sequence())
        for problem in problems:
            log.warning("%s; its vectors are read from the database", problem)
        self._generations = Generations(self._load(parts))
        self._readers = Readers(self._path, self.spec.dimensions, self._settings.readers_max)
        self._writer = Writer(
            self._path,
            self._writing,
            int(meta["next_row"]),
            self._settings,
            current=lambda: self._generations.current,
            publish=self._generations.publish,
            reload=lambda: self._load(self._generations.current.segments),
        )
        self._builder = Builder(
            self._segments,
            self._settings,
            current=lambda: self._generations.current,
            swap=self._swap,
        )
        self._builder.poke()

    def _load(self, segments: Sequence[Part]) -> Generation:
        """A generation from the database, given segments that hold some of its rows."""
        rows = self._writing.all_rows()
        rest = rows
        sound = []
        for part in segments:
            alive = np.isin(part.rows, rest, assume_unique=True)
            rest = np.setdiff1d(rest, part.rows, assume_unique=True)
            sound.append(replace(part, alive=alive))
        found = self._writing.vectors(rest.tolist())
        vectors = np.empty((len(rest), self.spec.dimensions), np.float32)
        for i, row in enumerate(rest.tolist()):
            vectors[i] = found[row]
        return Generation.of(self._writing.sequence(), sound, rest, vectors)

    def _swap(self, change: Callable[[Generation], Generation]) -> None:
        with self._writer.lock:
            self._generations.publish(change(self._generations.current))

    # What it is

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
        return self._generations.current.sequence

    @property
    def documents_count(self) -> int:
        return self._generations.current.live

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
        """Store another description or embedding; the vectors' shape and origin stay."""
        if self.reason:
            raise ReadOnly(self.name, self.reason)
        with self._noticing_damage(), self._writer.lock, database.translated(self._path):
            self._writing.connection.execute(
                "UPDATE meta SET value = ? WHERE key = 'spec'", (spec.to_json(),)
            )
            self.spec = spec
        write_file(self.directory / SPEC_COPY_NAME, spec.to_json().encode())

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
        with self._view() as view:
            return answered(view.reader, request_id, digest)

    def _write(self, change: Upsert | Delete | Purge, request_id: str, digest: bytes) -> Written:
        if self.reason:
            raise ReadOnly(self.name, self.reason)
        wanted: Change | Once = change
        if request_id:
            wanted = Once(change, request_id, digest or change.digest(), self._settings)
        with self._noticing_damage():
            written = self._writer.write(wanted)
        self._builder.poke()
        return written

    # Reading

    def get(self, ids: Sequence[str], *, with_vectors: bool = True) -> list[StoredDocument | None]:
        """The documents in the order of `ids`; None for one that is not there."""
        check_ids(ids, self._settings)
        with self._view() as view:
            records = [view.reader.by_id(id) for id in ids]
            rows = [record.row for record in records if record is not None]
            vectors = view.reader.vectors(rows) if with_vectors else {}
        return [None if r is None else r.stored(vectors.get(r.row)) for r in records]

    def list(
        self,
        *,
        page_size: int = 100,
        page_token: str = "",
        filter: Filter | None = None,
        with_vectors: bool = False,
    ) -> Page:
        """Documents by rising id. A page begins after the last id of the one before, so writes
        between pages neither repeat nor hide documents that stay."""
        check_count(page_size, "page_size", self._settings.page_documents_max)
        after, condition = "", ""
        parameters: Parameters = []
        if filter is not None:
            check_filter(filter, self._settings)
            sql, parameters = rows_sql(filter)
            condition = f" AND row IN ({sql})"
        if page_token:
            after = _page_after(page_token, filter)
        with self._view() as view:
            found = list(
                view.reader.select(
                    f"id > ?{condition} ORDER BY id LIMIT ?", (after, *parameters, page_size + 1)
                )
            )
            rows = [record.row for record in found[:page_size]]
            vectors = view.reader.vectors(rows) if with_vectors else {}
        documents = tuple(record.stored(vectors.get(record.row)) for record in found[:page_size])
        more = len(found) > page_size
        return Page(
            documents=documents,
            next_page_token=_page_token(documents[-1].id, filter) if more else "",
        )

    def count(self, filter: Filter | None = None) -> int:
        if filter is None:
            return self.documents_count
        check_filter(filter, self._settings)
        sql, parameters = rows_sql(filter)
        with self._view() as view:
            counted = view.reader.connection.execute(f"SELECT count(*) FROM ({sql})", parameters)
            return int(counted.fetchone()[0])

    # Searching

    def search(self, query: Query) -> SearchResult:
        """Hits by falling score, ties by rising id. Raises InvalidInput, SequenceNotReached."""
        return self.search_batch([query])[0]

    def search_batch(self, queries: Sequence[Query]) -> Results:
        """Each query's answer, all on the same generation; quicker than one by one."""
        check_count(len(queries), "queries", self._settings.batch_queries_max)
        start = time.perf_counter()
        for query in queries:
            check_query(query, self._settings)
        vectors = self._query_vectors(queries)
        newest = max(query.min_sequence for query in queries)
        self._generations.wait(newest, self._settings.min_sequence_wait_s)
        with self._view() as view:
            ranked = self._together(view.generation, queries, vectors)
            results = [
                Search(view, query, vectors.get(i), self._settings).run(ranked.get(i))
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
        self._builder.wait()

    def compact(self) -> None:
        """Merge all segments into one, drop what was deleted, shorten the write-ahead log.

        Reads and writes go on meanwhile. Raises DiskFull, StorageFailed.
        """
        self._builder.merge_all()
        with self._noticing_damage(), self._writer.lock, database.translated(self._path):
            connection = self._writing.connection
            connection.execute("INSERT INTO lexical (lexical) VALUES ('optimize')")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def snapshot(self, directory: Path) -> Snapshot:
        """Copy the collection, as it is now, into the new `directory`. Writes go on meanwhile.

        Raises InvalidInput when the directory exists, DiskFull, StorageFailed.
        """
        with self._view() as view:
            return take(view.reader.connection, self.name, directory)

    def check(self) -> Findings:
        """Read everything and tell what is damaged; `Store.repair` mends it.

        It takes as long as reading all files; writes wait for a part of it. A damaged database
        makes the collection read-only.
        """
        with self._readers.view(self._generations) as view:
            findings = list(check_database(view.reader, self._path))
        if not any(finding.part is Damage.DATABASE for finding in findings):
            with self._writer.lock:
                findings += check_words(self._writing.connection, self._path)
        for damage in self._segments.damaged_files():
            findings.append(Finding(Damage.SEGMENT, damage.path, damage.reason))
        for finding in findings:
            if finding.part is Damage.DATABASE:
                self.reason = self.reason or f"{finding.path} is damaged: {finding.problem}"
        return findings

    def statistics(self) -> Statistics:
        generation = self._generations.current
        return Statistics(
            documents=generation.live,
            vectors=generation.live,
            buffer_vectors=generation.buffer.live,
            tombstones=sum(part.dead for part in generation.parts),
            segments=tuple(_segment_statistics(part) for part in generation.segments),
            disk_bytes=_disk_bytes(self.directory),
            building=self._builder.building,
            build_failure=self._builder.failure,
            sequence=generation.sequence,
        )

    # Ending

    def close(self) -> None:
        """Wait for the write in progress; running reads end as they please."""
        self._builder.close()
        self._writer.close()
        self._readers.close()

    @contextmanager
    def _view(self) -> Iterator[View]:
        with self._noticing_damage(), self._readers.view(self._generations) as view:
            yield view

    @contextmanager
    def _noticing_damage(self) -> Iterator[None]:
        """Damage found on the way makes the collection read-only: writing would spread it."""
        try:
            yield
        except DataDamaged as damage:
            self.reason = self.reason or str(damage)
            raise


def _segment_statistics(part: Part) -> SegmentStatistics:
    kind = "flat" if part.index is None else part.index.kind
    return SegmentStatistics(name=part.name, kind=kind, vectors=part.live, tombstones=part.dead)


def _disk_bytes(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue  # a segment that was just replaced
    return total


def _spec(source: str, path: Path) -> CollectionSpec:
    try:
        return CollectionSpec.from_json(source)
    except (ValueError, TypeError, KeyError) as error:
        raise DataDamaged(path, f"its specification cannot be read: {error}") from error


def _filter_hash(filter: Filter | None) -> str:
    return hashlib.sha256(repr(filter).encode()).hexdigest()[:16]


def _page_token(id: str, filter: Filter | None) -> str:
    source = json.dumps([id, _filter_hash(filter)])
    return base64.urlsafe_b64encode(source.encode()).decode()


def _page_after(token: str, filter: Filter | None) -> str:
    """The id after which a page begins. Raises PageTokenInvalid."""
    try:
        id, hashed = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, TypeError, binascii.Error) as error:
        raise PageTokenInvalid from error
    if not isinstance(id, str) or hashed != _filter_hash(filter):
        raise PageTokenInvalid
    return id
