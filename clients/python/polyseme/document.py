"""Documents: writing, reading, listing, counting."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from google.protobuf import struct_pb2
from numpy.typing import ArrayLike

from polyseme import collection as collection_
from polyseme import methods
from polyseme.batches import Load, pieces
from polyseme.embedding import ITEM_OVERHEAD_BYTES, MESSAGE_OVERHEAD_BYTES
from polyseme.errors import PolysemeError, invalid, renamed
from polyseme.filters import INTEGER_MAX, Filter
from polyseme.plans import Emit, Plan, call
from polyseme.retry import Budget
from polyseme.service import known_info
from polyseme.v1 import document_pb2
from polyseme.vectors import (
    Priority,
    Timing,
    check_fields,
    choice,
    priority_number,
    put_vector,
    timing_from,
    utf8_bytes,
    vector_array,
)

WriteMode = Literal["upsert", "insert", "update"]
WRITE_MODES = {
    "upsert": document_pb2.WRITE_MODE_UPSERT,
    "insert": document_pb2.WRITE_MODE_INSERT,
    "update": document_pb2.WRITE_MODE_UPDATE,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Document:
    """A document. The last three fields come from the server and are ignored in writes."""

    id: str  # unique in its collection, 1 to 512 bytes of UTF-8
    text: str = ""  # may be empty only with a vector
    metadata: Mapping[str, Any] = field(default_factory=dict)  # anything JSON; filters see it
    vector: ArrayLike | None = None  # the caller's own; None: the server embeds the text
    vector_fingerprint: str = ""  # of an own vector: must be the collection's
    sequence: int = 0
    create_time: datetime | None = None
    update_time: datetime | None = None


# What writes take: a Document, or the same as a dict.
DocumentLike: TypeAlias = Document | Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A write that is on the server's disk."""

    sequence: int  # of this write
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    replayed: bool = False  # an earlier call with this request id had already done it
    timing: Timing = field(default_factory=Timing)


_FIELDS = frozenset(f.name for f in fields(Document))


def document_message(given: DocumentLike, path: str) -> document_pb2.Document:
    """A document for the wire. Raises InvalidRequest that begins with `path`."""
    if not isinstance(given, Document):
        given = _document(given, path)
    utf8_bytes(given.id, f"{path}.id")
    utf8_bytes(given.text, f"{path}.text")
    utf8_bytes(given.vector_fingerprint, f"{path}.vector_fingerprint")
    if not given.id:
        raise invalid(f"{path}.id", "is empty")
    message = document_pb2.Document(
        id=given.id, text=given.text, vector_fingerprint=given.vector_fingerprint
    )
    if given.metadata:
        message.metadata.CopyFrom(struct(given.metadata, f"{path}.metadata"))
    if given.vector is not None:
        put_vector(message.vector, given.vector, f"{path}.vector")
    return message


def _document(given: Mapping[str, Any], path: str) -> Document:
    if not isinstance(given, Mapping):
        raise invalid(path, f"is {type(given).__name__}, not a Document or dict")
    if unknown := sorted(set(given) - _FIELDS):
        raise invalid(path, f"has unknown fields {', '.join(unknown)}; metadata goes in 'metadata'")
    if "id" not in given:
        raise invalid(f"{path}.id", "is missing")
    return Document(**given)


def document_from(message: document_pb2.Document) -> Document:
    """A document as the server gave it. Whole numbers in the metadata become int, up to 2**53."""
    has = message.HasField  # asking costs a tenth of reading a message that is not there
    return Document(
        id=message.id,
        text=message.text,
        metadata=_metadata(message) if has("metadata") else {},
        vector=vector_array(message.vector) if has("vector") else None,
        vector_fingerprint=message.vector_fingerprint,
        sequence=message.sequence,
        create_time=message.create_time.ToDatetime(tzinfo=UTC) if has("create_time") else None,
        update_time=message.update_time.ToDatetime(tzinfo=UTC) if has("update_time") else None,
    )


def _metadata(message: document_pb2.Document) -> dict[str, Any]:
    return {key: _json_from(value) for key, value in message.metadata.fields.items()}


