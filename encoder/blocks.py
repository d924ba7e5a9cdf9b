"""Parts of layers, in a graph: what an encoder and a decoder have in common."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from encoder.config import Activation, EncoderConfig, Layout
from encoder.graph import GraphBuilder
from encoder.linear import Activations, Arithmetic, Floats, Linear

# Large enough that softmax gives exactly 0, small enough that no sum with it overflows.
MASKED = -1e30

Weights = Mapping[str, NDArray[np.float32]]


class Blocks:
    """Writes parts of layers into a graph. Shapes: B batch, T tokens, W width, H heads, D head."""

    def __init__(
        self,
        graph: GraphBuilder,
        config: EncoderConfig,
        weights: Weights,
        arithmetic: Arithmetic,
        *,
        prefix: str = "",
    ) -> None:
        """weights: by their names in the torch module; they are stored under prefix + name"""
        self._graph = graph
        self._config = config
        self._weights = weights
        self._arithmetic = arithmetic
        self._prefix = prefix

    def padding(self, mask: str) -> str:
        """What to add to scores so that padding gets no weight, (B, 1, 1, T), of `mask` (B, T)."""
        graph = self._graph
        present = graph.cast(mask, np.float32)
        absent = graph.add("Sub", graph.scalar(1.0), present)
        hiding = graph.add("Mul", absent, graph.scalar(MASKED))
        return graph.add("Unsqueeze", hiding, graph.integers(1, 2))

    def attend(self, query: str, key: str, value: str, bias: str | None) -> tuple[str, str]:
        """Mixed values (B, H, Q, D) of queries (B, H, Q, D), and the shares (B, H, Q, T), in fp32
        in every precision."""
        graph, arithmetic = self._graph, self._arithmetic
        query = graph.add("Mul", query, graph.scalar(1 / math.sqrt(self._config.head_width)))
        scores = arithmetic.product(graph, query, graph.add("Transpose", key, perm=[0, 1, 3, 2]))
        if bias is not None:
            scores = graph.add("Add", scores, bias)
        shares = graph.add("Softmax", scores, axis=-1)
        return arithmetic.product(graph, shares, value), shares

    def heads(self, stacked: str, parts: int) -> list[str]:
        """`stacked` (B, T, parts * W) as `parts` times (B, H, T, D)."""
        graph, config = self._graph, self._config
        shape = graph.integers(0, 0, parts, config.heads, config.head_width)
        apart = graph.add("Transpose", graph.add("Reshape", stacked, shape), perm=[2, 0, 3, 1, 4])
        return [
            graph.add("Gather", apart, graph.weight(f"part_{i}", np.array(i)), axis=0)
            for i in range(parts)
        ]

    def joined(self, heads: str) -> str:
        """(B, H, T, D) as (B, T, W)."""
        graph = self._graph
        mixed = graph.add("Transpose", heads, perm=[0, 2, 1, 3])
        return graph.add("Reshape", mixed, graph.integers(0, 0, self._config.width))

    def feed_forward(self, name: str, states: str) -> str:
        """The layer's two linear layers, with what is between them."""
        graph = self._graph
        inner = self.linear(f"{name}.feed_forward.inner", states)
        outer = f"{name}.feed_forward.outer"
        if self._config.layout is Layout.MODERNBERT:
            activated, gate = graph.split("Split", inner, outputs=2, axis=-1, num_outputs=2)
            gated = graph.add("Mul", graph.add("Gelu", activated), gate)
            return self.linear(outer, gated, Activations.GATED)
        match self._config.activation:
            case Activation.GELU:
                return self.linear(outer, graph.add("Gelu", inner), Activations.GELU)
            case Activation.RELU:
                return self.linear(outer, graph.add("Relu", inner), Activations.GELU)
            case Activation.SILU:  # down to -0.28, as few bits as there are for that
                activated = graph.add("Mul", inner, graph.add("Sigmoid", inner))
                return self.linear(outer, activated, Activations.GATED)

    def rotate(self, heads: str, rotation: tuple[str, str]) -> str:
        """Queries or keys (B, H, T, D) turned by RoPE's cosines and sines (T, D)."""
        graph = self._graph
        first, second = graph.split("Split", heads, outputs=2, axis=-1, num_outputs=2)
        turned = graph.add("Concat", graph.add("Neg", second), first, axis=-1)
        cosines, sines = rotation
        return graph.add("Add", graph.add("Mul", heads, cosines), graph.add("Mul", turned, sines))

    def rotation(self, kind: str, theta: float, first: str, stop: str) -> tuple[str, str]:
        """RoPE's cosines and sines of the positions `first` to `stop`, (1,) each."""
        angles = _angles(self._config.tokens_max, self._config.head_width, theta)
        return (
            self.rows(f"cosines_{kind}", np.cos(angles), first, stop),
            self.rows(f"sines_{kind}", np.sin(angles), first, stop),
        )

    def rows(self, name: str, table: Floats, first: str, stop: str) -> str:
        """Rows `first` to `stop`, (1,) each, of a table with a row for each position."""
        graph = self._graph
        values = np.ascontiguousarray(table, dtype=np.float32)
        whole = graph.weight(self._prefix + name, values)
        return graph.add("Slice", whole, first, stop, graph.integers(0))

    def sinusoids(self, states: str, first: str, stop: str) -> str:
        """Marian's embeddings: word vectors, scaled, with their positions."""
        graph, config = self._graph, self._config
        if config.embeddings_scaled:
            states = graph.add("Mul", states, graph.scalar(math.sqrt(config.width)))
        table = _sinusoids(config.tokens_max, config.width)
        return graph.add("Add", states, self.rows("sinusoids", table, first, stop))

    def linear(self, name: str, states: str, activations: Activations = Activations.STEADY) -> str:
        """The linear layer `name`."""
        weight = np.ascontiguousarray(self._weights[f"{name}.weight"].T)
        bias = self._weights.get(f"{name}.bias")
        layer = Linear(self._prefix + name, weight, bias, activations)
        return self._arithmetic.linear(self._graph, states, layer)

    def norm(self, name: str, states: str) -> str:
        """The layer normalisation `name`."""
        return self.norm_of(self._weights, name, states, self._prefix)

    def norm_of(self, weights: Weights, name: str, states: str, prefix: str) -> str:
        """The same, whose weights are others'; stored under prefix + name."""
        graph = self._graph
        inputs = [
            graph.weight(prefix + part, weights[part])
            for part in (f"{name}.weight", f"{name}.bias")
            if part in weights
        ]
        epsilon = self._config.norm_epsilon
        return graph.add("LayerNormalization", states, *inputs, axis=-1, epsilon=epsilon)


def _angles(tokens_max: int, head_width: int, theta: float) -> Floats:
    """RoPE's angles (tokens_max, D), in fp32 as torch computes them: see `model.rotations`."""
    pairs = np.arange(0, head_width, 2, dtype=np.float32)
    frequencies = np.float32(1.0) / np.float32(theta) ** (pairs / np.float32(head_width))
    angles = np.outer(np.arange(tokens_max, dtype=np.float32), frequencies)
    return np.concatenate([angles, angles], axis=-1, dtype=np.float32)


def _sinusoids(tokens_max: int, width: int) -> Floats:
    """Marian's positions (tokens_max, W): see `model.sinusoids`."""
    pairs = np.arange(0, width, 2, dtype=np.float64)
    angles = np.outer(np.arange(tokens_max, dtype=np.float64), 10_000.0 ** (-pairs / width))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)[:, :width].astype(np.float32)
