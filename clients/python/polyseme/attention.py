"""What the tokens of a text attend to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from polyseme import methods
from polyseme.plans import Plan, gather
from polyseme.retry import Budget
from polyseme.v1 import attention_pb2
from polyseme.vectors import (
    Fingerprint,
    Priority,
    Timing,
    TokenCount,
    Truncation,
    check_fields,
    choice,
    fingerprint_from,
    matrix_array,
    priority_number,
    timing_from,
    tokens_from,
    truncation_number,
)
from polyseme.words import Target, Token, target_message, token_from

AttentionKind = Literal["raw", "mean", "rollout"]
_KINDS: dict[AttentionKind, attention_pb2.AttentionKind.ValueType] = {
    "raw": attention_pb2.ATTENTION_KIND_RAW,
    "mean": attention_pb2.ATTENTION_KIND_HEAD_MEAN,
    "rollout": attention_pb2.ATTENTION_KIND_ROLLOUT,
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Attention:
    """How much of each token went into each other. Where values came from, not why.

    shares: (layers, matrices, rows, tokens): `shares[0, 0, 2, 5]` is how much of token 5 the
            third of `rows` took on in the first of `layers`. Every row sums to one, unless it
            was pruned: then what was left out is 0.
    """

    kind: AttentionKind
    tokens: tuple[Token, ...]  # special ones included; the columns
    rows: tuple[int, ...]  # which tokens the rows are
    layers: tuple[int, ...]  # from 1
    heads: tuple[int, ...]  # from 0, a matrix each; empty for "mean" and "rollout", one matrix
    shares: NDArray[np.float32]
    count: TokenCount
    fingerprint: Fingerprint
    timing: Timing

    def __array__(
        self, dtype: np.dtype[np.generic] | None = None, copy: bool | None = None
    ) -> NDArray[np.generic]:
        return np.array(self.shares, dtype=dtype, copy=copy)


def attention(
    budget: Budget,
    text: str,
    *,
    kind: AttentionKind = "raw",
    layers: Sequence[int] = (),
    heads: Sequence[int] = (),
    rows: Sequence[int] = (),
    words: Sequence[Target] = (),
    edges_per_row_max: int = 0,
    truncation: Truncation | None = None,
    priority: Priority | None = None,
) -> Plan[Attention]:
    """The attention of one text: a stream of one message a layer, put together."""
    check_fields(
        text=text, layers=layers, heads=heads, rows=rows, edges_per_row_max=edges_per_row_max
    )
    request = attention_pb2.GetAttentionRequest(
        text=text,
        kind=choice("kind", kind, _KINDS, attention_pb2.ATTENTION_KIND_UNSPECIFIED),
        layers=layers,
        heads=heads,
        rows=rows,
        words=[target_message(target, f"words[{i}]") for i, target in enumerate(words)],
        edges_per_row_max=edges_per_row_max,
        truncation=truncation_number(truncation),
        priority=priority_number(priority),
    )
    answers = yield from gather(budget, methods.GET_ATTENTION, request, _layers_count)
    first = answers[0]
    return Attention(
        kind=kind,
        tokens=tuple(token_from(token) for token in first.tokens),
        rows=tuple(first.rows),
        layers=tuple(answer.layer for answer in answers),
        heads=tuple(head.head for head in first.heads if head.HasField("head")),
        shares=np.stack([_shares(answer, first) for answer in answers]),
        count=tokens_from(first.count),
        fingerprint=fingerprint_from(first.fingerprint),
        timing=timing_from(first.timing),
    )


def _layers_count(first: attention_pb2.GetAttentionResponse) -> int:
    return len(first.layers)


def _shares(
    answer: attention_pb2.GetAttentionResponse, first: attention_pb2.GetAttentionResponse
) -> NDArray[np.float32]:
    """One layer's (matrices, rows, tokens)."""
    return np.stack([_matrix(head, first) for head in answer.heads])


def _matrix(
    head: attention_pb2.AttentionHead, first: attention_pb2.GetAttentionResponse
) -> NDArray[np.float32]:
    if head.HasField("shares"):
        return matrix_array(head.shares)
    matrix = np.zeros((len(first.rows), len(first.tokens)), np.float32)
    place = {token: row for row, token in enumerate(first.rows)}
    for edge in head.edges:
        matrix[place[edge.row], edge.column] = edge.share
    return matrix
