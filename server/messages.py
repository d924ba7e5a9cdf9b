"""Messages of the API from and to the values the inside works with. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from encoder.runtime import Encoder, Fingerprint, Pooling
from encoder.tokenizer import Truncation
from encoder.words import Span, SubwordPooling, WordFinder, span_at, span_from_bytes
from polyseme.v1 import common_pb2, encoder_pb2
from server.batching import Lane
from server.embedder import EmbedPlan, Timings, TokenCounts
from server.errors import RequestInvalid

Vectors = NDArray[np.float32]
Messages = Sequence[common_pb2.Vector]
V = TypeVar("V")

_POOLINGS: dict[int, Pooling] = {
    common_pb2.POOLING_MEAN: Pooling.MEAN,
    common_pb2.POOLING_CLS: Pooling.CLS,
    common_pb2.POOLING_MAX: Pooling.MAX,
}
_POOLING_NUMBERS = {
    str(Pooling.MEAN): common_pb2.POOLING_MEAN,
    str(Pooling.CLS): common_pb2.POOLING_CLS,
    str(Pooling.MAX): common_pb2.POOLING_MAX,
}
_TRUNCATIONS: dict[int, Truncation] = {
    common_pb2.TRUNCATION_POLICY_ERROR: Truncation.ERROR,
    common_pb2.TRUNCATION_POLICY_HEAD: Truncation.HEAD,
    common_pb2.TRUNCATION_POLICY_TAIL: Truncation.TAIL,
    common_pb2.TRUNCATION_POLICY_WINDOWS: Truncation.WINDOWS,
}
_SUBWORD_POOLINGS: dict[int, SubwordPooling] = {
    encoder_pb2.SUBWORD_POOLING_UNSPECIFIED: SubwordPooling.MEAN,
    encoder_pb2.SUBWORD_POOLING_MEAN: SubwordPooling.MEAN,
    encoder_pb2.SUBWORD_POOLING_FIRST: SubwordPooling.FIRST,
    encoder_pb2.SUBWORD_POOLING_LAST: SubwordPooling.LAST,
}
_WORD_SPACES: dict[int, bool] = {
    encoder_pb2.WORD_SPACE_UNSPECIFIED: False,
    encoder_pb2.WORD_SPACE_CONTEXT: False,
    encoder_pb2.WORD_SPACE_SENSE: True,
}
_PLAIN = (common_pb2.VECTOR_ENCODING_UNSPECIFIED, common_pb2.VECTOR_ENCODING_FLOAT32)
_LANES: dict[int, Lane] = {
    common_pb2.PRIORITY_INTERACTIVE: Lane.INTERACTIVE,
    common_pb2.PRIORITY_BULK: Lane.BULK,
}


# ---- what a request asks for


def lane_from(priority: int, default: Lane, field: str = "priority") -> Lane:
    if priority == common_pb2.PRIORITY_UNSPECIFIED:
        return default
    return _known(_LANES, priority, field)


def pooling_from(pooling: int, field: str) -> Pooling | None:
    """None for unspecified: the model's own."""
    if pooling == common_pb2.POOLING_UNSPECIFIED:
        return None
    return _known(_POOLINGS, pooling, field)


def truncation_from(policy: int, field: str, default: Truncation = Truncation.ERROR) -> Truncation:
    if policy == common_pb2.TRUNCATION_POLICY_UNSPECIFIED:
        return default
    return _known(_TRUNCATIONS, policy, field)


def subword_pooling_from(pooling: int, field: str = "subword_pooling") -> SubwordPooling:
    return _known(_SUBWORD_POOLINGS, pooling, field)


def wants_sense_space(request: encoder_pb2.EmbedWordsRequest) -> bool:
    """Whether words are wanted in the model's sense space, which has its own layers and length."""
    wanted = _known(_WORD_SPACES, request.space, "space")
    if wanted and request.layers:
        raise RequestInvalid("layers", "the sense space has its own; leave them out")
    if wanted and request.HasField("normalize") and not request.normalize:
        raise RequestInvalid("normalize", "vectors of the sense space have length 1")
    return wanted


