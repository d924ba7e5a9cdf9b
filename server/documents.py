"""Documents of the API from and to those of the index; every refusal names its place."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from index.documents import StoredDocument, WriteMode
from index.errors import DimensionMismatch, FingerprintMismatch
from index.fields import check_metadata, check_text
from index.settings import StoreSettings
from index.spec import JSON, CollectionSpec
from index.validation import check_id
from polyseme.v1 import common_pb2, document_pb2
from server.errors import LimitExceeded, RequestInvalid
from server.messages import vector_from
from server.metadata import metadata_from, put_metadata

REQUEST_ID_CHARACTERS_MAX = 64
# Bytes of a Struct for one of JSON, at most: 11 for the two of `0,` in a list. What is longer is
# too long as JSON too, which is exact, but takes a tree of it.
STRUCT_FACTOR = 8

_MODES: dict[int, WriteMode] = {
    document_pb2.WRITE_MODE_UNSPECIFIED: WriteMode.UPSERT,
    document_pb2.WRITE_MODE_UPSERT: WriteMode.UPSERT,
    document_pb2.WRITE_MODE_INSERT: WriteMode.INSERT,
    document_pb2.WRITE_MODE_UPDATE: WriteMode.UPDATE,
}


@dataclass(frozen=True, slots=True)
class Draft:
    """A document as the caller gave it, checked; without a vector its text is to be embedded."""

    id: str
    text: str
    metadata: dict[str, JSON]
    vector: NDArray[np.float32] | None


def drafts_from(
    documents: Sequence[document_pb2.Document],
    spec: CollectionSpec,
    limits: StoreSettings,
) -> list[Draft]:
    """The documents of one write, all checked before anything is embedded.

    Raises RequestInvalid, LimitExceeded, FingerprintMismatch, and the index's InvalidInput.
    """
    if not documents:
        raise RequestInvalid("documents", "give at least one")
    if len(documents) > limits.batch_documents_max:
        raise LimitExceeded("documents", len(documents), limits.batch_documents_max, "documents")
    first_with: dict[str, int] = {}
    drafts = []
    for i, document in enumerate(documents):
        first = first_with.setdefault(document.id, i)
        if first != i:
            raise RequestInvalid(f"documents[{i}].id", f"documents[{first}] has the same id")
        drafts.append(_draft(document, f"documents[{i}]", spec, limits))
    return drafts


def _draft(
    document: document_pb2.Document, field: str, spec: CollectionSpec, limits: StoreSettings
) -> Draft:
    check_id(document.id, f"{field}.id", limits)
    check_text(document.text, f"{field}.text", limits.text_bytes_max)
    size, size_max = document.metadata.ByteSize(), STRUCT_FACTOR * limits.metadata_bytes_max
    if size > size_max:  # before a tree is made of it
        raise LimitExceeded(f"{field}.metadata", size, size_max, "bytes as a message")
    metadata = metadata_from(document.metadata, f"{field}.metadata")
    check_metadata(metadata, f"{field}.metadata", limits)
    return Draft(document.id, document.text, metadata, _own_vector(document, field, spec))


def _own_vector(
    document: document_pb2.Document, field: str, spec: CollectionSpec
) -> NDArray[np.float32] | None:
    if not document.HasField("vector"):
        if not spec.embedding:
            problem = f"collection {spec.name!r} holds callers' vectors; give one"
            raise RequestInvalid(f"{field}.vector", problem)
        if not document.text or document.text.isspace():
            raise RequestInvalid(f"{field}.text", "empty; give a text or a vector")
        return None
    check_vector_fingerprint(document.vector_fingerprint, f"{field}.vector_fingerprint", spec)
    return own_vector_from(document.vector, f"{field}.vector", spec)


def own_vector_from(
    message: common_pb2.Vector, field: str, spec: CollectionSpec
) -> NDArray[np.float32]:
    """A caller's vector, finite and as long as the collection's. Raises RequestInvalid,
    DimensionMismatch."""
    vector = vector_from(message, field)
    if len(vector) != spec.dimensions:
        raise DimensionMismatch(field, len(vector), spec.dimensions)
    return vector


def check_vector_fingerprint(
    given: str, field: str, spec: CollectionSpec, also: Sequence[str] = ()
) -> None:
    """Raises unless vectors with the combined hash `given` belong to the collection.

    also: further hashes that do.
    """
    expected = spec.fingerprint_hash
    if not expected or given in (expected, *also):
        return
    if not given:
        raise RequestInvalid(
            field, f"required: vectors of collection {spec.name!r} carry {expected}"
        )
    raise FingerprintMismatch(spec.name, given, expected, ())


def mode_from(mode: int, field: str = "mode") -> WriteMode:
    if mode not in _MODES:
        raise RequestInvalid(field, f"{mode} is no known value")
    return _MODES[mode]


def request_id_from(request_id: str, field: str = "request_id") -> str:
    """Raises RequestInvalid for one that is too long or holds a NUL."""
    if len(request_id) > REQUEST_ID_CHARACTERS_MAX:
        raise LimitExceeded(field, len(request_id), REQUEST_ID_CHARACTERS_MAX, "characters")
    if "\0" in request_id:
        raise RequestInvalid(field, "a NUL character")
    return request_id


def digest_of(documents: Sequence[document_pb2.Document], mode: WriteMode) -> bytes:
    """What tells one write from another with the same request id: SHA-256 of what was sent."""
    hashed = hashlib.sha256(mode.encode())
    for document in documents:
        sent = document.SerializeToString(deterministic=True)
        hashed.update(len(sent).to_bytes(8, "little") + sent)
    return hashed.digest()


def document_to(stored: StoredDocument, spec: CollectionSpec) -> document_pb2.Document:
    """With its vector, and the hash of what made it, if `stored` has one."""
    document = document_pb2.Document()
    put_document(document, stored, spec, with_content=True)
    return document


def put_document(
    into: document_pb2.Document, stored: StoredDocument, spec: CollectionSpec, *, with_content: bool
) -> None:
    """The same, into an empty message of the answer. with_content: text and metadata too"""
    into.id = stored.id
    into.sequence = stored.sequence
    put_timestamp(into.create_time, stored.created_at)
    put_timestamp(into.update_time, stored.updated_at)
    if with_content:
        into.text = stored.text
        put_metadata(into.metadata, stored.metadata)
    if stored.vector is not None:
        into.vector.data = stored.vector.astype("<f4").tobytes()
        into.vector.encoding = common_pb2.VECTOR_ENCODING_FLOAT32
        into.vector.dimensions = len(stored.vector)
        into.vector_fingerprint = spec.fingerprint_hash


def put_timestamp(into: Timestamp, seconds: float) -> None:
    """Seconds since 1970, to the microsecond: a float has no more."""
    into.FromMicroseconds(round(seconds * 1e6))


def timestamp_to(seconds: float) -> Timestamp:
    """The same, as a message of its own."""
    timestamp = Timestamp()
    put_timestamp(timestamp, seconds)
    return timestamp
