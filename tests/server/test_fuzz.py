"""Whatever a caller sends, the server answers in time, never with INTERNAL, and goes on.

Every method of every service, as their descriptors have them: a new one is met without a word here.
`FUZZ_SECONDS=600 pytest -m slow -s tests/server/test_fuzz.py` looks longer, and prints what was
answered; with FUZZ_SEED it sends the same again.
"""

import contextlib
import os
import time
from collections import Counter

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor as Field
from grpc import StatusCode
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from polyseme.v1 import collection_pb2, common_pb2, document_pb2
from server.app import SERVICES

ANSWER_S_MAX = 30.0
SECONDS = float(os.environ.get("FUZZ_SECONDS", "20"))
SEED = int(os.environ.get("FUZZ_SEED", time.time_ns() // 10**9))
EXAMPLES = 100  # of one seed
# What a caller must never see, whatever it sent: our bugs, and what only broken disks cause.
NEVER = {
    StatusCode.INTERNAL,
    StatusCode.UNKNOWN,
    StatusCode.DATA_LOSS,
    StatusCode.UNAVAILABLE,
    StatusCode.UNIMPLEMENTED,
    StatusCode.DEADLINE_EXCEEDED,
}
METHODS = [
    method
    for service in SERVICES
    for method in descriptor_pool.Default().FindServiceByName(service).methods
    if method.name != "Drain"  # ends the server, as it should
]

DIMENSIONS = 16
DEPTH_MAX = 4

HOSTILE = [
    "",
    " ",
    "\0",
    "a\0b",
    "../../etc/passwd",
    "a" * 2000,
    "apple " * 400,
    "\u202egnp.exe",
    "e\u0301" * 50,
    "👩‍👩‍👧‍👦" * 20,
    "\ufffe\uffff",
    "'; DROP TABLE documents; --",
    '"',
    "*",
    "NEAR(",
    "a AND (b OR",
    "%s%n{0}",
    "[MASK]",
    "日本語のテキスト",
    "fuzz/../../x",
    "x" * 65,
    "\U0010ffff",
]
TEXTS = ["apple", "An apple a day.", "Apple sells phones.", "bank of the river"]
NAMES = ["fuzz", "fuzz", "texts", "texts", "new", "missing"]
IDS = ["1", "2", "3", "new", "missing"]
METADATA = ["lane", "a.b", "a", "bucket", "..", "a." * 40]

# What a field of this name would hold if its writer knew what to do.
KNOWN = {
    "collection": NAMES,
    "name": NAMES,
    "id": IDS,
    "ids": IDS,
    "document_id": IDS,
    "field": METADATA,
    "word": ["apple", "bank"],
    "sense": ["fruit", "firm", "river"],
    "snapshot": ["fuzz/20200101T000000.000000Z-1"],
    "request_id": ["", "", "r1", "r2"],
    "description": ["for people"],
    # As usual:
    "vector_fingerprint": [""],
    "fingerprint": [""],
    "etag": [""],
    "page_token": [""],
    "prompt": [""],
    "document_prompt": [""],
    "query_prompt": [""],
}
KNOWN_NUMBERS = {
    "dimensions": [DIMENSIONS, 0],
    "min_sequence": [0, 1],
    "occurrence": [0],
    "start": [0, 3],
    "end": [5, 2],
    "byte_start": [0],
    "byte_end": [0],
}

NUMBERS = {
    Field.CPPTYPE_INT32: [0, 1, 2, 3, 10, -1, 2**31 - 1, -(2**31)],
    Field.CPPTYPE_INT64: [0, 1, 2, -1, 2**63 - 1, -(2**63), 10**9],
    Field.CPPTYPE_UINT32: [0, 1, 2**32 - 1],
    Field.CPPTYPE_UINT64: [0, 1, 2**64 - 1],
    Field.CPPTYPE_FLOAT: [0.0, 1.0, -1.0, float("nan"), float("inf"), 3e38, 1e-45],
    Field.CPPTYPE_DOUBLE: [0.0, 1.0, -0.0, float("nan"), float("-inf"), 1e308, 5e-324],
}


@st.composite
def vectors(draw, hostile):
    """Bytes that are a vector of the right length, or are not."""
    kind = draw(st.sampled_from(["zero", "nan", "huge", "odd"])) if hostile else "right"
    if kind == "odd":
        return draw(st.binary(max_size=80))
    values = np.random.default_rng(draw(st.integers(0, 99))).normal(size=DIMENSIONS)
    factor = {"right": 1.0, "zero": 0.0, "nan": float("nan"), "huge": 3e38}[kind]
    with np.errstate(all="ignore"):
        return (values * factor).astype("<f4").tobytes()


class Maker:
    """Makes messages; `hostility` is how many of a hundred values are meant to hurt."""

    def __init__(self, draw, hostility):
        self._draw = draw
        self._hostility = hostility

    def message(self, kind, depth=0):
        message = kind()
        for field in kind.DESCRIPTOR.fields:
            if field.containing_oneof is None and self._chance(75):
                self._put(message, field, depth)
        for oneof in kind.DESCRIPTOR.oneofs:
            if self._chance(90):
                self._put(message, self._draw(st.sampled_from(list(oneof.fields))), depth)
        return message

    def _chance(self, hundredths):
        return self._draw(st.integers(0, 99)) < hundredths

    def _put(self, message, field, depth):
        if field.message_type is not None and depth >= DEPTH_MAX:
            return
        if field.is_repeated:
            for _ in range(self._draw(st.integers(0, 3))):
                self._add(getattr(message, field.name), field, depth)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(self._below(field, depth))
        else:
            setattr(message, field.name, self._scalar(field))

    def _add(self, container, field, depth):
        if field.message_type is None:
            container.append(self._scalar(field))
        elif field.message_type.GetOptions().map_entry:
            key = self._scalar(field.message_type.fields_by_name["key"])
            value = field.message_type.fields_by_name["value"]
            if value.message_type is None:
                container[key] = self._scalar(value)
            else:
                container[key].CopyFrom(self._below(value, depth))
        else:
            container.add().CopyFrom(self._below(field, depth))

    def _below(self, field, depth):
        return self.message(class_of(field.message_type), depth + 1)

    def _scalar(self, field):
        return self._draw(values_of(field, hostile=self._chance(self._hostility)))


def values_of(field, *, hostile):
    if field.cpp_type == Field.CPPTYPE_STRING:
        return vectors(hostile) if field.type == Field.TYPE_BYTES else strings(field, hostile)
    if field.cpp_type == Field.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == Field.CPPTYPE_ENUM:
        numbers = [value.number for value in field.enum_type.values]
        return st.sampled_from([99, -1, *numbers] if hostile else [0, 0, 0, *numbers])
    usual = KNOWN_NUMBERS.get(field.name, [1, 2, 3])
    return st.sampled_from(NUMBERS[field.cpp_type] if hostile else usual)


def strings(field, hostile):
    if hostile:
        return st.one_of(st.sampled_from(HOSTILE), st.text(max_size=30))
    return st.sampled_from(KNOWN.get(field.name, TEXTS))


@st.composite
def wires(draw, kind):
    """The bytes of a message; one in eight is spoilt."""
    hostility = draw(st.sampled_from([0, 1, 5, 30]))
    data = bytearray(Maker(draw, hostility).message(kind).SerializeToString())
    if draw(st.integers(0, 7)) == 0:
        for _ in range(draw(st.integers(1, 3))):
            place = draw(st.integers(0, len(data)))
            data[place : place + draw(st.integers(0, 4))] = draw(st.binary(max_size=6))
    return bytes(data)


def class_of(descriptor):
    return message_factory.GetMessageClass(descriptor)


def codes_of(channel, method, sent):
    """The codes that a call with these messages ends with, and those inside its answers."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    parse = class_of(method.output_type).FromString
    codes = []
    # On the wire every kind of method is a stream both ways.
    replies = channel.stream_stream(path, None, parse)(iter(sent), timeout=ANSWER_S_MAX)
    try:
        errors = (reply.error for reply in replies if method.client_streaming)
        codes.extend(error.code for error in errors if error.code)
    except grpc.RpcError as error:
        codes.append(error.code().value[0])
    return {code for code in StatusCode if code.value[0] in codes}


def provide(channel):
    """The collections that requests know of; a request before may have removed them."""
    create = channel.unary_unary(
        "/polyseme.v1.CollectionService/CreateCollection",
        collection_pb2.CreateCollectionRequest.SerializeToString,
        collection_pb2.CreateCollectionResponse.FromString,
    )
    upsert = channel.unary_unary(
        "/polyseme.v1.DocumentService/UpsertDocuments",
        document_pb2.UpsertDocumentsRequest.SerializeToString,
        document_pb2.UpsertDocumentsResponse.FromString,
    )
    external = collection_pb2.ExternalVectors(dimensions=DIMENSIONS)
    for collection in (
        collection_pb2.Collection(name="fuzz", external=external),
        collection_pb2.Collection(name="texts"),
    ):
        documents = [document(id, collection.name) for id in ("1", "2", "3")]
        with contextlib.suppress(grpc.RpcError):
            create(collection_pb2.CreateCollectionRequest(collection=collection))
            upsert(
                document_pb2.UpsertDocumentsRequest(collection=collection.name, documents=documents)
            )


def document(id, collection):
    made = document_pb2.Document(id=id, text=TEXTS[1])
    made.metadata.update({"lane": "x", "a": {"b": 1}})
    if collection == "fuzz":
        values = np.random.default_rng(int(id)).normal(size=DIMENSIONS).astype("<f4")
        made.vector.CopyFrom(common_pb2.Vector(data=values.tobytes(), dimensions=DIMENSIONS))
    return made


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS + 300)
def test_whatever_is_sent_is_answered_and_never_as_a_bug(
    start_process, filling_directory, tmp_path
):
    """The model is a small one that can answer questions of every kind."""
    process = start_process(tmp_path, "--precision", "fp32", model=filling_directory)
    seen = Counter()
    end = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < end:
        looked = settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        )(seed(SEED + number)(given(st.data())(lambda data: send(process, data, seen, end))))
        looked()
        number += 1
    calls, ok = sum(seen.values()), sum(n for (_, codes), n in seen.items() if not codes)
    print(f"\nseed {SEED}: {calls} calls, {ok} answered OK")
    for method in METHODS:
        codes = {c or "OK": n for (name, c), n in seen.items() if name == method.full_name}
        print(f"{method.full_name.removeprefix('polyseme.v1.')}: {codes}")
    assert calls >= EXAMPLES


def send(process, data, seen, end):
    method = data.draw(st.sampled_from(METHODS), label="method")
    count = data.draw(st.integers(0, 4)) if method.client_streaming else 1
    sent = [data.draw(wires(class_of(method.input_type))) for _ in range(count)]

    if time.monotonic() > end:  # after the draws: Hypothesis wants the same ones each time
        return
    provide(process.channel)
    codes = codes_of(process.channel, method, sent)
    seen[method.full_name, " ".join(sorted(code.name for code in codes))] += 1

    assert process.alive, process.last_lines()
    assert not codes & NEVER, process.last_lines()
    assert not process.errors()
