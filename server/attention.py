"""What a call wants of the model's attention, and how much that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from encoder.attention import head_mean, rollout
from encoder.runtime import Encoder
from encoder.tokenizer import Window

EDGE_BYTES = 16  # of one edge as a message, at most: two token numbers and a float


class Kind(Enum):
    """What is made of a layer's heads."""

    RAW = "raw"
    HEAD_MEAN = "head mean"
    ROLLOUT = "rollout"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPlan:
    """What is wanted of a text.

    layers: from 1, rising, each once
    heads:  from 0, rising, each once; all of them for ROLLOUT
    edges_per_row_max: the strongest of each row; 0 for all, as a matrix
    """

    kind: Kind
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    edges_per_row_max: int

    @property
    def computed_layers(self) -> range | tuple[int, ...]:
        """The layers that the model has to write out."""
        return range(1, max(self.layers) + 1) if self.kind is Kind.ROLLOUT else self.layers

    def cells(self, tokens: int, heads: int) -> int:
        """Attention weights that the model writes out, of all its `heads`."""
        return len(self.computed_layers) * heads * tokens * tokens

    def message_bytes(self, tokens: int, rows: int) -> int:
        """The size of one layer's answer."""
        matrices = len(self.heads) if self.kind is Kind.RAW else 1
        if self.edges_per_row_max:
            return matrices * rows * min(self.edges_per_row_max, tokens) * EDGE_BYTES
        return matrices * rows * tokens * 4


@dataclass(frozen=True, slots=True, eq=False)
class AttentionQuestion:
    """The plan for one text: `embedder.Question`, answered by (layers, matrices, rows, tokens)."""

    plan: AttentionPlan
    rows: tuple[int, ...]

    def answer(self, encoder: Encoder, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        """One array a window; a matrix a head for RAW, one otherwise."""
        return [self._of(encoder, window) for window in windows]

    def _of(self, encoder: Encoder, window: Window) -> NDArray[np.float32]:
        plan = self.plan
        shares = encoder.attention(window, plan.computed_layers)
        match plan.kind:
            case Kind.RAW:
                chosen = shares[:, list(plan.heads)]
            case Kind.HEAD_MEAN:
                chosen = head_mean(shares[:, list(plan.heads)])[:, np.newaxis]
            case Kind.ROLLOUT:
                wanted = [layer - 1 for layer in plan.layers]
                chosen = rollout(shares)[wanted][:, np.newaxis]
        return chosen[:, :, list(self.rows)]
