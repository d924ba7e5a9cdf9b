"""The encoder of `model.py` as a graph: the same steps, in the same order."""

from dataclasses import dataclass

import numpy as np

from encoder.blocks import MASKED, Blocks, Weights
from encoder.config import Layout, Pooling
from encoder.linear import Floats

__all__ = ["Layers", "Network", "Weights"]


@dataclass(frozen=True, slots=True)
class Layers:
    """The values that a forward pass leaves on its way.

    states:     the embeddings' output and each layer's, (B, T, W); the last after the final norm
    attentions: each layer's, (B, H, T, T): how much of row's token each column's contributes
    """

    states: list[str]
    attentions: list[str]


class Network(Blocks):
    """Writes an encoder's forward pass into a graph. Shapes: B batch, T tokens, W width.

    weights: `model.Encoder`'s state, by its names
    """

    def layers(self, ids: str, mask: str) -> Layers:
        """The whole forward pass; onnxruntime computes of it what a graph's outputs need."""
        graph, config = self._graph, self._config
        tokens = graph.add("Shape", ids, start=1, end=2)  # (1,): T
        padding = self.padding(mask)
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
        if not config.post_norm:
            states[-1] = self.norm("final_norm", states[-1])
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
        transformed = self.norm_of(head, "norm", graph.add("Gelu", transformed), "head.")
        table = self._weights["embeddings.word.weight"]
        products = self._arithmetic.products(graph, transformed, "embeddings.word", table)
        return graph.add("Add", products, graph.weight("head.bias", head["bias"]))

    def _embed(self, ids: str, tokens: str) -> str:
        graph, weights = self._graph, self._weights
        states = self.static(ids)
        if self._config.layout is Layout.MARIAN:
            return self.sinusoids(states, graph.integers(0), tokens)
        if self._config.layout is Layout.BERT:
            offset = self._config.position_offset
            table = weights["embeddings.position.weight"][offset:]
            table = table + weights["embeddings.token_type.weight"][0]
            positions = self.rows("positions", table, graph.integers(0), tokens)
            states = graph.add("Add", states, positions)
        return self.norm("embeddings.norm", states)

    def _layer(
        self, layer: int, states: str, bias: str, rotation: tuple[str, str] | None
    ) -> tuple[str, str]:
        graph, name = self._graph, f"layers.{layer}"
        if self._config.post_norm:
            mixed, shares = self._attention(name, states, bias, rotation)
            states = self.norm(f"{name}.attention_norm", graph.add("Add", states, mixed))
            inner = self.feed_forward(name, states)
            states = self.norm(f"{name}.feed_forward_norm", graph.add("Add", states, inner))
            return states, shares
        normed = self.norm(f"{name}.attention_norm", states) if layer else states
        mixed, shares = self._attention(name, normed, bias, rotation)
        states = graph.add("Add", states, mixed)
        normed = self.norm(f"{name}.feed_forward_norm", states)
        return graph.add("Add", states, self.feed_forward(name, normed)), shares

    def _attention(
        self, name: str, states: str, bias: str, rotation: tuple[str, str] | None
    ) -> tuple[str, str]:
        """The mixed values (B, T, W), and the shares (B, H, T, T), in fp32 in every precision."""
        name = f"{name}.attention"
        query, key, value = self.heads(self.linear(f"{name}.query_key_value", states), 3)
        if rotation is not None:
            query, key = self.rotate(query, rotation), self.rotate(key, rotation)
        mixed, shares = self.attend(query, key, value, bias)
        return self.linear(f"{name}.output", self.joined(mixed)), shares

    def _view(
        self, tokens: str, padding: str, *, local: bool
    ) -> tuple[str, tuple[str, str] | None]:
        """The attention bias and the rotation that all layers of a kind share."""
        graph, config = self._graph, self._config
        bias = padding
        if local:
            near = self._near(tokens)
            bias = graph.add("Min", padding, near)
            # A padded token out of everybody's reach would see only minus infinity; as all its
            # scores are then equally low, softmax still gives numbers, and nobody reads them.
        if config.layout is not Layout.MODERNBERT:
            return bias, None
        theta = config.rope_theta_local if local else config.rope_theta_global
        kind = "local" if local else "global"
        return bias, self.rotation(kind, theta, graph.integers(0), tokens)

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