def _json_from(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            exact = abs(number) <= INTEGER_MAX  # beyond it `struct` takes no int back
            return int(number) if exact and number.is_integer() else number
        case "struct_value":
            return {key: _json_from(v) for key, v in value.struct_value.fields.items()}
        case "list_value":
            return [_json_from(v) for v in value.list_value.values]
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
    return None


def struct(values: Mapping[str, Any], path: str) -> struct_pb2.Struct:
    """A JSON object for the wire. Raises InvalidRequest for what JSON or doubles cannot keep."""
    _check_json(values, path)
    message = struct_pb2.Struct()
    message.update(values)
    return message


def _check_json(value: object, path: str) -> None:
    match value:
        case None | bool():
            pass
        case str():
            utf8_bytes(value, path)
        case int() if abs(value) > INTEGER_MAX:
            raise invalid(path, f"{value} is beyond 2**53, where integers are no longer exact")
        case float() if not math.isfinite(value):
            raise invalid(path, f"{value} is not finite, which JSON cannot say")
        case int() | float():
            pass
        case Mapping():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise invalid(path, f"key {key!r} is {type(key).__name__}, not str")
                _check_json(item, f"{path}.{key}")
        case list() | tuple():
            for i, item in enumerate(value):
                _check_json(item, f"{path}[{i}]")
        case _:
            raise invalid(path, f"{type(value).__name__} is nothing that JSON has")


def upsert(
    budget: Budget,
    collection: str,
    documents: Iterable[DocumentLike],
    *,
    mode: WriteMode = "upsert",
    request_id: str | None = None,
    priority: Priority | None = None,
) -> Plan[Written]:
    """Write documents in one request, all or none."""
    check_fields(collection=collection, request_id=request_id)
    request = document_pb2.UpsertDocumentsRequest(
        collection=collection,
        documents=[document_message(d, f"documents[{i}]") for i, d in enumerate(documents)],
        mode=choice("mode", mode, WRITE_MODES, document_pb2.WRITE_MODE_UNSPECIFIED),
        request_id=request_id or str(uuid.uuid4()),
        priority=priority_number(priority),
    )
    answer = yield from call(budget, methods.UPSERT, request)
    return Written(
        sequence=answer.sequence,
        inserted=answer.inserted,
        updated=answer.updated,
        replayed=answer.replayed,
        timing=timing_from(answer.timing),
    )


def delete(
    budget: Budget, collection: str, ids: Iterable[str], *, request_id: str | None = None
) -> Plan[Written]:
    """Delete documents by id in one request, all or none."""
    if isinstance(ids, str):
        raise invalid("ids", "is one str; give a list, [id]")
    listed = list(ids)
    check_fields(collection=collection, ids=listed, request_id=request_id)
    request = document_pb2.DeleteDocumentsRequest(
        collection=collection, ids=listed, request_id=request_id or str(uuid.uuid4())
    )
    answer = yield from call(budget, methods.DELETE, request)
    return Written(sequence=answer.sequence, deleted=answer.deleted, replayed=answer.replayed)


def purge(
    budget: Budget,
    collection: str,
    filter: Filter,
    *,
    dry_run: bool = False,
    request_id: str | None = None,
) -> Plan[Written]:
    """Delete whatever matches, all or none."""
    check_fields(collection=collection, request_id=request_id)
    request = document_pb2.PurgeDocumentsRequest(
        collection=collection,
        filter=filter.message(),
        dry_run=dry_run,
        request_id=request_id or str(uuid.uuid4()),
    )
    answer = yield from call(budget, methods.PURGE, request)
    return Written(sequence=answer.sequence, deleted=answer.deleted, replayed=answer.replayed)


def get(budget: Budget, collection: str, id: str, *, with_vector: bool = False) -> Plan[Document]:
    """One document."""
    check_fields(collection=collection, id=id)
    request = document_pb2.GetDocumentRequest(collection=collection, id=id, with_vector=with_vector)
    answer = yield from call(budget, methods.GET_DOCUMENT, request)
    return document_from(answer.document)


def get_many(
    budget: Budget,
    collection: str,
    ids: Sequence[str],
    *,
    with_vectors: bool = False,
    allow_missing: bool = False,
) -> Plan[list[Document]]:
    """Several documents, in the order of their ids."""
    if isinstance(ids, str):
        raise invalid("ids", "is one str; give a list, [id]")
    check_fields(collection=collection, ids=ids)
    known = yield from known_info(budget)
    limits = known.limits
    # Nothing says how long a document is; the page size is what the server deems answerable.
    limit = Load(limits.page_size_max, limits.message_bytes_max - MESSAGE_OVERHEAD_BYTES)
    loads = (Load(1, utf8_bytes(id, "ids") + ITEM_OVERHEAD_BYTES) for id in ids)
    found: list[Document] = []
    for start, piece in pieces(ids, loads, limit):
        request = document_pb2.BatchGetDocumentsRequest(
            collection=collection,
            ids=piece,
            with_vectors=with_vectors,
            allow_missing=allow_missing,
        )
        try:
            answer = yield from call(budget, methods.BATCH_GET_DOCUMENTS, request)
        except PolysemeError as error:
            raise renamed(error, {"ids": "ids"}, start) from error
        found += map(document_from, answer.documents)
    return found


def each(
    budget: Budget,
    collection: str,
    *,
    filter: Filter | None = None,
    with_vectors: bool = False,
    page_size: int = 0,
    fingerprint: str = "",
) -> Plan[None]:
    """Emit documents in the order of their ids, page by page.

    fingerprint: put on documents that have a vector but say not what made it
    """
    check_fields(collection=collection, page_size=page_size)
    request = document_pb2.ListDocumentsRequest(
        collection=collection, page_size=page_size, with_vectors=with_vectors
    )
    if filter is not None:
        request.filter.CopyFrom(filter.message())
    while True:
        answer = yield from call(budget, methods.LIST_DOCUMENTS, request)
        for message in answer.documents:
            if message.HasField("vector") and not message.vector_fingerprint:
                message.vector_fingerprint = fingerprint
            yield Emit(document_from(message))
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token


def count(budget: Budget, collection: str, *, filter: Filter | None = None) -> Plan[int]:
    """How many match."""
    check_fields(collection=collection)
    request = document_pb2.CountDocumentsRequest(collection=collection)
    if filter is not None:
        request.filter.CopyFrom(filter.message())
    answer = yield from call(budget, methods.COUNT_DOCUMENTS, request)
    return answer.count


def export(
    budget: Budget,
    collection: str,
    *,
    filter: Filter | None = None,
    with_vectors: bool = True,
) -> Plan[None]:
    """Emit documents as `write` takes them back: a vector with the fingerprint it needs."""
    fingerprint = ""
    if with_vectors:
        fingerprint = (yield from collection_.get(budget, collection)).vectors_fingerprint
    yield from each(
        budget, collection, filter=filter, with_vectors=with_vectors, fingerprint=fingerprint
    )
