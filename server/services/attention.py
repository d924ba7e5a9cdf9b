"""What tokens attend to, a message a layer."""

from collections.abc import AsyncIterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from encoder.attention import strongest
from encoder.runtime import Encoder, Graph, GraphMissing
from encoder.tokenizer import Truncation, Window
from encoder.words import WordNotInWindow, tokens_of
from polyseme.v1 import attention_pb2, attention_pb2_grpc
from server.attention import AttentionPlan, AttentionQuestion, Kind
from server.batching import Lane
from server.embedder import Embedder, refuse_long
from server.errors import LimitExceeded, ModelLacks, ReplyTooLarge, RequestInvalid, naming
from server.limits import check_count, check_text
from server.messages import (
    counts_to,
    fingerprint_to,
    lane_from,
    matrix_to,
    targets_from,
    timing_to,
    truncation_from,
)
from server.settings import Settings
from server.tokens import token_messages

_KINDS = {
    attention_pb2.ATTENTION_KIND_UNSPECIFIED: Kind.RAW,
    attention_pb2.ATTENTION_KIND_RAW: Kind.RAW,
    attention_pb2.ATTENTION_KIND_HEAD_MEAN: Kind.HEAD_MEAN,
    attention_pb2.ATTENTION_KIND_ROLLOUT: Kind.ROLLOUT,
}


class AttentionService(attention_pb2_grpc.AttentionServiceServicer):
    """The model's attention, as it is and made readable."""

    def __init__(self, embedder: Embedder, settings: Settings) -> None:
        self._embedder = embedder
        self._settings = settings

    async def GetAttention(
        self, request: attention_pb2.GetAttentionRequest, context: object
    ) -> AsyncIterator[attention_pb2.GetAttentionResponse]:
        encoder = self._embedder.encoder
        if Graph.ATTENTION not in encoder.graphs:
            problem = str(GraphMissing(Graph.ATTENTION, encoder.name))
            raise ModelLacks("MODEL_HAS_NO_ATTENTION", problem)
        check_text("text", request.text, self._settings)
        check_count("words", len(request.words), self._settings.spans_max, "words")
        plan = plan_from(request, encoder)
        truncation = truncation_from(request.truncation, "truncation")
        if truncation is Truncation.WINDOWS:
            raise RequestInvalid("truncation", "windows overlap; choose ERROR, HEAD or TAIL")
        lane = lane_from(request.priority, Lane.INTERACTIVE)
        with naming(lambda _: "text", "text"):
            tokenized = await self._embedder.tokenize([request.text], truncation)
            refuse_long(tokenized.texts, truncation, encoder.tokens_max)
        window = tokenized.texts[0].windows[0]
        cost = len(request.text) * len(request.words)
        rows = await self._embedder.aside(partial(rows_from, request, window), cost)
        self._check_size(plan, len(window.ids), len(rows))
        (shares,), timing = await self._embedder.ask(
            AttentionQuestion(plan, rows), [window], tokenized, lane
        )
        first = attention_pb2.GetAttentionResponse(
            layers=plan.layers,
            tokens=token_messages(request.text, window, encoder.tokenizer),
            rows=rows,
            count=counts_to(tokenized.counts[0]),
            fingerprint=fingerprint_to(encoder.fingerprint()),
            timing=timing_to(timing),
        )
        for layer, of_layer in zip(plan.layers, shares, strict=True):
            make = partial(heads_to, plan, rows, of_layer)
            heads = await self._embedder.aside(make, of_layer.size)
            reply = attention_pb2.GetAttentionResponse(layer=layer, heads=heads)
            if layer == plan.layers[0]:
                reply.MergeFrom(first)
            yield reply

    def _check_size(self, plan: AttentionPlan, tokens: int, rows: int) -> None:
        """Before any work. Raises LimitExceeded, ReplyTooLarge."""
        cells = plan.cells(tokens, self._embedder.encoder.heads)
        cells_max = self._settings.attention_cells_max
        if cells > cells_max:
            unit = f"attention weights in {len(plan.computed_layers)} layers of {tokens} tokens"
            raise LimitExceeded("layers", cells, cells_max, unit)
        reply_bytes = plan.message_bytes(tokens, rows)
        if reply_bytes > self._settings.message_bytes_max:
            raise ReplyTooLarge(reply_bytes, self._settings.message_bytes_max)


