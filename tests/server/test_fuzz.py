"""Whatever a caller sends, the server answers in time, never with INTERNAL, and goes on.

Every method of every service, as their descriptors have them. Half of the requests are made up from
the descriptors alone, so that a new field is met without a word here; the others are requests that
would be answered OK (`samples.py`), a few of whose values were changed.

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
from google.protobuf.json_format import ParseDict
from grpc import StatusCode
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from server.app import SERVICES
from tests.server.samples import COLLECTIONS, DIMENSIONS, SAMPLES, TEXTS, document

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

DEPTH_MAX = 4
CHANGES_MAX = 3  # of a sample

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
NAMES = ["fuzz", "fuzz", "texts", "texts", "words", "new", "missing"]
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

    def changed(self, message):
        """`message` with a few of its values, at any depth, others, gone or twice there."""
        for _ in range(self._draw(st.integers(0, CHANGES_MAX))):
            owners = [(below, field) for below in within(message) for field in fields_of(below)]
            if not owners:
                break
            below, field = self._draw(st.sampled_from(owners))
            match self._draw(st.sampled_from(["other", "other", "gone", "twice"])):
                case "gone":
                    below.ClearField(field.name)
                case "twice" if field.is_repeated and not is_map(field):
                    getattr(below, field.name).MergeFrom(list(getattr(below, field.name)))
                case _:
                    below.ClearField(field.name)
                    self._put(below, field, DEPTH_MAX - 1)
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


def fields_of(message):
    """The fields of `message` that are set, or could be: of a made-up one-of, the one that is."""
    return [
        field
        for field in message.DESCRIPTOR.fields
        if field.containing_oneof is None or message.HasField(field.name)
    ]


def within(message):
    """`message` and the messages in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is None or is_map(field):
            continue
        for below in value if field.is_repeated else [value]:
            yield from within(below)


def is_map(field):
    return field.message_type is not None and field.message_type.GetOptions().map_entry


@st.composite
def wires(draw, kind, samples):
    """The bytes of a message; one in eight is spoilt."""
    hostility = draw(st.sampled_from([0, 1, 5, 30]))
    maker = Maker(draw, hostility)
    if samples and draw(st.booleans()):
        sample = kind()
        sample.CopyFrom(draw(st.sampled_from(samples)))
        message = maker.changed(sample)
    else:
        message = maker.message(kind)
    data = bytearray(message.SerializeToString())
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


def short(method):
    return method.full_name.removeprefix("polyseme.v1.")


def answer(channel, name, content):
    """What a unary method answers, as its descriptor has it."""
    method = next(method for method in METHODS if short(method) == name)
    request = ParseDict(content, class_of(method.input_type)())
    path = f"/{method.containing_service.full_name}/{method.name}"
    parse = class_of(method.output_type).FromString
    return channel.unary_unary(path, lambda message: message.SerializeToString(), parse)(request)


def provide(channel):
    """The collections that requests know of; a request before may have removed them."""
    for collection in COLLECTIONS:
        name = collection["name"]
        documents = [document(id, name) for id in ("1", "2", "3")]
        with contextlib.suppress(grpc.RpcError):
            answer(channel, "CollectionService.CreateCollection", {"collection": collection})
            answer(
                channel,
                "DocumentService.UpsertDocuments",
                {"collection": name, "documents": documents},
            )


@pytest.fixture
def processes(start_process, filling_directory, translating_directory, tmp_path):
    """By service: a small model that answers questions of every kind, and one that translates."""
    started = []
    for model in (filling_directory, translating_directory):
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(start_process(folder, "--precision", "fp32", model=model))
    found = dict.fromkeys((method.containing_service.name for method in METHODS), started[0])
    return found | {"TranslationService": started[1]}


@pytest.fixture
def samples(processes):
    """By method, messages that are answered OK."""
    provide(processes["SearchService"].channel)
    fitted = answer(
        processes["SenseService"].channel,
        "SenseService.FitSenses",
        SAMPLES["SenseService.FitSenses"][0],
    )
    snapshot = answer(
        processes["CollectionService"].channel,
        "CollectionService.CreateSnapshot",
        {"collection": "fuzz"},
    )
    made = {}
    for method in METHODS:
        kind = class_of(method.input_type)
        made[method.full_name] = [ParseDict(content, kind()) for content in SAMPLES[short(method)]]
    for message in made["polyseme.v1.SenseService.ClassifySenses"]:
        message.inventory.CopyFrom(fitted.inventory)
    for message in made["polyseme.v1.CollectionService.RestoreSnapshot"]:
        message.snapshot = snapshot.snapshot.name
    return made


@pytest.mark.slow
def test_every_sample_is_answered(processes, samples):
    """A fuzzer whose requests are all refused at the door finds nothing behind it."""
    refused = {}
    for method in METHODS:
        for number, message in enumerate(samples[method.full_name]):
            process = processes[method.containing_service.name]
            if codes := codes_of(process.channel, method, [message.SerializeToString()]):
                refused[short(method), number] = codes, process.last_lines()
    assert not refused


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS + 300)
def test_whatever_is_sent_is_answered_and_never_as_a_bug(processes, samples):
    seen = Counter()
    end = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < end:
        looked = settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        )(
            seed(SEED + number)(
                given(st.data())(lambda data: send(processes, samples, data, seen, end))
            )
        )
        looked()
        number += 1
    calls, ok = sum(seen.values()), sum(n for (_, codes), n in seen.items() if not codes)
    print(f"\nseed {SEED}: {calls} calls, {ok} answered OK")
    for method in METHODS:
        codes = {c or "OK": n for (name, c), n in seen.items() if name == method.full_name}
        print(f"{short(method)}: {codes}")
    assert calls >= EXAMPLES


def send(processes, samples, data, seen, end):
    method = data.draw(st.sampled_from(METHODS), label="method")
    count = data.draw(st.integers(0, 4)) if method.client_streaming else 1
    kind = class_of(method.input_type)
    sent = [data.draw(wires(kind, samples[method.full_name])) for _ in range(count)]

    if time.monotonic() > end:  # after the draws: Hypothesis wants the same ones each time
        return
    process = processes[method.containing_service.name]
    provide(process.channel)
    codes = codes_of(process.channel, method, sent)
    seen[method.full_name, " ".join(sorted(code.name for code in codes))] += 1

    assert process.alive, process.last_lines()
    assert not codes & NEVER, process.last_lines()
    assert not process.errors()
