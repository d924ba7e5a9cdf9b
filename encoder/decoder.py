"""The decoder in torch: it writes a text token by token, with the encoder's states before it.

Read from the bottom: `Decoder` > `DecoderLayer` > `CausalAttention`, `CrossAttention`.
Letters in the shape comments: B batch, T source tokens, U target tokens (P of them known before),
W width, H heads, D head width, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoder.config import EncoderConfig, Layout
from encoder.model import (
    Embeddings,
    FeedForward,
    attention_bias,
    initialize,
    norm,
    rotate,
    rotations,
)

KeysValues: TypeAlias = tuple[Tensor, Tensor]  # of one layer, each (B, H, tokens, D)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a decoder makes of target tokens.

    states:     (B, U, W), after the final norm where the layout has one
    attentions: per layer (B, H, U, T): how much of the row's target token each source token gave.
                Empty unless asked for.
    past:       per layer the keys and values of all target tokens so far, (B, H, P + U, D) each
    """

    states: Tensor
    attentions: tuple[Tensor, ...]
    past: tuple[KeysValues, ...]


class CausalAttention(nn.Module):
    """Self-attention in which a token sees itself and what was written before it."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query_key_value = nn.Linear(config.width, 3 * config.width, bias=config.biased)
        self.output = nn.Linear(config.width, config.width, bias=config.biased)

    def forward(
        self, states: Tensor, rotation: Tensor | None, past: KeysValues | None, *, explain: bool
    ) -> tuple[Tensor, KeysValues]:
        """New states (B, U, W), and the keys and values with those of `states` added."""
        batch, tokens, width = states.shape
        heads = self.query_key_value(states).view(batch, tokens, 3, self.heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, H, U, D)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        if past is not None:  # keys are kept turned: a token's place never changes
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        mixed, _ = attend(query, key, value, causal_bias(query, key), explain=explain)
        return self.output(mixed.transpose(1, 2).reshape(batch, tokens, width)), (key, value)


class CrossAttention(nn.Module):
    """Attention from target tokens to the source's states (Bahdanau et al. 2015's alignment)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width, bias=config.biased)
        self.key_value = nn.Linear(config.width, 2 * config.width, bias=config.biased)
        self.output = nn.Linear(config.width, config.width, bias=config.biased)

    def keys_values(self, memory: Tensor) -> KeysValues:
        """Of the source's states (B, T, W), computed once for a text."""
        batch, tokens, _ = memory.shape
        heads = self.key_value(memory).view(batch, tokens, 2, self.heads, -1)
        key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        return key, value

    def forward(
        self, states: Tensor, source: KeysValues, bias: Tensor | None, *, explain: bool
    ) -> tuple[Tensor, Tensor | None]:
        """New states (B, U, W), and with `explain` the weights (B, H, U, T)."""
        batch, tokens, width = states.shape
        query = self.query(states).view(batch, tokens, self.heads, -1).transpose(1, 2)
        mixed, weights = attend(query, *source, bias, explain=explain)
        return self.output(mixed.transpose(1, 2).reshape(batch, tokens, width)), weights


class DecoderLayer(nn.Module):
    """Attention to the target, attention to the source, feed-forward: each a residual, a norm."""

    def __init__(self, config: EncoderConfig, index: int) -> None:
        super().__init__()
        self.post_norm = config.post_norm
        self.attention = CausalAttention(config)
        self.cross_attention = CrossAttention(config)
        self.feed_forward = FeedForward(config)
        # The embeddings come normed to the first layer, which does not do so again.
        skip_norm = not self.post_norm and index == 0
        self.attention_norm = nn.Identity() if skip_norm else norm(config)
        self.cross_attention_norm = norm(config)
        self.feed_forward_norm = norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        states: Tensor,
        source: KeysValues,
        bias: Tensor | None,
        rotation: Tensor | None,
        past: KeysValues | None,
        *,
        explain: bool,
    ) -> tuple[Tensor, Tensor | None, KeysValues]:
        if self.post_norm:
            mixed, past = self.attention(states, rotation, past, explain=explain)
            states = self.attention_norm(states + self.dropout(mixed))
            mixed, weights = self.cross_attention(states, source, bias, explain=explain)
            states = self.cross_attention_norm(states + self.dropout(mixed))
            states = self.feed_forward_norm(states + self.dropout(self.feed_forward(states)))
            return states, weights, past
        normed = self.attention_norm(states)
        mixed, past = self.attention(normed, rotation, past, explain=explain)
        states = states + self.dropout(mixed)
        normed = self.cross_attention_norm(states)
        mixed, weights = self.cross_attention(normed, source, bias, explain=explain)
        states = states + self.dropout(mixed)
        states = states + self.dropout(self.feed_forward(self.feed_forward_norm(states)))
        return states, weights, past