def encoding_from(encoding: int, field: str) -> int:
    """A VectorEncoding that is not UNSPECIFIED."""
    if encoding == common_pb2.VECTOR_ENCODING_UNSPECIFIED:
        return common_pb2.VECTOR_ENCODING_FLOAT32
    if encoding not in _ENCODERS:
        raise RequestInvalid(field, f"{encoding} is no known value")
    return encoding


def plan_from(options: encoder_pb2.EmbedOptions, encoder: Encoder) -> EmbedPlan:
    """How `options` want texts embedded, with everything left out filled in."""
    return EmbedPlan(
        pooling=pooling_from(options.pooling, "options.pooling"),
        dimensions=dimensions_from(options.dimensions, encoder, "options.dimensions"),
        normalized=options.normalize if options.HasField("normalize") else True,
        prompt=_prompt_from(options, encoder),
        truncation=truncation_from(options.truncation, "options.truncation"),
    )


def dimensions_from(dimensions: int, encoder: Encoder, field: str) -> int:
    """0 means the model's width; else a length that the model was trained for."""
    if dimensions == 0:
        return encoder.width
    choices = encoder.dimensions_choices or (encoder.width,)
    if dimensions not in choices:
        known = ", ".join(str(choice) for choice in choices)
        raise RequestInvalid(
            field, f"{dimensions} is not a length of this model, which has {known}"
        )
    return dimensions


def layers_from(layers: Sequence[int], encoder: Encoder, default: Sequence[int]) -> tuple[int, ...]:
    """Layers counted from 0, each once, in rising order; negative ones count from the end."""
    count = encoder.layers + 1  # the embedding layer is number 0
    for index, layer in enumerate(layers):
        if not -count <= layer < count:
            raise RequestInvalid(
                f"layers[{index}]", f"{layer} is not within {-count} to {count - 1}"
            )
    return tuple(sorted({layer % count for layer in layers})) or tuple(default)


def _prompt_from(options: encoder_pb2.EmbedOptions, encoder: Encoder) -> str:
    if options.WhichOneof("prompt_choice") != "prompt_name":
        if "\0" in options.prompt:
            raise RequestInvalid("options.prompt", "NUL characters cannot be embedded")
        return options.prompt
    if options.prompt_name not in encoder.prompts:
        known = ", ".join(sorted(encoder.prompts)) or "no prompts"
        raise RequestInvalid(
            "options.prompt_name", f"{options.prompt_name!r} is unknown; the model has {known}"
        )
    return encoder.prompts[options.prompt_name]


def _known(table: Mapping[int, V], number: int, field: str) -> V:
    if number not in table:
        raise RequestInvalid(field, f"{number} is no known value")
    return table[number]


# ---- vectors


def put_vectors(into: Messages, vectors: Vectors, encoding: int) -> None:
    """A row of `vectors` (n, dimensions) into each of n empty messages. In place: a message that
    is given to another is written and read again, at each depth."""
    _ENCODERS[encoding](into, vectors)


def vector_to(vector: Vectors, encoding: int) -> common_pb2.Vector:
    message = common_pb2.Vector()
    put_vectors([message], vector[np.newaxis], encoding)
    return message


def vector_from(vector: common_pb2.Vector, field: str) -> Vectors:
    """The values, (dimensions,). Raises RequestInvalid unless they are finite and all there.

    INT8 and BINARY vectors come back as what their values stand for: multiples of `scale`, and
    1 or -1.
    """
    encoding = vector.encoding or (
        common_pb2.VECTOR_ENCODING_FLOAT32 if vector.data else common_pb2.VECTOR_ENCODING_FLOAT_LIST
    )
    if encoding not in _DECODERS:
        raise RequestInvalid(f"{field}.encoding", f"{encoding} is no known value")
    values = _DECODERS[encoding](vector, field)
    if not len(values):
        raise RequestInvalid(field, "the vector is empty")
    if vector.dimensions not in (0, len(values)):
        problem = f"says {vector.dimensions}, but there are {len(values)} values"
        raise RequestInvalid(f"{field}.dimensions", problem)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise RequestInvalid(field, f"value {wrong[0]} is {values[wrong[0]]}, not a finite number")
    return values


