"""The decoder of `decoder.py` as two graphs: what is done once a text, and once a token.

Letters in the shape comments: S sentences, K hypotheses of each, N = S * K of them, P target
tokens read before, U = P + 1 with the one being read, T source tokens, H heads, D head width,
V vocabulary, C proposals.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encoder.blocks import MASKED, Blocks, Weights
from encoder.config import EncoderConfig, Layout
from encoder.graph import GraphBuilder
from encoder.linear import Arithmetic

PREFIX = "decoder."


def table_name(*, tied: bool) -> str:
    """The name under which the decoder's word table is stored; tied, it is the encoder's."""
    return "embeddings.word" if tied else f"{PREFIX}embeddings.word"


@dataclass(frozen=True, slots=True)
class Pair:
    """Keys and values of one layer, by their names in the graph."""

    keys: str
    values: str


@dataclass(frozen=True, slots=True)
class Read:
    """What reading one token leaves.

    states: (S, K, W), after the final norm where the layout has one
    past:   of each layer the keys and values of all tokens read, (N, H, U, D)
    shares: of each layer what was looked at of the source, (S, H, K, T)
    """

    states: str
    past: list[Pair]
    shares: list[str]


@dataclass(frozen=True, slots=True)
class _View:
    """What all layers share: which source tokens are padding, and where the token stands."""

    padding: str
    rotation: tuple[str, str] | None


class DecoderNetwork(Blocks):
    """Writes a decoder into graphs. weights: `decoder.Decoder`'s state, by its names."""

    def __init__(
        self,
        graph: GraphBuilder,
        config: EncoderConfig,
        weights: Weights,
        arithmetic: Arithmetic,
        *,
        table: str,
    ) -> None:
        """table: the name under which the word table is stored; the encoder's if it is the same"""
        super().__init__(graph, config, weights, arithmetic, prefix=PREFIX)
        self._table = table

    def source(self, memory: str) -> list[Pair]:
        """Each layer's keys and values of the source's states (S, T, W), (S, H, T, D)."""
        pairs = []
        for layer in range(self._config.layers):
            stacked = self.linear(f"layers.{layer}.cross_attention.key_value", memory)
            pairs.append(Pair(*self.heads(stacked, 2)))
        return pairs

    def read(
        self, ids: str, parents: str, past: Sequence[Pair], source: Sequence[Pair], mask: str
    ) -> Read:
        """Read one more token of each hypothesis.

        ids:     (S, K)
        parents: (S, K), the row of `past` that each hypothesis continues
        past:    of each layer (rows, H, P, D)
        source:  of each layer (S, H, T, D)
        mask:    (S, T), 1 where there is a source token
        """
        graph, config = self._graph, self._config
        first = graph.add("Shape", past[0].keys, start=2, end=3)  # (1,): P
        stop = graph.add("Add", first, graph.integers(1))
        states = self._embed(ids, first, stop)
        rotation = None
        if config.layout is Layout.MODERNBERT:
            rotation = self.rotation("global", config.rope_theta_global, first, stop)
        rows = graph.add("Reshape", parents, graph.integers(-1))
        view = _View(self.padding(mask), rotation)
        kept, looked = [], []
        for layer in range(config.layers):
            before = Pair(*(graph.add("Gather", part, rows) for part in _both(past[layer])))
            states, now, shares = self._layer(
                f"layers.{layer}", states, before, source[layer], view
            )
            kept.append(now)
            looked.append(shares)
        if not config.post_norm:
            states = self.norm("final_norm", states)
        return Read(states, kept, looked)

    def logits(self, states: str) -> str:
        """Of the token after each of `states` (S, K, W), (S, K, V); the padding token is none."""
        bias = self._weights["bias"].copy()
        bias[self._config.pad_id] = MASKED
        table = self._weights["embeddings.word.weight"]
        return self._arithmetic.vocabulary(self._graph, states, self._table, table, bias)

    def proposals(self, logits: str, choices: str) -> tuple[str, str]:
        """The likeliest next tokens by `logits` (S, K, V): ids and log-probabilities, (S, K, C).

        choices: (1,), how many. Best first, equal ones by number.
        """
        graph = self._graph
        shares = graph.add("LogSoftmax", logits, axis=-1)
        best, ids = graph.split("TopK", shares, choices, outputs=2, axis=-1)
        return ids, best

    def mean(self, shares: str, heads: Sequence[int]) -> str:
        """Of some heads' shares (S, H, K, T), (S, K, T). heads: none are all"""
        graph = self._graph
        # Added one by one, in one order: a reduction's order may depend on the batch.
        each = [
            graph.add("Gather", shares, graph.weight(f"part_{head}", np.array(head)), axis=1)
            for head in heads or range(self._config.heads)
        ]
        total = each[0]
        for further in each[1:]:
            total = graph.add("Add", total, further)
        return graph.add("Mul", total, graph.scalar(1 / len(each)))

    def _embed(self, ids: str, first: str, stop: str) -> str:
        table = self._weights["embeddings.word.weight"]
        states = self._arithmetic.lookup(self._graph, self._table, table, ids)
        if self._config.layout is Layout.MARIAN:
            return self.sinusoids(states, first, stop)
        return self.norm("embeddings.norm", states)

    def _layer(
        self, name: str, states: str, before: Pair, source: Pair, view: _View
    ) -> tuple[str, Pair, str]:
        """New states (S, K, W), this layer's keys and values, and its shares of the source."""
        graph = self._graph
        if self._config.post_norm:
            mixed, now = self._self_attention(name, states, before, view.rotation)
            states = self.norm(f"{name}.attention_norm", graph.add("Add", states, mixed))
            mixed, shares = self._cross_attention(name, states, source, view.padding)
            states = self.norm(f"{name}.cross_attention_norm", graph.add("Add", states, mixed))
            inner = graph.add("Add", states, self.feed_forward(name, states))
            return self.norm(f"{name}.feed_forward_norm", inner), now, shares
        first = f"{name}.attention_norm.weight" not in self._weights  # embeddings come normed
        normed = states if first else self.norm(f"{name}.attention_norm", states)
        mixed, now = self._self_attention(name, normed, before, view.rotation)
        states = graph.add("Add", states, mixed)
        normed = self.norm(f"{name}.cross_attention_norm", states)
        mixed, shares = self._cross_attention(name, normed, source, view.padding)
        states = graph.add("Add", states, mixed)
        normed = self.norm(f"{name}.feed_forward_norm", states)
        return graph.add("Add", states, self.feed_forward(name, normed)), now, shares

    def _self_attention(
        self, name: str, states: str, before: Pair, rotation: tuple[str, str] | None
    ) -> tuple[str, Pair]:
        """Each hypothesis is a row of its own, with one query."""
        graph, config = self._graph, self._config
        stacked = self.linear(f"{name}.attention.query_key_value", states)  # (S, K, 3W)
        rows = graph.add("Reshape", stacked, graph.integers(-1, 1, 3 * config.width))
        query, key, value = self.heads(rows, 3)  # (N, H, 1, D)
        if rotation is not None:
            query, key = self.rotate(query, rotation), self.rotate(key, rotation)
        now = Pair(
            graph.add("Concat", before.keys, key, axis=2),
            graph.add("Concat", before.values, value, axis=2),
        )
        mixed, _ = self.attend(query, now.keys, now.values, None)
        shape = graph.add(
            "Concat",
            graph.add("Shape", states, start=0, end=2),
            graph.integers(config.width),
            axis=0,
        )
        joined = graph.add("Reshape", mixed, shape)  # (N, H, 1, D) lies as (S, K, W) does
        return self.linear(f"{name}.attention.output", joined), now

    def _cross_attention(self, name: str, states: str, source: Pair, bias: str) -> tuple[str, str]:
        """A sentence is a row, and its hypotheses are its queries: the source is there once."""
        (query,) = self.heads(self.linear(f"{name}.cross_attention.query", states), 1)
        mixed, shares = self.attend(query, source.keys, source.values, bias)
        return self.linear(f"{name}.cross_attention.output", self.joined(mixed)), shares


def _both(pair: Pair) -> tuple[str, str]:
    return pair.keys, pair.values
