"""Four ways to turn one sentence into another, of one size and with one interface.

- `Recurrent`: a GRU reads, a GRU writes, and one vector is all that passes between them (Cho et
  al. 2014; Sutskever, Vinyals and Le 2014);
- `Recurrent` with attention: each written word looks back at all states (Bahdanau et al. 2015);
- `Convolutional`: gated convolutions with attention in each layer (Gehring et al. 2017);
- `Transformer`: the encoder and decoder of this repository (Vaswani et al. 2017 and since).

Letters in the shape comments: B batch, T source tokens, U target tokens, E width of the table,
W width of the model, V vocabulary. All share one word table for source, target and output.
"""

import math
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from encoder.config import EncoderConfig
from encoder.decoder import Decoder
from encoder.model import Encoder

TOKENS_MAX = 256
KERNEL = 3
LAYERS_RECURRENT = 2
LAYERS_CONVOLUTIONAL = 4  # of each side
LAYERS_TRANSFORMER = 3  # of each side
PARAMETERS_OFF_MAX = 0.05
WIDTH_STEP = 8  # of the models whose width is fitted


class Kind(StrEnum):
    """The architectures."""

    FIXED = "gru-fixed"
    ATTENTION = "gru-attention"
    CONVOLUTIONAL = "convolutional"
    TRANSFORMER = "transformer"