def plain_vectors_from(vectors: Messages, dimensions: int) -> Vectors | None:
    """(n, dimensions), if all are FLOAT32, so long, and finite; else None: `vector_from` says what
    is wrong. Together, because a vector by itself takes three times as long."""
    rows = []
    for vector in vectors:
        data = vector.data
        if (
            len(data) != 4 * dimensions
            or vector.encoding not in _PLAIN
            or vector.dimensions not in (0, dimensions)
        ):
            return None
        rows.append(data)
    values = np.frombuffer(b"".join(rows), "<f4").astype(np.float32).reshape(-1, dimensions)
    return values if np.isfinite(values).all() else None


def _float32(into: Messages, vectors: Vectors) -> None:
    rows = np.ascontiguousarray(vectors, dtype="<f4")
    _put(into, rows, common_pb2.VECTOR_ENCODING_FLOAT32, vectors.shape[1])


def _float16(into: Messages, vectors: Vectors) -> None:
    _put(into, vectors.astype("<f2"), common_pb2.VECTOR_ENCODING_FLOAT16, vectors.shape[1])


def _int8(into: Messages, vectors: Vectors) -> None:
    scales = np.abs(vectors).max(axis=1) / np.float32(127)
    # Below the smallest normal number a step is too coarse to divide by: rows would overflow.
    scales = np.maximum(scales, np.finfo(np.float32).tiny)
    rows = np.rint(vectors / scales[:, np.newaxis]).astype(np.int8)
    _put(into, rows, common_pb2.VECTOR_ENCODING_INT8, vectors.shape[1])
    for message, scale in zip(into, scales.tolist(), strict=True):
        message.scale = scale


def _binary(into: Messages, vectors: Vectors) -> None:
    rows = np.packbits(vectors > 0, axis=1, bitorder="big")
    _put(into, rows, common_pb2.VECTOR_ENCODING_BINARY, vectors.shape[1])


def _float_list(into: Messages, vectors: Vectors) -> None:
    for message, row in zip(into, vectors.tolist(), strict=True):
        message.values.extend(row)
        message.encoding = common_pb2.VECTOR_ENCODING_FLOAT_LIST
        message.dimensions = len(row)


def _put(
    into: Messages,
    rows: NDArray[np.generic],
    encoding: common_pb2.VectorEncoding.ValueType,
    dimensions: int,
) -> None:
    for message, row in zip(into, rows, strict=True):
        message.data = row.tobytes()
        message.encoding = encoding
        message.dimensions = dimensions


def _from_numbers(dtype: str) -> Callable[[common_pb2.Vector, str], Vectors]:
    size = np.dtype(dtype).itemsize

    def decode(vector: common_pb2.Vector, field: str) -> Vectors:
        if len(vector.data) % size:
            problem = f"{len(vector.data)} bytes are no whole number of {size}-byte values"
            raise RequestInvalid(f"{field}.data", problem)
        return np.frombuffer(vector.data, dtype=dtype).astype(np.float32)

    return decode


def _from_int8(vector: common_pb2.Vector, field: str) -> Vectors:
    if not (np.isfinite(vector.scale) and vector.scale > 0):
        raise RequestInvalid(f"{field}.scale", f"{vector.scale} is not above 0")
    return np.frombuffer(vector.data, dtype=np.int8) * np.float32(vector.scale)


