"""The encoder itself, in torch: three layouts, and the masked-LM head of two of them.

Read from the bottom: `MaskedLanguageModel` > `Encoder` > `Layer` > `Attention`, `FeedForward`.
Letters in the shape comments: B batch, T tokens, W width, H heads, D head width, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoder.config import Activation, EncoderConfig, Layout, Pooling

_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.GELU: F.gelu,
    Activation.SILU: F.silu,
    Activation.RELU: F.relu,
}


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoder makes of a batch.

    last:       (B, T, W), after the final norm where the layout has one
    hidden:     layers + 1 states (B, T, W): the embeddings, then each layer's; the last of them is
                `last`. Empty unless asked for.
    attentions: per layer (B, H, T, T): how much of row's token each column's contributes.
                Empty unless asked for.
    """

    last: Tensor
    hidden: tuple[Tensor, ...] = ()
    attentions: tuple[Tensor, ...] = ()


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, equation 1).

    Each token asks a query of every token's key; softmax turns the answers into weights; the
    token's new value is the weighted sum of the values. H heads do so side by side, each in D
    values.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query_key_value = nn.Linear(config.width, 3 * config.width, bias=config.biased)
        self.output = nn.Linear(config.width, config.width, bias=config.biased)

    def forward(
        self, states: Tensor, bias: Tensor | None, rotation: Tensor | None, *, explain: bool
    ) -> tuple[Tensor, Tensor | None]:
        """New states (B, T, W), and with `explain` the weights (B, H, T, T).

        bias:     broadcastable to (B, H, T, T), added to the scores: 0 or minus infinity
        rotation: (2, T, D), RoPE's cosines and sines
        """
        batch, tokens, width = states.shape
        heads = self.query_key_value(states).view(batch, tokens, 3, self.heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)

        weights = None
        if explain:
            scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (B, H, T, T)
            if bias is not None:
                scores = scores + bias
            weights = scores.softmax(dim=-1)
            mixed = weights @ value  # (B, H, T, D)
        else:  # the same arithmetic in one kernel, which never holds all of (T, T)
            mixed = F.scaled_dot_product_attention(query, key, value, bias)
        return self.output(mixed.transpose(1, 2).reshape(batch, tokens, width)), weights


class FeedForward(nn.Module):
    """Two linear layers at each token, an activation between them or a GELU gate (ModernBERT)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.gated = config.layout is Layout.MODERNBERT
        halves = 2 if self.gated else 1
        self.inner = nn.Linear(config.width, halves * config.inner_width, bias=not self.gated)
        self.outer = nn.Linear(config.inner_width, config.width, bias=not self.gated)
        self.activation = _ACTIVATIONS[config.activation]

    def forward(self, states: Tensor) -> Tensor:
        inner: Tensor = self.inner(states)
        if self.gated:
            activated, gate = inner.chunk(2, dim=-1)
            inner = F.gelu(activated) * gate  # GeGLU (Shazeer 2020)
        else:
            inner = self.activation(inner)
        outer: Tensor = self.outer(inner)
        return outer


class Layer(nn.Module):
    """Attention, then feed-forward, each with a residual and a norm."""

    def __init__(self, config: EncoderConfig, index: int) -> None:
        super().__init__()
        self.post_norm = config.post_norm
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        # ModernBERT's embeddings come normed to the first layer, which does not do so again.
        skip_norm = not self.post_norm and index == 0
        self.attention_norm = nn.Identity() if skip_norm else norm(config)
        self.feed_forward_norm = norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, states: Tensor, bias: Tensor | None, rotation: Tensor | None, *, explain: bool
    ) -> tuple[Tensor, Tensor | None]:
        if self.post_norm:
            mixed, weights = self.attention(states, bias, rotation, explain=explain)
            states = self.attention_norm(states + self.dropout(mixed))
            return self.feed_forward_norm(states + self.dropout(self.feed_forward(states))), weights
        normed = self.attention_norm(states)
        mixed, weights = self.attention(normed, bias, rotation, explain=explain)
        states = states + self.dropout(mixed)
        return states + self.dropout(self.feed_forward(self.feed_forward_norm(states))), weights


class Embeddings(nn.Module):
    """A vector for each token, before any context: with its position and type in BERT's layout,
    with its position in Marian's."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        marian = config.layout is Layout.MARIAN
        self.word = nn.Embedding(config.vocab_size, config.width, padding_idx=config.pad_id)
        self.norm = nn.Identity() if marian else norm(config)
        self.dropout = nn.Dropout(config.dropout)
        self.offset = config.position_offset
        self.scale = math.sqrt(config.width) if config.embeddings_scaled else 1.0
        if config.layout is Layout.BERT:
            self.position = nn.Embedding(config.tokens_max + self.offset, config.width)
            self.token_type = nn.Embedding(config.token_types, config.width)
        self.sinusoids: Tensor | None
        table = sinusoids(config.tokens_max, config.width) if marian else None
        self.register_buffer("sinusoids", table, persistent=False)

    def forward(self, ids: Tensor, first: int = 0) -> Tensor:
        """(B, T, W) of ids (B, T), of which the first column is token `first` of its text."""
        states: Tensor = self.word(ids)
        if self.sinusoids is not None:
            states = states * self.scale + self.sinusoids[first : first + ids.shape[1]]
        elif hasattr(self, "position"):
            positions = torch.arange(ids.shape[1], device=ids.device) + self.offset + first
            # One text a row, so every token is of the first type.
            states = states + self.token_type.weight[0] + self.position(positions)
        normed: Tensor = self.dropout(self.norm(states))
        return normed


