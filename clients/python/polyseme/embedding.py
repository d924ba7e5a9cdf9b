"""Texts to vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from polyseme import methods
from polyseme.batches import Load, pieces
from polyseme.errors import (
    Failure,
    FingerprintMismatch,
    PolysemeError,
    from_status,
    invalid,
    renamed,
)
from polyseme.plans import END, Emit, Flight, Plan, Pull, call, pipeline
from polyseme.retry import Budget
from polyseme.service import ServerInfo, known_info
from polyseme.v1 import encoder_pb2
from polyseme.vectors import (
    Fingerprint,
    Pooling,
    Priority,
    Timing,
    TokenCount,
    Truncation,
    VectorEncoding,
    check_fields,
    encoding_number,
    fingerprint_from,
    matrix_array,
    pooling_number,
    priority_number,
    texts_list,
    timing_from,
    tokens_from,
    truncation_number,
    utf8_bytes,
    vectors_array,
)

# Bytes of a message besides texts and numbers: tags, lengths, counts, fingerprint.
ITEM_OVERHEAD_BYTES = 64
MESSAGE_OVERHEAD_BYTES = 4096
STREAM_FLIGHTS_MAX = 4  # one computed, one travelling each way, one being filled


class EmbedOptions(TypedDict, total=False):
    """How texts are embedded; each may be left out."""

    pooling: Pooling | None  # default: the model's own
    dimensions: int  # keep the first so many (Matryoshka); 0 keeps all
    normalize: bool  # scale to length 1; default True
    prompt: str | None  # what to put in front of each text
    prompt_name: str | None  # or the name of one of the model's prompts
    encoding: VectorEncoding | None  # how vectors travel; default float32, smaller ones lose digits
    truncation: Truncation | None  # what happens to long texts; default "error"


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """The vectors of texts, in their order. Wherever numpy takes an array it takes this."""

    array: NDArray[np.float32]  # (n, dimensions)
    fingerprint: Fingerprint | None  # what made them; None for no texts
    tokens: tuple[TokenCount, ...]  # one a text
    timing: Timing

    def __array__(
        self, dtype: np.dtype[Any] | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        part: NDArray[np.float32] = self.array[key]
        return part

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return iter(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, dimensions)"""
        return self.array.shape


def options_message(
    *,
    pooling: Pooling | None = None,
    dimensions: int = 0,
    normalize: bool = True,
    prompt: str | None = None,
    prompt_name: str | None = None,
    encoding: VectorEncoding | None = None,
    truncation: Truncation | None = None,
) -> encoder_pb2.EmbedOptions:
    """The options for the wire. Raises InvalidRequest for what no server would take."""
    if prompt is not None and prompt_name is not None:
        raise invalid("prompt", "is given beside prompt_name; give one of them")
    if dimensions < 0:
        raise invalid("dimensions", f"{dimensions} is below 0; 0 keeps all")
    check_fields(dimensions=dimensions, prompt=prompt, prompt_name=prompt_name)
    message = encoder_pb2.EmbedOptions(
        pooling=pooling_number(pooling),
        dimensions=dimensions,
        normalize=normalize,
        encoding=encoding_number(encoding),
        truncation=truncation_number(truncation),
    )
    # An empty prompt is a choice of its own: no prompt, even where the model has one.
    if prompt is not None:
        message.prompt = prompt
    if prompt_name is not None:
        message.prompt_name = prompt_name
    return message


def embed(
    budget: Budget,
    texts: Iterable[str],
    *,
    priority: Priority | None = None,
    **options: Any,
) -> Plan[Embeddings]:
    """One vector a text, in order, in as many requests as the server's limits ask for."""
    wanted = options_message(**options)
    lane = priority_number(priority)
    inputs = texts_list(texts)
    loads = text_loads(inputs)
    if not inputs:
        return _joined([])
    known = yield from known_info(budget)
    answers: list[encoder_pb2.EmbedResponse] = []
    for start, piece in pieces(inputs, _with_vectors(loads, known), request_limit(known)):
        request = encoder_pb2.EmbedRequest(inputs=piece, options=wanted, priority=lane)
        try:
            answers.append((yield from call(budget, methods.EMBED, request)))
        except PolysemeError as error:
            raise renamed(error, {"inputs": "texts"}, start) from error
    return _joined(answers)


def embed_iter(
    budget: Budget,
    *,
    batch_texts: int = 64,
    priority: Priority | None = None,
    **options: Any,
) -> Plan[None]:
    """Pull texts, emit `Embeddings` of up to `batch_texts` of them, in order."""
    if batch_texts < 1:
        raise invalid("batch_texts", f"{batch_texts} is below 1")
    template = encoder_pb2.EmbedRequest(
        options=options_message(**options), priority=priority_number(priority)
    )
    known = yield from known_info(budget)
    limit = request_limit(known, items_max=batch_texts)
    source = TextSource(lambda text, field: _load(text, field, known.model.dimensions), limit)

    def next_flight() -> Plan[Flight | None]:
        start, texts = yield from source.next_texts()
        if not texts:
            return None
        request = encoder_pb2.EmbedRequest(inputs=texts)
        request.MergeFrom(template)
        message = encoder_pb2.EmbedStreamRequest(request=request, tag=str(start))
        return Flight(message, context=start)

    yield from pipeline(budget, methods.EMBED_STREAM, next_flight, _embedded, STREAM_FLIGHTS_MAX)