TITLES = {
    Kind.FIXED: "GRU, one context vector",
    Kind.ATTENTION: "GRU + Bahdanau attention",
    Kind.CONVOLUTIONAL: "Convolutional seq2seq",
    Kind.TRANSFORMER: "Transformer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is the same for all; `width` is what sizes are matched with."""

    vocab_size: int
    table_width: int
    width: int
    pad_id: int
    dropout: float


class Model(nn.Module):
    """Reads a source, then predicts a target token by token."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.table = nn.Embedding(shape.vocab_size, shape.table_width, padding_idx=shape.pad_id)
        self.bias = nn.Parameter(torch.zeros(shape.vocab_size))
        self.dropout = nn.Dropout(shape.dropout)
        nn.init.normal_(self.table.weight, std=shape.table_width**-0.5)
        with torch.no_grad():
            self.table.weight[shape.pad_id].zero_()

    @abstractmethod
    def states(self, source: Tensor, mask: Tensor, given: Tensor) -> Tensor:
        """What the output is read from, (B, U, E), of a whole target, as in training."""

    @abstractmethod
    def begin(self, source: Tensor, mask: Tensor) -> Any:
        """All that writing needs to know of a source."""

    @abstractmethod
    def next(self, last: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """States (B, E) after the tokens `last` (B,), and the memory for the token after."""

    def output(self) -> tuple[Tensor, Tensor]:
        """The table and the bias that turn states into logits."""
        return self.table.weight, self.bias

    def logits(self, states: Tensor) -> Tensor:
        """(..., V) of states (..., E)."""
        table, bias = self.output()
        return F.linear(states, table, bias)


class Recurrent(Model):
    """GRUs on both sides; with `attention` Bahdanau's, without it one vector between them."""

    def __init__(self, shape: Shape, *, attention: bool) -> None:
        super().__init__(shape)
        width, table = shape.width, shape.table_width
        half = width // 2
        self.attention = attention
        self.reader = nn.GRU(
            table, half, LAYERS_RECURRENT, batch_first=True, bidirectional=True,
            dropout=shape.dropout,
        )  # fmt: skip
        self.bridge = nn.Linear(width, LAYERS_RECURRENT * width)
        self.cells = nn.ModuleList(
            nn.GRUCell(table + width if layer == 0 else width, width)
            for layer in range(LAYERS_RECURRENT)
        )
        self.readout = nn.Linear(2 * width + table, table)
        if attention:
            self.query = nn.Linear(width, half, bias=False)
            self.key = nn.Linear(width, half)
            self.energy = nn.Linear(half, 1, bias=False)

    def begin(self, source: Tensor, mask: Tensor) -> Any:
        """As Model's."""
        lengths = mask.sum(dim=1).cpu()
        packed = pack_padded_sequence(
            self.dropout(self.table(source)), lengths, batch_first=True, enforce_sorted=False
        )
        outputs, last = self.reader(packed)
        states, _ = pad_packed_sequence(outputs, batch_first=True, total_length=source.shape[1])
        context = torch.cat([last[-2], last[-1]], dim=1)  # (B, W): each direction's last
        layers = torch.tanh(self.bridge(context).float()).chunk(LAYERS_RECURRENT, dim=1)
        if not self.attention:
            return context, None, list(layers)
        return states, (self.key(states), mask), list(layers)

    def next(self, last: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """As Model's."""
        return self._step(self.dropout(self.table(last)), memory)

    def states(self, source: Tensor, mask: Tensor, given: Tensor) -> Tensor:
        """As Model's."""
        memory = self.begin(source, mask)
        written = []
        for word in self.dropout(self.table(given)).unbind(dim=1):  # (B, E) each
            state, memory = self._step(word, memory)
            written.append(state)
        return torch.stack(written, dim=1)

    def _step(self, word: Tensor, memory: Any) -> tuple[Tensor, Any]:
        source, keys, layers = memory
        context = source if keys is None else self._look(layers[-1], source, *keys)
        inside = torch.cat([word, context], dim=1).float()
        after = []
        for cell, before in zip(self.cells, layers, strict=True):
            state = cell(inside, before)
            after.append(state)
            inside = self.dropout(state)
        read = self.readout(torch.cat([inside, context, word], dim=1))
        return self.dropout(torch.tanh(read)), (source, keys, after)

    def _look(self, state: Tensor, states: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """The mean of the source's states (B, W), weighted by what `state` asks for."""
        energies = self.energy(torch.tanh(self.query(state)[:, None] + keys)).squeeze(-1)
        weights = energies.float().masked_fill(~mask, -math.inf).softmax(dim=1)  # (B, T)
        found: Tensor = (weights[:, None] @ states.float()).squeeze(1)
        return found


class Convolutional(Model):
    """Gehring et al. 2017: gated convolutions, residuals, attention in each decoder layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        width, table, dropout = shape.width, shape.table_width, shape.dropout
        layers = range(LAYERS_CONVOLUTIONAL)
        self.position = nn.Embedding(TOKENS_MAX, table)
        self.target_position = nn.Embedding(TOKENS_MAX, table)
        for positions in (self.position, self.target_position):
            nn.init.normal_(positions.weight, std=table**-0.5)
        self.enter = _normed_linear(table, width, dropout)
        self.leave = _normed_linear(width, table, 0.0)
        self.target_enter = _normed_linear(table, width, dropout)
        self.target_leave = _normed_linear(width, table, 0.0)
        self.reading = nn.ModuleList(_convolution(width, dropout) for _ in layers)
        self.writing = nn.ModuleList(_convolution(width, dropout) for _ in layers)
        self.asking = nn.ModuleList(_normed_linear(width, table, 0.0) for _ in layers)
        self.answer = nn.ModuleList(_normed_linear(table, width, 0.0) for _ in layers)

    def begin(self, source: Tensor, mask: Tensor) -> Any:
        """As Model's."""
        present = mask[..., None].float()
        places = torch.arange(source.shape[1], device=source.device)
        words = self.dropout(self.table(source) + self.position(places))  # (B, T, E)
        states = self.enter(words) * present
        for convolution in self.reading:
            inside = self.dropout(states).transpose(1, 2)
            mixed = F.glu(convolution(F.pad(inside, (KERNEL // 2, KERNEL // 2))), dim=1)
            states = (mixed.transpose(1, 2) + states) * math.sqrt(0.5) * present
        keys = self.leave(states)
        values = (keys + words) * math.sqrt(0.5)
        return keys, values, mask, None, 0

    def states(self, source: Tensor, mask: Tensor, given: Tensor) -> Tensor:
        """As Model's."""
        states, _ = self._write(given, self.begin(source, mask))
        return states

    def next(self, last: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """As Model's."""
        states, memory = self._write(last[:, None], memory)
        return states[:, -1], memory

    def _write(self, given: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """States (B, U, E) of further tokens; the memory keeps each layer's last inputs."""
        keys, values, mask, before, first = memory
        places = torch.arange(first, first + given.shape[1], device=given.device)
        words = self.dropout(self.table(given) + self.target_position(places))
        states = self.target_enter(words)  # (B, U, W)
        kept = []
        for layer, convolution in enumerate(self.writing):
            inside = self.dropout(states).transpose(1, 2)  # (B, W, U)
            earlier = (
                inside.new_zeros(*inside.shape[:2], KERNEL - 1) if before is None else before[layer]
            )
            inside = torch.cat([earlier, inside], dim=2)
            kept.append(inside[:, :, -(KERNEL - 1) :])
            mixed = F.glu(convolution(inside), dim=1).transpose(1, 2)
            asked = (self.asking[layer](mixed) + words) * math.sqrt(0.5)
            scores = (asked @ keys.transpose(1, 2)).float()  # (B, U, T)
            weights = scores.masked_fill(~mask[:, None], -math.inf).softmax(dim=-1)
            # As in the paper: a sum of T values is scaled by sqrt(T), so that its size stays.
            scale = mask.sum(dim=1).float().sqrt()[:, None, None]
            found = self.answer[layer]((weights.to(values.dtype) @ values) * scale)
            mixed = (mixed + found) * math.sqrt(0.5)
            states = (mixed + states) * math.sqrt(0.5)
        out = self.dropout(self.target_leave(states))
        return out, (keys, values, mask, kept, first + given.shape[1])


class Transformer(Model):
    """The encoder and the decoder of this repository, without anything learnt before."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        config = EncoderConfig(
            vocab_size=shape.vocab_size,
            width=shape.table_width,
            layers=LAYERS_TRANSFORMER,
            heads=4,
            inner_width=shape.width,
            tokens_max=TOKENS_MAX,
            pad_id=shape.pad_id,
            dropout=shape.dropout,
            rope_theta_global=10_000.0,
        )
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        # Small, or the residual stream makes each token guess itself at first.
        nn.init.normal_(self.table.weight, std=config.initializer_range)
        self.encoder.embeddings.word = self.decoder.embeddings.word = self.table
        self.decoder.bias = self.bias

    def states(self, source: Tensor, mask: Tensor, given: Tensor) -> Tensor:
        """As Model's."""
        memory = self.encoder(source, mask, explain=True).last
        states: Tensor = self.decoder(given, memory, mask, explain=True).states
        return states

    def begin(self, source: Tensor, mask: Tensor) -> Any:
        """As Model's."""
        memory = self.encoder(source, mask).last
        return self.decoder.keys_values(memory), mask, ()

    def next(self, last: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """As Model's."""
        source, mask, past = memory
        decoded = self.decoder.step(last[:, None], source, mask, past)
        return decoded.states[:, -1], (source, mask, decoded.past)


BUILD: dict[Kind, Callable[[Shape], Model]] = {
    Kind.FIXED: lambda shape: Recurrent(shape, attention=False),
    Kind.ATTENTION: lambda shape: Recurrent(shape, attention=True),
    Kind.CONVOLUTIONAL: Convolutional,
    Kind.TRANSFORMER: Transformer,
}


def build(kind: Kind, shape: Shape, parameters: int) -> Model:
    """A model of `kind` with the width that comes nearest to `parameters`.

    Raises ValueError if that is more than PARAMETERS_OFF_MAX away.
    """

    def size(width: int) -> int:
        with torch.device("meta"):
            return parameters_of(BUILD[kind](_with_width(shape, width)))

    widths = range(16, 4097, WIDTH_STEP)
    above = min(bisect_left(widths, parameters, key=size), len(widths) - 1)
    nearby = widths[max(0, above - 1) : above + 1]
    width = min(nearby, key=lambda width: abs(size(width) - parameters))
    found = size(width)
    if abs(found / parameters - 1) > PARAMETERS_OFF_MAX:
        raise ValueError(f"{kind}: {found:,} parameters are the nearest to {parameters:,}")
    return BUILD[kind](_with_width(shape, width))


def parameters_of(model: nn.Module) -> int:
    """How many numbers are learnt."""
    return sum(p.numel() for p in model.parameters())


def sequential_operations(kind: Kind, source: int, target: int) -> int:
    """Layers that must wait for one another in training, for sentences of so many tokens."""
    match kind:
        case Kind.FIXED | Kind.ATTENTION:
            return LAYERS_RECURRENT * (source + target)
        case Kind.CONVOLUTIONAL:
            return 2 * LAYERS_CONVOLUTIONAL
        case Kind.TRANSFORMER:
            return 2 * LAYERS_TRANSFORMER


def _with_width(shape: Shape, width: int) -> Shape:
    return Shape(
        vocab_size=shape.vocab_size,
        table_width=shape.table_width,
        width=width,
        pad_id=shape.pad_id,
        dropout=shape.dropout,
    )


def _convolution(width: int, dropout: float) -> nn.Module:
    layer = nn.Conv1d(width, 2 * width, KERNEL)
    # Appendix A of the paper: gating halves the variance twice, dropout raises it again.
    nn.init.normal_(layer.weight, std=math.sqrt(4 * (1 - dropout) / (KERNEL * width)))
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # there is one
    normed: nn.Module = weight_norm(layer)
    return normed


def _normed_linear(width_in: int, width_out: int, dropout: float) -> nn.Module:
    layer = nn.Linear(width_in, width_out)
    nn.init.normal_(layer.weight, std=math.sqrt((1 - dropout) / width_in))
    nn.init.zeros_(layer.bias)
    normed: nn.Module = weight_norm(layer)
    return normed
