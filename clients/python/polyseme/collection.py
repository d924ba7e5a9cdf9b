"""Collections: named sets of documents and their vectors."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from polyseme import methods
from polyseme.errors import invalid
from polyseme.plans import Emit, Plan, call
from polyseme.retry import Budget
from polyseme.v1 import collection_pb2
from polyseme.vectors import (
    Fingerprint,
    Pooling,
    Truncation,
    check_fields,
    choice,
    fingerprint_from,
    pooling_name,
    pooling_number,
    truncation_name,
    truncation_number,
)

Metric = Literal["cosine", "dot"]
State = Literal["ready", "read only", "damaged"]
_METRIC = {"cosine": collection_pb2.METRIC_COSINE, "dot": collection_pb2.METRIC_DOT}
_STATE: dict[int, State] = {
    collection_pb2.COLLECTION_STATE_READY: "ready",
    collection_pb2.COLLECTION_STATE_READ_ONLY: "read only",
    collection_pb2.COLLECTION_STATE_DAMAGED: "damaged",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerVectors:
    """The server makes the vectors, from the documents' texts."""

    pooling: Pooling | None = None  # default: the model's own
    dimensions: int = 0  # the first so many; 0 keeps all
    document_prompt: str = ""  # put in front of documents
    query_prompt: str = ""  # put in front of queries
    truncation: Truncation | None = None  # default: windows, nothing is lost


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnVectors:
    """The caller brings the vectors."""

    dimensions: int
    fingerprint: str = ""  # the combined hash that they must carry; "" accepts any


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionStatistics:
    """What a collection holds."""

    documents: int
    sequence: int  # of the last durable write
    dimensions: int
    disk_bytes: int
    segments: int
    tombstones: int  # deleted, but still in a segment
    buffered: int  # not yet in a segment; searched exactly
    index_kind: str
    building: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A collection as it was when the server answered."""

    name: str
    description: str
    vectors: ServerVectors | OwnVectors
    metric: Metric
    fingerprint: Fingerprint | None  # what made the vectors; None for own ones
    etag: str  # give it back to change only what you saw
    create_time: datetime
    statistics: CollectionStatistics
    state: State
    state_reason: str

    @property
    def vectors_fingerprint(self) -> str:
        """The combined hash that every vector of this collection carries; empty for any."""
        if isinstance(self.vectors, OwnVectors):
            return self.vectors.fingerprint
        return self.fingerprint.combined if self.fingerprint else ""


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A file of a snapshot."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A consistent copy of a collection on the server's disk."""

    name: str
    sequence: int
    documents: int
    bytes: int
    files: tuple[SnapshotFile, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a collection."""

    file: str
    problem: str
    repairable: bool  # `polyseme-server check --repair` mends it without losing a document


@dataclass(frozen=True, slots=True)
class Check:
    """What a check found; `ok` says whether all is well."""

    findings: tuple[Finding, ...]
    verified: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.findings


@dataclass(frozen=True, slots=True)
class Compaction:
    """A collection before and after it was compacted."""

    before: CollectionStatistics
    after: CollectionStatistics


def create(
    budget: Budget,
    name: str,
    *,
    description: str = "",
    vectors: ServerVectors | OwnVectors | None = None,
    metric: Metric | None = None,
) -> Plan[Collection]:
    """A new, empty collection."""
    check_fields(name=name, description=description)
    wanted = collection_pb2.Collection(
        name=name,
        description=description,
        metric=choice("metric", metric, _METRIC, collection_pb2.METRIC_UNSPECIFIED),
    )
    match vectors:
        case ServerVectors():
            _check_embedding(vectors)
            wanted.embedding.CopyFrom(_embedding_message(vectors))
        case OwnVectors(dimensions=dimensions, fingerprint=fingerprint):
            if dimensions < 1:
                raise invalid("vectors.dimensions", f"{dimensions} is below 1")
            check_fields(**{"vectors.dimensions": dimensions, "vectors.fingerprint": fingerprint})
            wanted.external.dimensions = dimensions
            wanted.external.fingerprint = fingerprint
    request = collection_pb2.CreateCollectionRequest(collection=wanted)
    answer = yield from call(budget, methods.CREATE_COLLECTION, request)
    return collection_from(answer.collection)


def get(budget: Budget, name: str) -> Plan[Collection]:
    """One collection."""
    check_fields(name=name)
    request = collection_pb2.GetCollectionRequest(name=name)
    answer = yield from call(budget, methods.GET_COLLECTION, request)
    return collection_from(answer.collection)


def each(budget: Budget, *, page_size: int = 0) -> Plan[None]:
    """Emit all collections, in the order of their names."""
    check_fields(page_size=page_size)
    request = collection_pb2.ListCollectionsRequest(page_size=page_size)
    while True:
        answer = yield from call(budget, methods.LIST_COLLECTIONS, request)
        for message in answer.collections:
            yield Emit(collection_from(message))
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token


def update(
    budget: Budget,
    name: str,
    *,
    description: str | None = None,
    query_prompt: str | None = None,
    etag: str = "",
) -> Plan[Collection]:
    """Change what may change; None leaves it."""
    check_fields(name=name, description=description, query_prompt=query_prompt, etag=etag)
    request = collection_pb2.UpdateCollectionRequest(name=name, etag=etag)
    if description is not None:
        request.description = description
    if query_prompt is not None:
        request.query_prompt = query_prompt
    answer = yield from call(budget, methods.UPDATE_COLLECTION, request)
    return collection_from(answer.collection)


def delete(budget: Budget, name: str, *, etag: str = "") -> Plan[None]:
    """Remove a collection with all it holds."""
    check_fields(name=name, etag=etag)
    request = collection_pb2.DeleteCollectionRequest(name=name, etag=etag)
    yield from call(budget, methods.DELETE_COLLECTION, request)


def snapshot(budget: Budget, name: str) -> Plan[Snapshot]:
    """Write a consistent copy on the server's disk."""
    check_fields(name=name)
    request = collection_pb2.CreateSnapshotRequest(collection=name)
    answer = (yield from call(budget, methods.CREATE_SNAPSHOT, request)).snapshot
    return Snapshot(
        name=answer.name,
        sequence=answer.sequence,
        documents=answer.documents,
        bytes=answer.bytes,
        files=tuple(SnapshotFile(f.path, f.sha256, f.bytes) for f in answer.files),
    )


def restore(budget: Budget, snapshot: str, name: str) -> Plan[Collection]:
    """Make the collection `name` out of a snapshot."""
    check_fields(snapshot=snapshot, name=name)
    request = collection_pb2.RestoreSnapshotRequest(snapshot=snapshot, collection=name)
    answer = yield from call(budget, methods.RESTORE_SNAPSHOT, request)
    return collection_from(answer.collection)


def check(budget: Budget, name: str) -> Plan[Check]:
    """Verify every file and count."""
    check_fields(name=name)
    request = collection_pb2.CheckCollectionRequest(name=name)
    answer = yield from call(budget, methods.CHECK_COLLECTION, request)
    findings = tuple(Finding(f.file, f.problem, f.repairable) for f in answer.findings)
    return Check(findings, tuple(answer.verified))


def compact(budget: Budget, name: str) -> Plan[Compaction]:
    """Rewrite the index without what was deleted."""
    check_fields(name=name)
    request = collection_pb2.CompactCollectionRequest(name=name)
    answer = yield from call(budget, methods.COMPACT_COLLECTION, request)
    return Compaction(_statistics_from(answer.before), _statistics_from(answer.after))


def _check_embedding(vectors: ServerVectors) -> None:
    check_fields(
        **{
            "vectors.dimensions": vectors.dimensions,
            "vectors.document_prompt": vectors.document_prompt,
            "vectors.query_prompt": vectors.query_prompt,
        }
    )


def collection_from(message: collection_pb2.Collection) -> Collection:
    """A collection as the server gave it."""
    fingerprint = message.fingerprint if message.HasField("fingerprint") else None
    return Collection(
        name=message.name,
        description=message.description,
        vectors=_vectors_from(message),
        metric="dot" if message.metric == collection_pb2.METRIC_DOT else "cosine",
        fingerprint=None if fingerprint is None else fingerprint_from(fingerprint),
        etag=message.etag,
        create_time=message.create_time.ToDatetime(tzinfo=UTC),
        statistics=_statistics_from(message.statistics),
        state=_STATE.get(message.state, "damaged"),
        state_reason=message.state_reason,
    )


def _embedding_message(vectors: ServerVectors) -> collection_pb2.EmbeddingConfig:
    return collection_pb2.EmbeddingConfig(
        pooling=pooling_number(vectors.pooling),
        dimensions=vectors.dimensions,
        document_prompt=vectors.document_prompt,
        query_prompt=vectors.query_prompt,
        truncation=truncation_number(vectors.truncation),
    )


def _vectors_from(message: collection_pb2.Collection) -> ServerVectors | OwnVectors:
    if message.HasField("external"):
        own = message.external
        return OwnVectors(dimensions=own.dimensions, fingerprint=own.fingerprint)
    made = message.embedding
    return ServerVectors(
        pooling=pooling_name(made.pooling),
        dimensions=made.dimensions,
        document_prompt=made.document_prompt,
        query_prompt=made.query_prompt,
        truncation=truncation_name(made.truncation),
    )


def _statistics_from(message: collection_pb2.CollectionStatistics) -> CollectionStatistics:
    return CollectionStatistics(
        documents=message.documents,
        sequence=message.sequence,
        dimensions=message.dimensions,
        disk_bytes=message.disk_bytes,
        segments=message.segments,
        tombstones=message.tombstones,
        buffered=message.buffered,
        index_kind=message.index_kind,
        building=message.building,
    )