def plan_from(request: attention_pb2.GetAttentionRequest, encoder: Encoder) -> AttentionPlan:
    """Raises RequestInvalid."""
    if request.kind not in _KINDS:
        raise RequestInvalid("kind", f"{request.kind} is no known value")
    kind = _KINDS[request.kind]
    if kind is Kind.ROLLOUT and request.heads:
        raise RequestInvalid("heads", "a rollout is of all heads: leave them out")
    if request.edges_per_row_max < 0:
        raise RequestInvalid("edges_per_row_max", f"{request.edges_per_row_max} is below 0")
    return AttentionPlan(
        kind=kind,
        layers=attention_layers_from(request.layers, encoder.layers),
        heads=numbers_from("heads", request.heads, encoder.heads),
        edges_per_row_max=request.edges_per_row_max,
    )


def attention_layers_from(layers: Sequence[int], count: int) -> tuple[int, ...]:
    """Layers from 1, each once, rising; negative ones count from the end. None: all."""
    for index, layer in enumerate(layers):
        if layer == 0 or not -count <= layer <= count:
            problem = f"{layer} is not within 1 to {count}, or -{count} to -1"
            raise RequestInvalid(f"layers[{index}]", problem)
    chosen = {layer if layer > 0 else layer + count + 1 for layer in layers}
    return tuple(sorted(chosen)) or tuple(range(1, count + 1))


def numbers_from(field: str, numbers: Sequence[int], count: int) -> tuple[int, ...]:
    """Numbers from 0, each once, rising. None: all."""
    for index, number in enumerate(numbers):
        if not 0 <= number < count:
            raise RequestInvalid(f"{field}[{index}]", f"{number} is not within 0 to {count - 1}")
    return tuple(sorted(set(numbers))) or tuple(range(count))


def rows_from(request: attention_pb2.GetAttentionRequest, window: Window) -> tuple[int, ...]:
    """The tokens asked for by number and by word. Raises RequestInvalid."""
    wanted = set(numbers_from("rows", request.rows, len(window.ids)) if request.rows else ())
    for index, span in enumerate(targets_from(request.text, request.words, "words")):
        try:
            tokens = tokens_of(window, span)
        except WordNotInWindow:
            problem = "the model does not read this word: it was cut away, or has no tokens"
            raise RequestInvalid(f"words[{index}]", problem) from None
        wanted |= set(range(tokens.start, tokens.stop))
    return tuple(sorted(wanted)) or tuple(range(len(window.ids)))


def heads_to(
    plan: AttentionPlan, rows: Sequence[int], shares: NDArray[np.float32]
) -> list[attention_pb2.AttentionHead]:
    """One layer's messages, of its shares (matrices, rows, tokens)."""
    numbers = plan.heads if plan.kind is Kind.RAW else (None,)
    return [
        attention_pb2.AttentionHead(head=number, edges=edges_to(rows, matrix, plan))
        if plan.edges_per_row_max
        else attention_pb2.AttentionHead(head=number, shares=matrix_to(matrix))
        for number, matrix in zip(numbers, shares, strict=True)
    ]


def edges_to(
    rows: Sequence[int], matrix: NDArray[np.float32], plan: AttentionPlan
) -> list[attention_pb2.AttentionEdge]:
    return [
        attention_pb2.AttentionEdge(row=rows[row], column=column, share=share)
        for row, column, share in strongest(matrix, plan.edges_per_row_max)
    ]
