"""Vectors, spans and what made them: between the wire's messages and numpy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polyseme.errors import invalid
from polyseme.v1 import common_pb2

Pooling = Literal["mean", "cls", "max"]
Truncation = Literal["error", "head", "tail", "windows"]
VectorEncoding = Literal["float32", "float16", "int8", "binary"]
Priority = Literal["interactive", "bulk"]

_POOLING: dict[Pooling, common_pb2.Pooling.ValueType] = {
    "mean": common_pb2.POOLING_MEAN,
    "cls": common_pb2.POOLING_CLS,
    "max": common_pb2.POOLING_MAX,
}
_TRUNCATION: dict[Truncation, common_pb2.TruncationPolicy.ValueType] = {
    "error": common_pb2.TRUNCATION_POLICY_ERROR,
    "head": common_pb2.TRUNCATION_POLICY_HEAD,
    "tail": common_pb2.TRUNCATION_POLICY_TAIL,
    "windows": common_pb2.TRUNCATION_POLICY_WINDOWS,
}
_ENCODING = {
    "float32": common_pb2.VECTOR_ENCODING_FLOAT32,
    "float16": common_pb2.VECTOR_ENCODING_FLOAT16,
    "int8": common_pb2.VECTOR_ENCODING_INT8,
    "binary": common_pb2.VECTOR_ENCODING_BINARY,
}
_PRIORITY = {
    "interactive": common_pb2.PRIORITY_INTERACTIVE,
    "bulk": common_pb2.PRIORITY_BULK,
}
_POOLING_NAMES: dict[int, Pooling] = {number: name for name, number in _POOLING.items()}
_TRUNCATION_NAMES: dict[int, Truncation] = {n: name for name, n in _TRUNCATION.items()}
K = TypeVar("K", bound=str)
V = TypeVar("V", bound=int)


@dataclass(frozen=True, slots=True)
class Span:
    """Where a piece of text stands, half-open: in code points (Python) and in UTF-8 bytes."""

    start: int
    end: int
    byte_start: int
    byte_end: int

    def of(self, text: str) -> str:
        """The piece of `text`."""
        return text[self.start : self.end]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What made a vector. Vectors may be compared only if their `combined` hashes are equal."""

    model: str
    weights_sha256: str
    tokenizer_sha256: str
    pooling: Pooling | None
    prompt: str
    dimensions: int
    normalized: bool
    numeric_class: str  # "fp32", "fp16" or "int8"
    combined: str


@dataclass(frozen=True, slots=True)
class TokenCount:
    """How the tokenizer saw a text."""

    total: int  # tokens of the whole text, special ones and prompt included
    used: int  # tokens that the model read
    truncated: bool


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a call's time went on the server; of several requests, the sum."""

    queue_s: float = 0.0
    tokenize_s: float = 0.0
    compute_s: float = 0.0
    search_s: float = 0.0

    def __add__(self, other: Timing) -> Timing:
        return Timing(
            self.queue_s + other.queue_s,
            self.tokenize_s + other.tokenize_s,
            self.compute_s + other.compute_s,
            self.search_s + other.search_s,
        )


def pooling_number(name: Pooling | None) -> common_pb2.Pooling.ValueType:
    """The wire's number; None is the server's choice. Raises InvalidRequest for another name."""
    return choice("pooling", name, _POOLING, common_pb2.POOLING_UNSPECIFIED)


def truncation_number(name: Truncation | None) -> common_pb2.TruncationPolicy.ValueType:
    """As `pooling_number`."""
    return choice("truncation", name, _TRUNCATION, common_pb2.TRUNCATION_POLICY_UNSPECIFIED)


def encoding_number(name: VectorEncoding | None) -> common_pb2.VectorEncoding.ValueType:
    """As `pooling_number`."""
    return choice("encoding", name, _ENCODING, common_pb2.VECTOR_ENCODING_UNSPECIFIED)


def priority_number(name: Priority | None) -> common_pb2.Priority.ValueType:
    """As `pooling_number`."""
    return choice("priority", name, _PRIORITY, common_pb2.PRIORITY_UNSPECIFIED)


def choice(field: str, name: K | None, numbers: Mapping[K, V], unspecified: V) -> V:
    """The number of `name`; that of None is `unspecified`. Raises InvalidRequest otherwise."""
    if name is None:
        return unspecified
    if name not in numbers:
        raise invalid(field, f"{name!r} is none of {', '.join(numbers)}")
    return numbers[name]


def pooling_name(number: int) -> Pooling | None:
    """The name; None where the wire says nothing."""
    return _POOLING_NAMES.get(number)


def truncation_name(number: int) -> Truncation | None:
    """As `pooling_name`."""
    return _TRUNCATION_NAMES.get(number)


def span_from(span: common_pb2.Span) -> Span:
    """A span as the server gave it."""
    return Span(span.start, span.end, span.byte_start, span.byte_end)