class Decoder(nn.Module):
    """Target token ids and the source's states to states from which the next tokens are read."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.layers))
        self.final_norm = nn.Identity() if config.post_norm else norm(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # of the output; its table is
        initialize(self, config)  # the input's

    def forward(
        self, ids: Tensor, memory: Tensor, memory_mask: Tensor | None, *, explain: bool = False
    ) -> Decoded:
        """Read whole targets at once, as in training.

        ids:         (B, U), beginning with the language's token; what follows a text's end is
                     padding of any kind, which changes nothing before it
        memory:      (B, T, W), the source's states
        memory_mask: (B, T), true where there is a token; None for no padding
        Raises ValueError if U is above the configuration's `tokens_max`.
        """
        return self.step(ids, self.keys_values(memory), memory_mask, explain=explain)

    def keys_values(self, memory: Tensor) -> tuple[KeysValues, ...]:
        """What each layer's cross-attention makes of the source's states (B, T, W)."""
        crossing = [cast(CrossAttention, layer.cross_attention) for layer in self.layers]
        return tuple(attention.keys_values(memory) for attention in crossing)

    def step(
        self,
        ids: Tensor,
        source: Sequence[KeysValues],
        memory_mask: Tensor | None,
        past: Sequence[KeysValues] = (),
        *,
        explain: bool = False,
    ) -> Decoded:
        """Read further target tokens (B, U), after those that left `past`.

        source: of `keys_values`
        """
        first = past[0][0].shape[2] if past else 0
        tokens = first + ids.shape[1]
        if tokens > self.config.tokens_max:
            raise ValueError(f"{tokens} tokens; this decoder writes {self.config.tokens_max}")
        states = self.embeddings(ids, first)
        bias = attention_bias(memory_mask, 0, None, like=states)
        rotation = self._rotation(first, tokens, states.device)
        attentions, kept = [], []
        for index, layer in enumerate(self.layers):
            before = past[index] if past else None
            states, weights, now = layer(
                states, source[index], bias, rotation, before, explain=explain
            )
            attentions.append(weights)
            kept.append(now)
        return Decoded(self.final_norm(states), tuple(attentions) if explain else (), tuple(kept))

    def logits(self, states: Tensor) -> Tensor:
        """Of the token after each of `states` (..., W): (..., V)."""
        return F.linear(states, self.embeddings.word.weight, self.bias)

    def _rotation(self, first: int, tokens: int, device: torch.device) -> Tensor | None:
        if self.config.layout is not Layout.MODERNBERT:
            return None
        every = rotations(tokens, self.config.head_width, self.config.rope_theta_global, device)
        return every[:, first:]


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, explain: bool
) -> tuple[Tensor, Tensor | None]:
    """Mixed values (B, H, U, D), and with `explain` the weights (B, H, U, T)."""
    if not explain:  # the same arithmetic in one kernel
        return F.scaled_dot_product_attention(query, key, value, bias), None
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    weights = (scores if bias is None else scores + bias).softmax(dim=-1)
    return weights @ value, weights


def causal_bias(query: Tensor, key: Tensor) -> Tensor | None:
    """What hides later tokens from the last U of P + U: (U, P + U); None where U is one."""
    new, every = query.shape[2], key.shape[2]
    if new == 1:
        return None
    later = torch.ones(new, every, dtype=torch.bool, device=query.device).triu(1 + every - new)
    return torch.zeros(new, every, dtype=query.dtype, device=query.device).masked_fill(
        later, -math.inf
    )