def _from_binary(vector: common_pb2.Vector, field: str) -> Vectors:
    if vector.dimensions < 0 or len(vector.data) != -(-vector.dimensions // 8):
        problem = f"{vector.dimensions} bits do not take {len(vector.data)} bytes"
        raise RequestInvalid(f"{field}.dimensions", problem)
    packed = np.frombuffer(vector.data, dtype=np.uint8)
    bits = np.unpackbits(packed, count=vector.dimensions, bitorder="big")
    return bits.astype(np.float32) * 2 - 1


def _from_list(vector: common_pb2.Vector, field: str) -> Vectors:
    if vector.data:
        raise RequestInvalid(f"{field}.data", "must be empty for FLOAT_LIST")
    return np.array(vector.values, dtype=np.float32)


_ENCODERS: dict[int, Callable[[Messages, Vectors], None]] = {
    common_pb2.VECTOR_ENCODING_FLOAT32: _float32,
    common_pb2.VECTOR_ENCODING_FLOAT16: _float16,
    common_pb2.VECTOR_ENCODING_INT8: _int8,
    common_pb2.VECTOR_ENCODING_BINARY: _binary,
    common_pb2.VECTOR_ENCODING_FLOAT_LIST: _float_list,
}
_DECODERS: dict[int, Callable[[common_pb2.Vector, str], Vectors]] = {
    common_pb2.VECTOR_ENCODING_FLOAT32: _from_numbers("<f4"),
    common_pb2.VECTOR_ENCODING_FLOAT16: _from_numbers("<f2"),
    common_pb2.VECTOR_ENCODING_INT8: _from_int8,
    common_pb2.VECTOR_ENCODING_BINARY: _from_binary,
    common_pb2.VECTOR_ENCODING_FLOAT_LIST: _from_list,
}


# ---- what a reply carries


def matrix_to(matrix: Vectors) -> common_pb2.Matrix:
    """A (rows, columns) matrix."""
    data = np.ascontiguousarray(matrix, dtype="<f4").tobytes()
    return common_pb2.Matrix(rows=matrix.shape[0], columns=matrix.shape[1], data=data)


def span_to(span: Span) -> common_pb2.Span:
    return common_pb2.Span(
        start=span.start, end=span.end, byte_start=span.byte_start, byte_end=span.byte_end
    )


@lru_cache(maxsize=256)
def fingerprint_to(fingerprint: Fingerprint) -> common_pb2.ModelFingerprint:
    """Shared by all who ask: put it into a reply, which copies it, and leave it as it is."""
    return common_pb2.ModelFingerprint(
        model=fingerprint.model,
        weights_sha256=fingerprint.weights_sha256,
        tokenizer_sha256=fingerprint.tokenizer_sha256,
        pooling=_POOLING_NUMBERS.get(fingerprint.pooling, common_pb2.POOLING_UNSPECIFIED),
        prompt=fingerprint.prompt,
        dimensions=fingerprint.dimensions,
        normalized=fingerprint.normalized,
        numeric_class=fingerprint.numeric_class,
        combined=fingerprint.combined,
    )


def put_counts(into: common_pb2.TokenCount, counts: TokenCounts) -> None:
    into.tokens_total = counts.total
    into.tokens_used = counts.used
    into.truncated = counts.truncated


def counts_to(counts: TokenCounts) -> common_pb2.TokenCount:
    return common_pb2.TokenCount(
        tokens_total=counts.total, tokens_used=counts.used, truncated=counts.truncated
    )


def put_timing(into: common_pb2.Timing, timings: Timings) -> None:
    into.queue_s = timings.queue_s
    into.tokenize_s = timings.tokenize_s
    into.compute_s = timings.compute_s
    into.search_s = timings.search_s


def timing_to(timings: Timings) -> common_pb2.Timing:
    message = common_pb2.Timing()
    put_timing(message, timings)
    return message


# ---- words


def target_from(text: str, target: encoder_pb2.WordTarget, field: str) -> Span:
    """Where in `text` the word stands that `target` asks for."""
    return _target_from(WordFinder(text), target, field)


def targets_from(text: str, targets: Sequence[encoder_pb2.WordTarget], field: str) -> list[Span]:
    """The same for many words of one text; the third one's name is `field[2]`."""
    finder = WordFinder(text)
    return [_target_from(finder, target, f"{field}[{n}]") for n, target in enumerate(targets)]


def _target_from(finder: WordFinder, target: encoder_pb2.WordTarget, field: str) -> Span:
    try:
        match target.WhichOneof("target"):
            case "span":
                return span_from(finder.text, target.span)
            case "word":
                return finder.find(target.word.word, target.word.occurrence)
            case _:
                raise RequestInvalid(field, "give a span or a word")
    except ValueError as error:
        raise RequestInvalid(f"{field}.{target.WhichOneof('target')}", str(error)) from None


def span_from(text: str, span: common_pb2.Span) -> Span:
    """By code points or by bytes; if both are given they must agree. Raises ValueError."""
    if not span.byte_end:
        return span_at(text, span.start, span.end)
    by_bytes = span_from_bytes(text, span.byte_start, span.byte_end)
    if span.end and (span.start, span.end) != (by_bytes.start, by_bytes.end):
        raise ValueError(
            f"bytes {span.byte_start} to {span.byte_end} are code points {by_bytes.start} "
            f"to {by_bytes.end}, not {span.start} to {span.end}"
        )
    return by_bytes
