"""The encoder of `model.py` as a graph: the same steps, in the same order."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.config import EncoderConfig, Layout, Pooling
from encoder.graph import GraphBuilder
from encoder.linear import Activations, Arithmetic, Floats, Linear

# Large enough that softmax gives exactly 0, small enough that no sum with it overflows.
MASKED = -1e30

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Layers:
    """The values that a forward pass leaves on its way.

    states:     the embeddings' output and each layer's, (B, T, W); the last after the final norm
    attentions: each layer's, (B, H, T, T): how much of row's token each column's contributes
    """

    states: list[str]
    attentions: list[str]


class Network:
    """Writes an encoder's forward pass into a graph. Shapes: B batch, T tokens, W width."""

    def __init__(
        self,
        graph: GraphBuilder,
        config: EncoderConfig,
        weights: Weights,
        arithmetic: Arithmetic,
    ) -> None:
        """weights: `model.Encoder`'s state, by its names."""
        self._graph = graph
        self._config = config
        self._weights = weights
        self._arithmetic = arithmetic

    def layers(self, ids: str, mask: str) -> Layers:
        """The whole forward pass; onnxruntime computes of it what a graph's outputs need."""
        graph, config = self._graph, self._config
        tokens = graph.add("Shape", ids, start=1, end=2)  # (1,): T
        present = graph.cast(mask, np.float32)  # (B, T)
        padding = graph.add(
            "Mul", graph.add("Sub", graph.scalar(1.0), present), graph.scalar(MASKED)
        )
        padding = graph.add("Unsqueeze", padding, graph.integers(1, 2))  # (B, 1, 1, T)
        states, attentions = [self._embed(ids, tokens)], []
        views = {
            local: self._view(tokens, padding, local=local)
            for local in {layer in config.local_layers for layer in range(config.layers)}
        }
        for layer in range(config.layers):
            bias, rotation = views[layer in config.local_layers]
            state, shares = self._layer(layer, states[-1], bias, rotation)
            states.append(state)
            attentions.append(shares)
        if config.layout is Layout.MODERNBERT:
            states[-1] = self._norm("final_norm", states[-1])
        return Layers(states, attentions)

    def static(self, ids: str) -> str:
        """Rows of the word-embedding table."""
        table = self._weights["embeddings.word.weight"]
        return self._arithmetic.lookup(self._graph, "embeddings.word", table, ids)

    def pooled(self, states: str, mask: str, pooling: Pooling) -> str:
        """One vector (B, W) a text."""
        graph = self._graph
        if pooling is Pooling.CLS:
            return graph.add("Gather", states, graph.weight("first", np.array(0)), axis=1)
        present = graph.cast(mask, np.float32)
        if pooling is Pooling.MAX:
            absent = graph.add("Sub", graph.scalar(1.0), present)
            lowering = graph.add("Mul", absent, graph.scalar(MASKED))
            lowering = graph.add("Unsqueeze", lowering, graph.integers(2))
            lowered = graph.add("Add", states, lowering)
            return graph.add("ReduceMax", lowered, graph.integers(1), keepdims=0)
        # As a product, since onnxruntime's ReduceSum over a middle axis adds in an order that
        # depends on how many rows there are: a vector would depend on its batch's padding. Of
        # two equal rows, since a product with a single row takes a kernel with the same fault.
        count = graph.add("ReduceSum", present, graph.integers(1), keepdims=1)
        share = graph.add("Unsqueeze", graph.add("Div", present, count), graph.integers(1))
        twice = graph.add("MatMul", graph.add("Concat", share, share, axis=1), states)
        return graph.add("Gather", twice, graph.weight("first", np.array(0)), axis=1)

    def project(self, vectors: str, weight: Floats, bias: Floats | None) -> str:
        """The linear layer after pooling, in fp32 in every precision: it costs next to nothing."""
        graph = self._graph
        product = graph.add("MatMul", vectors, graph.weight("projection.weight", weight))
        return (
            product
            if bias is None
            else graph.add("Add", product, graph.weight("projection.bias", bias))
        )

    def logits(self, states: str, places: str, head: Weights) -> str:
        """How well each token of the vocabulary fits at each of `places`, (P, V).

        places: (P, 2) integers, P > 1: a row of the batch and a token in it
        head:   `model.MaskedLanguageModel`'s own weights, in fp32 in every precision, as they
                are small; its output table is the word-embedding table as it is stored
        """
        graph, weight = self._graph, np.ascontiguousarray(head["transform.weight"].T)
        asked = graph.add("GatherND", states, places)  # (P, W)
        transformed = graph.add("MatMul", asked, graph.weight("head.transform.weight", weight))
        if "transform.bias" in head:
            bias = graph.weight("head.transform.bias", head["transform.bias"])
            transformed = graph.add("Add", transformed, bias)
        transformed = self._norm("norm", graph.add("Gelu", transformed), head, prefix="head.")
        table = self._weights["embeddings.word.weight"]
        products = self._arithmetic.products(graph, transformed, "embeddings.word", table)
        return graph.add("Add", products, graph.weight("head.bias", head["bias"]))

    def _embed(self, ids: str, tokens: str) -> str:
        graph, weights = self._graph, self._weights
        states = self.static(ids)
        if self._config.layout is Layout.BERT:
            offset = self._config.position_offset
            table = weights["embeddings.position.weight"][offset:]
            table = table + weights["embeddings.token_type.weight"][0]
            states = graph.add("Add", states, self._first_rows("positions", table, tokens))
        return self._norm("embeddings.norm", states)

    def _layer(
        self, layer: int, states: str, bias: str, rotation: tuple[str, str] | None
    ) -> tuple[str, str]:
        graph, name = self._graph, f"layers.{layer}"
        if self._config.layout is Layout.BERT:
            mixed, shares = self._attention(name, states, bias, rotation)
            states = self._norm(f"{name}.attention_norm", graph.add("Add", states, mixed))
            inner = self._feed_forward(name, states)
            states = self._norm(f"{name}.feed_forward_norm", graph.add("Add", states, inner))
            return states, shares
        normed = self._norm(f"{name}.attention_norm", states) if layer else states
        mixed, shares = self._attention(name, normed, bias, rotation)
        states = graph.add("Add", states, mixed)
        normed = self._norm(f"{name}.feed_forward_norm", states)
        return graph.add("Add", states, self._feed_forward(name, normed)), shares

    def _attention(
        self, name: str, states: str, bias: str, rotation: tuple[str, str] | None
    ) -> tuple[str, str]:
        """The mixed values (B, T, W), and the shares (B, H, T, T), in fp32 in every precision."""
        graph, config = self._graph, self._config
        name = f"{name}.attention"
        stacked = self._linear(f"{name}.query_key_value", states)  # (B, T, 3W)
        shape = graph.integers(0, 0, 3, config.heads, config.head_width)
        heads = graph.add("Transpose", graph.add("Reshape", stacked, shape), perm=[2, 0, 3, 1, 4])
        query, key, value = (
            graph.add("Gather", heads, graph.weight(f"part_{i}", np.array(i)), axis=0)
            for i in range(3)
        )  # each (B, H, T, D)
        if rotation is not None:
            query, key = self._rotate(query, rotation), self._rotate(key, rotation)
        query = graph.add("Mul", query, graph.scalar(1 / math.sqrt(config.head_width)))
        scores = self._arithmetic.product(
            graph, query, graph.add("Transpose", key, perm=[0, 1, 3, 2])
        )
        shares = graph.add("Softmax", graph.add("Add", scores, bias), axis=-1)  # (B, H, T, T)
        mixed = self._arithmetic.product(graph, shares, value)
        mixed = graph.add("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = graph.add("Reshape", mixed, graph.integers(0, 0, config.width))
        return self._linear(f"{name}.output", mixed), shares

    def _feed_forward(self, name: str, states: str) -> str:
        graph = self._graph
        inner = self._linear(f"{name}.feed_forward.inner", states)
        if self._config.layout is Layout.MODERNBERT:
            activated, gate = graph.split("Split", inner, outputs=2, axis=-1, num_outputs=2)
            gated = graph.add("Mul", graph.add("Gelu", activated), gate)
            return self._linear(f"{name}.feed_forward.outer", gated, Activations.GATED)
        activated = graph.add("Gelu", inner)
        return self._linear(f"{name}.feed_forward.outer", activated, Activations.GELU)

    def _view(
        self, tokens: str, padding: str, *, local: bool
    ) -> tuple[str, tuple[str, str] | None]:
        """The attention bias and RoPE's cosines and sines that all layers of a kind share."""
        graph, config = self._graph, self._config
        bias = padding
        if local:
            near = self._near(tokens)
            bias = graph.add("Min", padding, near)
            # A padded token out of everybody's reach would see only minus infinity; as all its
            # scores are then equally low, softmax still gives numbers, and nobody reads them.
        if config.layout is Layout.BERT:
            return bias, None
        theta = config.rope_theta_local if local else config.rope_theta_global
        angles = _angles(config.tokens_max, config.head_width, theta)
        kind = "local" if local else "global"
        return bias, (
            self._first_rows(f"cosines_{kind}", np.cos(angles), tokens),
            self._first_rows(f"sines_{kind}", np.sin(angles), tokens),
        )

    def _near(self, tokens: str) -> str:
        """(T, T): 0 where a token sees another of a local layer, MASKED where not."""
        graph = self._graph
        zero, one = (graph.weight(f"index_{i}", np.array(i)) for i in (0, 1))
        length = graph.add("Squeeze", tokens, graph.integers(0))
        positions = graph.cast(graph.add("Range", zero, length, one), np.float32)
        column = graph.add("Unsqueeze", positions, graph.integers(1))
        distance = graph.add("Abs", graph.add("Sub", column, positions))
        far = graph.add("Greater", distance, graph.scalar(float(self._config.local_reach_tokens)))
        return graph.add("Mul", graph.cast(far, np.float32), graph.scalar(MASKED))

    def _rotate(self, heads: str, rotation: tuple[str, str]) -> str:
        graph = self._graph
        first, second = graph.split("Split", heads, outputs=2, axis=-1, num_outputs=2)
        turned = graph.add("Concat", graph.add("Neg", second), first, axis=-1)
        cosines, sines = rotation
        return graph.add("Add", graph.add("Mul", heads, cosines), graph.add("Mul", turned, sines))

    def _first_rows(self, name: str, table: Floats, tokens: str) -> str:
        """The first T rows of a table with a row for each position."""
        graph = self._graph
        whole = graph.weight(name, np.ascontiguousarray(table, dtype=np.float32))
        return graph.add("Slice", whole, graph.integers(0), tokens, graph.integers(0))

    def _linear(self, name: str, states: str, activations: Activations = Activations.STEADY) -> str:
        weight = np.ascontiguousarray(self._weights[f"{name}.weight"].T)
        bias = self._weights.get(f"{name}.bias")
        return self._arithmetic.linear(self._graph, states, Linear(name, weight, bias, activations))

    def _norm(
        self, name: str, states: str, weights: Weights | None = None, prefix: str = ""
    ) -> str:
        """weights: whose `name` is meant, the encoder's by default; stored under prefix + name"""
        graph, weights = self._graph, self._weights if weights is None else weights
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