class TextSource:
    """Cuts the caller's texts into the requests of a stream."""

    def __init__(self, weigh: Callable[[str, str], Load], limit: Load) -> None:
        """weigh: what a text, named by its field, adds to a request that may hold `limit`"""
        self._weigh = weigh
        self._limit = limit
        self._count = 0  # texts pulled so far
        self._over: tuple[str, Load] | None = None  # the text that did not fit the last request

    def next_texts(self) -> Plan[tuple[int, list[str]]]:
        """The number of the first of the next request's texts, and the texts; none at the end."""
        texts: list[str] = []
        total = Load(0)
        while True:
            if self._over is None:
                item = yield Pull()
                if item is END:
                    break
                self._over = item, self._weigh(item, f"texts[{self._count}]")
                self._count += 1
            text, load = self._over
            if texts and not (total + load).fits(self._limit):
                break
            texts.append(text)
            total += load
            self._over = None
        return self._count - len(texts) - (self._over is not None), texts


def _embedded(flight: Flight, answer: encoder_pb2.EmbedStreamResponse) -> Plan[None]:
    if answer.HasField("error"):
        raise renamed(_stream_error(answer), {"inputs": "texts"}, flight.context)
    yield Emit(_joined([answer.response]))


def _stream_error(answer: encoder_pb2.EmbedStreamResponse) -> PolysemeError:
    error = from_status(answer.error)
    # Inside a stream the server names the whole message: request.inputs[3].
    return renamed(error, {"request": "texts"})


def similarity(
    budget: Budget,
    left: Iterable[str],
    right: Iterable[str] | None,
    *,
    pairs: bool = False,
    priority: Priority | None = None,
    **options: Any,
) -> Plan[NDArray[np.float32]]:
    """Cosines: (left, right), or (n,) of pairs."""
    rows = texts_list(left, "left")
    columns = None if right is None else texts_list(right, "right")
    if pairs and (columns is None or len(columns) != len(rows)):
        count = "no" if columns is None else len(columns)
        raise invalid("right", f"has {count} texts for {len(rows)} on the left; pairs need as many")
    wanted = options_message(**options)
    loads = [*text_loads(rows, "left"), *text_loads(columns or [], "right")]
    others = rows if columns is None else columns
    if not rows or not others:  # a request without texts on the right compares the left ones
        return np.zeros(0 if pairs else (len(rows), len(others)), np.float32)
    known = yield from known_info(budget)
    if not sum(loads, Load(0, MESSAGE_OVERHEAD_BYTES)).fits(request_limit(known)):
        both = embed_both(budget, rows, columns, priority=priority, **options)
        one, other = yield from both
        return (one * other).sum(axis=1) if pairs else one @ other.T
    request = encoder_pb2.SimilarityRequest(
        left=rows,
        right=columns or [],
        mode=encoder_pb2.SIMILARITY_MODE_PAIRS if pairs else encoder_pb2.SIMILARITY_MODE_MATRIX,
        options=wanted,
        priority=priority_number(priority),
    )
    answer = yield from call(budget, methods.SIMILARITY, request)
    matrix = matrix_array(answer.similarities)
    return matrix[:, 0] if pairs else matrix


def embed_both(
    budget: Budget, rows: list[str], columns: list[str] | None, **options: Any
) -> Plan[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The vectors of both sides, of length 1: for more texts than one request takes."""
    options = {**options, "normalize": True}
    left = (yield from embed(budget, rows, **options)).array
    if columns is None:
        return left, left
    right = (yield from embed(budget, columns, **options)).array
    return left, right


def text_loads(texts: Sequence[str], field: str = "texts") -> list[Load]:
    """What each text weighs on its way to the server.

    A tokenizer makes at most a token a byte, and two special ones: an upper bound.
    """
    return [_load(text, f"{field}[{i}]", 0) for i, text in enumerate(texts)]


def _load(text: str, field: str, dimensions: int) -> Load:
    size = utf8_bytes(text, field)
    return Load(1, size + ITEM_OVERHEAD_BYTES, 4 * dimensions + ITEM_OVERHEAD_BYTES, units=size + 2)


def _with_vectors(loads: Iterable[Load], known: ServerInfo) -> list[Load]:
    vector = Load(0, 0, 4 * known.model.dimensions)
    return [load + vector for load in loads]


def request_limit(known: ServerInfo, items_max: int | None = None) -> Load:
    """What one request for vectors of texts may hold."""
    limits = known.limits
    message_bytes = limits.message_bytes_max - MESSAGE_OVERHEAD_BYTES
    items = limits.inputs_max if items_max is None else min(items_max, limits.inputs_max)
    return Load(items, message_bytes, message_bytes, limits.call_tokens_max)


def _joined(answers: Sequence[encoder_pb2.EmbedResponse]) -> Embeddings:
    embeddings = [e for answer in answers for e in answer.embeddings]
    return Embeddings(
        array=vectors_array([e.vector for e in embeddings]),
        fingerprint=one_fingerprint(fingerprint_from(a.fingerprint) for a in answers),
        tokens=tuple(tokens_from(e.tokens) for e in embeddings),
        timing=sum((timing_from(a.timing) for a in answers), Timing()),
    )


def one_fingerprint(fingerprints: Iterable[Fingerprint]) -> Fingerprint | None:
    """The one that all share. Raises FingerprintMismatch: the server changed its model midway."""
    distinct = list({f.combined: f for f in fingerprints}.values())
    if len(distinct) > 1:
        message = "the server changed its model between two requests of one call; call again"
        raise FingerprintMismatch(Failure(code="FAILED_PRECONDITION", message=message))
    return distinct[0] if distinct else None
