"""Bulk loads: any number of documents over a stream, resumable, in bounded memory."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from polyseme import methods
from polyseme.batches import NOTHING, Load
from polyseme.document import WRITE_MODES, DocumentLike, WriteMode, document_message
from polyseme.embedding import ITEM_OVERHEAD_BYTES, MESSAGE_OVERHEAD_BYTES, STREAM_FLIGHTS_MAX
from polyseme.errors import PolysemeError, from_status, invalid, renamed
from polyseme.plans import END, Flight, Plan, Pull, Tell, pipeline
from polyseme.retry import Budget
from polyseme.service import known_info
from polyseme.v1 import document_pb2
from polyseme.vectors import check_fields, choice


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a bulk load is: everything counted here is on the server's disk."""

    documents: int  # from the beginning, those before a resumption included
    batches: int
    sequence: int  # search with this `min_sequence` to see all of them
    resume: str  # give it to `write` with the same documents to go on from here


@dataclass(frozen=True, slots=True)
class _Run:
    """One bulk load, however often it is interrupted."""

    id: uuid.UUID
    documents: int = 0
    batches: int = 0

    def token(self) -> str:
        return f"{self.id}.{self.documents}.{self.batches}"

    @classmethod
    def parse(cls, token: str) -> _Run:
        try:
            run, documents, batches = token.split(".")
            return cls(uuid.UUID(run), int(documents), int(batches))
        except ValueError:
            raise invalid("resume", f"{token!r} is no token of an earlier write") from None


def write(
    budget: Budget,
    collection: str,
    *,
    mode: WriteMode = "upsert",
    batch_documents: int = 128,
    on_progress: Callable[[Progress], None] | None = None,
    resume: str = "",
) -> Plan[Progress]:
    """Pull documents and write them in batches, each all or none, answered in order.

    A batch's request id is made from the run and its content, so that a batch sent twice, by
    this call or by a later one with `resume`, is written once.
    """
    if batch_documents < 1:
        raise invalid("batch_documents", f"{batch_documents} is below 1")
    check_fields(collection=collection)
    run = _Run.parse(resume) if resume else _Run(uuid.uuid4())
    numbers = document_pb2.WRITE_MODE_UNSPECIFIED
    template = document_pb2.WriteStreamRequest(
        collection=collection, mode=choice("mode", mode, WRITE_MODES, numbers)
    )
    limits = (yield from known_info(budget)).limits
    limit = Load(
        min(batch_documents, limits.documents_max),
        limits.message_bytes_max - MESSAGE_OVERHEAD_BYTES,
        units=limits.call_tokens_max,
    )
    source = _Source(template, run, limit)
    log = _Log(run, on_progress)
    try:
        yield from source.skip(run.documents)
        yield from pipeline(
            budget, methods.WRITE_STREAM, source.next_flight, log.landed, STREAM_FLIGHTS_MAX
        )
    except PolysemeError as error:
        error.resume = log.progress.resume
        raise
    return log.progress


class _Source:
    """Cuts the caller's documents into batches."""

    def __init__(self, template: document_pb2.WriteStreamRequest, run: _Run, limit: Load) -> None:
        self._template = template
        self._run = run
        self._limit = limit
        self._count = 0  # documents pulled so far
        self._batches = run.batches
        self._over: document_pb2.Document | None = None  # did not fit the last batch

    def skip(self, documents: int) -> Plan[None]:
        """Pass over what an earlier run has written."""
        while self._count < documents:
            if (yield Pull()) is END:
                raise invalid(
                    "resume", f"{documents} documents were written, now there are {self._count}"
                )
            self._count += 1

    def next_flight(self) -> Plan[Flight | None]:
        batch: list[document_pb2.Document] = []
        ids: set[str] = set()
        total = NOTHING
        while True:
            document = self._over or (yield from self._pull())
            self._over = None
            if document is None:
                break
            load = _load(document)
            # The server wants different ids in a batch; the next version goes in the next one.
            if batch and (document.id in ids or not (total + load).fits(self._limit)):
                self._over = document
                break
            batch.append(document)
            ids.add(document.id)
            total += load
        return self._flight(batch, ids) if batch else None

    def _pull(self) -> Plan[document_pb2.Document | None]:
        item: DocumentLike | object = yield Pull()
        if item is END:
            return None
        self._count += 1
        return document_message(item, f"documents[{self._count - 1}]")  # type: ignore[arg-type]

    def _flight(self, batch: list[document_pb2.Document], ids: set[str]) -> Flight:
        request = document_pb2.WriteStreamRequest(documents=batch, tag=self._batches)
        request.MergeFrom(self._template)
        content = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
        request.request_id = str(uuid.uuid5(self._run.id, content))
        self._batches += 1
        start = self._count - (self._over is not None) - len(batch)
        return Flight(request, frozenset(ids), (start, len(batch)))


def _load(document: document_pb2.Document) -> Load:
    size = document.ByteSize()
    tokens = 0 if document.HasField("vector") else len(document.text.encode()) + 2
    return Load(1, size + ITEM_OVERHEAD_BYTES, units=tokens)


class _Log:
    """What is on the disk."""

    def __init__(self, run: _Run, on_progress: Callable[[Progress], None] | None) -> None:
        self.progress = Progress(run.documents, run.batches, 0, run.token())
        self._run = run
        self._on_progress = on_progress

    def landed(self, flight: Flight, answer: document_pb2.WriteStreamResponse) -> Plan[None]:
        start, count = flight.context
        if answer.HasField("error"):
            raise renamed(from_status(answer.error), {"documents": "documents"}, start)
        run = _Run(self._run.id, start + count, self.progress.batches + 1)
        self.progress = Progress(run.documents, run.batches, answer.durable_sequence, run.token())
        if self._on_progress is not None:
            yield Tell(self._on_progress, self.progress)