class Encoder(nn.Module):
    """Token ids to token states."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.layers))
        self.final_norm = nn.Identity() if config.post_norm else norm(config)
        initialize(self, config)

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        *,
        hidden: bool = False,
        explain: bool = False,
    ) -> Encoded:
        """Encode a padded batch.

        ids:  (B, T)
        mask: (B, T), true where there is a token; without it there is no padding. Or (B, T, T),
              true where row's token sees column's: several texts may then share a row
        Raises ValueError if T is above the configuration's `tokens_max`.
        """
        tokens = ids.shape[1]
        if tokens > self.config.tokens_max:
            raise ValueError(f"{tokens} tokens; this model reads {self.config.tokens_max}")
        states = self.embeddings(ids)
        kept, attentions = [states], []
        views = {local: self._view(tokens, mask, states, local=local) for local in self._kinds}
        for index, layer in enumerate(self.layers):
            bias, rotation = views[index in self.config.local_layers]
            states, weights = layer(states, bias, rotation, explain=explain)
            kept.append(states)
            attentions.append(weights)
        kept[-1] = self.final_norm(states)
        return Encoded(
            kept[-1], tuple(kept) if hidden else (), tuple(attentions) if explain else ()
        )

    @property
    def _kinds(self) -> set[bool]:
        """Which kinds of layer there are: local (True), global (False), or both."""
        return {index in self.config.local_layers for index in range(self.config.layers)}

    def _view(
        self, tokens: int, mask: Tensor | None, like: Tensor, *, local: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """The attention bias and the rotation that all layers of a kind share."""
        config = self.config
        reach = config.local_reach_tokens if local else None
        bias = attention_bias(mask, tokens, reach, like=like)
        if config.layout is not Layout.MODERNBERT:
            return bias, None
        theta = config.rope_theta_local if local else config.rope_theta_global
        return bias, rotations(tokens, config.head_width, theta, like.device)


class MaskedLanguageModel(nn.Module):
    """An encoder with the head that guesses masked tokens; the output table is the input's."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.transform = nn.Linear(config.width, config.width, bias=config.biased)
        self.norm = norm(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        nn.init.trunc_normal_(self.transform.weight, 0.0, config.initializer_range)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of what each token could be."""
        return self.logits(self.encoder(ids, mask).last)

    def logits(self, states: Tensor) -> Tensor:
        """Logits (..., V) for states (..., W): in training, of the masked positions alone."""
        transformed = self.norm(F.gelu(self.transform(states)))
        return F.linear(transformed, self.encoder.embeddings.word.weight, self.bias)


class SentenceEncoder(nn.Module):
    """An encoder, a pooling, and where the model has one a linear projection after it."""

    def __init__(
        self, encoder: Encoder, pooling: Pooling, projection: nn.Linear | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.projection = projection

    @property
    def width(self) -> int:
        """The length of a sentence's vector."""
        return self.projection.out_features if self.projection else self.encoder.config.width

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Sentence vectors (B, width), not normalised."""
        pooled = pool(self.encoder(ids, mask).last, mask, self.pooling)
        return pooled if self.projection is None else self.projection(pooled)


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector (B, W) of each text's token states (B, T, W); `mask` (B, T) tells its tokens."""
    present = mask.bool().unsqueeze(-1)  # (B, T, 1)
    match pooling:
        case Pooling.MEAN:
            return states.masked_fill(~present, 0).sum(dim=1) / present.sum(dim=1)
        case Pooling.CLS:
            return states[:, 0]
        case Pooling.MAX:
            return states.masked_fill(~present, -math.inf).amax(dim=1)


def norm(config: EncoderConfig) -> nn.LayerNorm:
    """Layer normalisation, with the layout's choice of bias."""
    return nn.LayerNorm(config.width, eps=config.norm_epsilon, bias=config.biased)


def initialize(model: nn.Module, config: EncoderConfig) -> None:
    """Normal weights of `initializer_range`, cut at two deviations, as BERT starts."""
    deviation = config.initializer_range
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, 0.0, deviation, -2 * deviation, 2 * deviation)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def attention_bias(
    mask: Tensor | None, tokens: int, reach: int | None, *, like: Tensor
) -> Tensor | None:
    """What to add to the scores so that padding and far tokens get no weight; None for nothing.

    mask:  (B, T), or (B, T, T): row's token sees column's
    reach: how far a token sees on each side; None for as far as there are tokens
    returns (B or 1, 1, T or 1, T), 0 or minus infinity
    """
    seen = None
    if mask is not None:
        seen = mask.bool()[:, None] if mask.ndim == 3 else mask.bool()[:, None, None, :]
    if reach is not None:
        position = torch.arange(tokens, device=like.device)
        near = ((position[:, None] - position[None, :]).abs() <= reach)[None, None]
        if seen is not None:
            # A padded token out of everybody's reach would divide 0 by 0: let it see itself.
            near = (near & seen) | torch.eye(tokens, dtype=torch.bool, device=like.device)
        seen = near
    if seen is None:
        return None
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill(
        ~seen, -math.inf
    )


def sinusoids(tokens: int, width: int) -> Tensor:
    """Fixed positions (T, W) (Vaswani et al. 2017, 3.5); all sines before all cosines, as Marian.

    In double precision until the end: far positions turn through many circles.
    """
    pairs = torch.arange(0, width, 2, dtype=torch.float64, device="cpu")
    angles = torch.outer(
        torch.arange(tokens, dtype=torch.float64, device="cpu"), 10_000.0 ** (-pairs / width)
    )
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :width].float()


def rotations(tokens: int, head_width: int, theta: float, device: torch.device) -> Tensor:
    """RoPE's cosines and sines (2, T, D) (Su et al. 2021): a turn by position times frequency."""
    pairs = torch.arange(0, head_width, 2, device=device, dtype=torch.float32)
    frequencies = 1.0 / theta ** (pairs / head_width)
    angles = torch.outer(torch.arange(tokens, device=device, dtype=torch.float32), frequencies)
    angles = torch.cat([angles, angles], dim=-1)  # (T, D)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """Turn queries or keys (B, H, T, D): value i is paired with value i + D/2."""
    first, second = heads.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (heads * rotation[0] + turned * rotation[1]).to(heads.dtype)