def fingerprint_from(message: common_pb2.ModelFingerprint) -> Fingerprint:
    """A fingerprint as the server gave it."""
    return Fingerprint(
        model=message.model,
        weights_sha256=message.weights_sha256,
        tokenizer_sha256=message.tokenizer_sha256,
        pooling=pooling_name(message.pooling),
        prompt=message.prompt,
        dimensions=message.dimensions,
        normalized=message.normalized,
        numeric_class=message.numeric_class,
        combined=message.combined,
    )


def tokens_from(message: common_pb2.TokenCount) -> TokenCount:
    """Counts as the server gave them."""
    return TokenCount(message.tokens_total, message.tokens_used, message.truncated)


def timing_from(message: common_pb2.Timing) -> Timing:
    """Times as the server gave them."""
    return Timing(message.queue_s, message.tokenize_s, message.compute_s, message.search_s)


def vector_array(vector: common_pb2.Vector) -> NDArray[np.float32]:
    """The values, (dimensions,). Packed bits become +1 and -1: the signs that they keep.

    Raises ValueError if the bytes do not make up the dimensions.
    """
    values = _values(vector)
    if len(values) != vector.dimensions:
        raise ValueError(f"vector of {len(values)} values says that it has {vector.dimensions}")
    return values


def _values(vector: common_pb2.Vector) -> NDArray[np.float32]:
    match vector.encoding:
        case common_pb2.VECTOR_ENCODING_FLOAT16:
            return np.frombuffer(vector.data, "<f2").astype(np.float32)
        case common_pb2.VECTOR_ENCODING_INT8:
            return np.frombuffer(vector.data, np.int8).astype(np.float32) * np.float32(vector.scale)
        case common_pb2.VECTOR_ENCODING_BINARY:
            bits = np.unpackbits(np.frombuffer(vector.data, np.uint8))[: vector.dimensions]
            return bits.astype(np.float32) * 2 - 1
        case common_pb2.VECTOR_ENCODING_FLOAT_LIST:
            return np.array(vector.values, np.float32)
        case _:
            return np.frombuffer(vector.data, "<f4").astype(np.float32)


def vectors_array(vectors: Sequence[common_pb2.Vector]) -> NDArray[np.float32]:
    """The values of vectors of one length, (n, dimensions)."""
    if not vectors:
        return np.zeros((0, 0), np.float32)
    if all(v.encoding == common_pb2.VECTOR_ENCODING_FLOAT32 for v in vectors):
        # One copy for all of them: the loop below costs more than the model on small texts.
        joined = np.frombuffer(b"".join(v.data for v in vectors), "<f4")
        return joined.reshape(len(vectors), vectors[0].dimensions).astype(np.float32)
    return np.stack([vector_array(v) for v in vectors])


def matrix_array(matrix: common_pb2.Matrix) -> NDArray[np.float32]:
    """The values, (rows, columns)."""
    values = np.frombuffer(matrix.data, "<f4").astype(np.float32)
    return values.reshape(matrix.rows, matrix.columns)


def vector_message(values: ArrayLike, field: str) -> common_pb2.Vector:
    """One vector for the wire. Raises InvalidRequest unless it is 1-d, finite and not empty."""
    message = common_pb2.Vector()
    put_vector(message, values, field)
    return message


def put_vector(into: common_pb2.Vector, values: ArrayLike, field: str) -> None:
    """The same, into an empty message: one that is given to another is copied, at each depth."""
    array = np.asarray(values, np.float32)
    if array.ndim != 1 or not array.size:
        raise invalid(field, f"has shape {array.shape}; give one vector, (dimensions,)")
    if not np.isfinite(array).all():
        raise invalid(field, f"value {int(np.argmin(np.isfinite(array)))} is not finite")
    into.data = array.astype("<f4", copy=False).tobytes()
    into.encoding = common_pb2.VECTOR_ENCODING_FLOAT32
    into.dimensions = array.size


def utf8_bytes(text: str, field: str) -> int:
    """The text's length in UTF-8. Raises InvalidRequest for what UTF-8 cannot carry."""
    if not isinstance(text, str):
        raise invalid(field, f"is {type(text).__name__}, not str")
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        problem = f"holds a lone surrogate at position {error.start}, which UTF-8 cannot carry"
        raise invalid(field, problem) from None


INT32_MAX = 2**31 - 1


def check_fields(**fields: object) -> None:
    """Raises InvalidRequest for what no message can carry, before protobuf does so less clearly."""
    for name, value in fields.items():
        match value:
            case str():
                utf8_bytes(value, name)
            case int() if not -INT32_MAX <= value <= INT32_MAX:
                raise invalid(name, f"{value} is beyond {INT32_MAX}")
            case [*items]:
                for i, item in enumerate(items):
                    check_fields(**{f"{name}[{i}]": item})


def texts_list(texts: Iterable[str], field: str = "texts") -> list[str]:
    """The texts as a list. Raises InvalidRequest for a bare string: it would be cut to letters."""
    if isinstance(texts, str):
        raise invalid(field, "is one str; give a list, [text]")
    return list(texts)
