"""The masked language model in training: its state, and one step of it.

Everything that a step does follows from the recipe and the step's number; the state is weights,
their running average and the optimiser's memory. So a run that is killed and resumed from any
checkpoint ends with the same bits, on a CPU with the same number of threads. Compiled, it mostly
does: once, on two threads, the last losses were 3.264 and 3.269, and nobody knows why yet.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from encoder.config import EncoderConfig
from encoder.model import MaskedLanguageModel
from encoder.training.batches import Batches
from encoder.training.beginning import begin_with
from encoder.training.masking import Masked
from encoder.training.optimizers import Optimizers
from encoder.training.recipe import Recipe
from encoder.training.reconstruction import Reconstruction
from encoder.training.schedule import Step
from encoder.training.streams import Tokenized
from encoder.training.vocabulary import PAD, token_id
from encoder.training.workers import Workers

SHORT_ROW_TOKENS = 256  # up to which attention is faster as plain matrix products
COMPILED_SHAPES_MAX = 64


@dataclass(frozen=True, slots=True)
class Losses:
    """Of one step, in nats per guessed token; `rebuilt` is 0 where it is not trained."""

    masked: float
    rebuilt: float


class Pretraining:
    """A model in training.

    precision: torch.bfloat16 runs the matrix products in it; weights and sums stay in fp32
    for_gpu:   compile and step as a large GPU wants it; where the device is one, unless given
    weights:   a model directory to begin with, in place of random numbers; errors as `begin_with`
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Tokenized,
        workers: Workers,
        *,
        precision: torch.dtype = torch.float32,
        compiled: bool = False,
        for_gpu: bool | None = None,
        weights: Path | None = None,
    ) -> None:
        self.recipe = recipe
        self._workers = workers
        self._precision = precision
        tokenizer = data.tokenizer
        config = config_of(recipe, tokenizer.get_vocab_size(), token_id(tokenizer, PAD))
        torch.manual_seed(recipe.seed)
        self.model = MaskedLanguageModel(config).to(workers.device)
        if weights is not None:
            begin_with(self.model, weights)
        self.decoder = Reconstruction(config).to(workers.device)
        self._states, self._cross_entropy = self._eager_states, self._eager_cross_entropy
        for_gpu = workers.device.type == "cuda" if for_gpu is None else for_gpu
        if compiled:
            # A stage has one shape for each of its mask rates.
            torch._dynamo.config.recompile_limit = COMPILED_SHAPES_MAX
            if for_gpu:
                self._compile_parts()
            else:
                self._compile_whole()
        modules = nn.ModuleDict({"model": self.model, "decoder": self.decoder})
        self._named = list(modules.named_parameters())
        self._parameters = [parameter for _, parameter in self._named]
        self._optimizers = Optimizers(recipe.optimizer, self._named, many_at_once=for_gpu)
        self._trained: list[Tensor] = list(self.model.parameters())
        self._average = [p.detach().clone() for p in self._trained]
        self._averaged = 0  # steps in the average
        self._decaying = False
        self._batches = Batches(recipe, data)
        self.steps_done = 0

    def _compile_whole(self) -> None:
        """The encoder as one graph: on a CPU the fastest, and soon compiled."""
        # Without it compiled scatters add from several threads in any order. It also
        # fills new memory, which finds bugs but costs time (mypy misses the attribute).
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        # Fixed shapes: kernels for changing ones are tuned to the first they meet, which is
        # another one after a resume.
        self._states = torch.compile(self._eager_states, dynamic=False)
        self._cross_entropy = torch.compile(self._eager_cross_entropy, dynamic=False)

    def _compile_parts(self) -> None:
        """One graph for all layers but the first, and one head for all counts of hidden tokens.

        For a GPU kernels take long to compile: a graph of eight layers for each length of rows,
        and a head for each mask rate, would take minutes of a run that has a quarter of an hour.
        """
        for layer in (*self.model.encoder.layers, self.decoder.layer):
            layer.compile(dynamic=False)
        self._cross_entropy = torch.compile(self._eager_cross_entropy, dynamic=True)

    def train(self, step: Step) -> Losses:
        """Do `step`, which must be the next one."""
        masked, rebuilt = self.advance(step).tolist()
        return Losses(masked, rebuilt)

    def advance(self, step: Step, following: Step | None = None) -> Tensor:
        """`train`, without waiting for a GPU to have done it; returns both losses (2,).

        following: the next step, where the clock decides it; its batch is begun
        """
        if step.number != self.steps_done:
            raise ValueError(f"step {step.number} after {self.steps_done} steps")
        losses = self._gradients(step, following)
        self._workers.add_up([p.grad for p in self._parameters if p.grad is not None])
        torch.nn.utils.clip_grad_norm_(self._parameters, self.recipe.optimizer.clip_norm)
        self._optimizers.step(step.rate_share)
        self.steps_done += 1
        self._update_average(step)
        self._workers.add_up([losses])
        return losses

    def practise(self, step: Step) -> Tensor:
        """The work of `step` without its effect: compiles what it needs; returns the losses."""
        losses = self._gradients(step, following=step)
        for parameter in self._parameters:
            parameter.grad = None
        return losses

    def _gradients(self, step: Step, following: Step | None) -> Tensor:
        """Leave the step's gradients in the parameters; returns both losses (2,)."""
        batch = self._batches.at(step, following)
        device = self._workers.device
        mine = np.arange(self._workers.index, step.stage.step_rows, self._workers.count)
        at_once = max(1, self.recipe.micro_tokens // step.stage.row_tokens)
        totals = torch.zeros(2, device=device)
        for begin in range(0, len(mine), at_once):
            part = mine[begin : begin + at_once]
            totals += self._backward(batch.masked, batch.copy, part)
        return totals

    def _backward(self, masked: Masked, copy: Masked | None, part: NDArray[np.int64]) -> Tensor:
        device = self._workers.device
        with torch.autocast(device.type, self._precision, enabled=self._precision != torch.float32):
            states = self._states(_tensor(masked.inputs[part], device))  # (b, T, W)
            loss = self._guess(states, masked, part)
            total, rebuilt = loss, torch.zeros((), device=device)
            if copy is not None:
                pooled = states.mean(dim=1)  # rows have no padding
                inputs = _tensor(copy.inputs[part], device)
                rebuilt = self._guess(self.decoder(self.model.encoder, pooled, inputs), copy, part)
                total = loss + self.recipe.reconstruction.weight * rebuilt
        total.backward()  # type: ignore[no-untyped-call]  # torch has no annotation for it
        return torch.stack([loss.detach(), rebuilt.detach()])

    def _guess(self, states: Tensor, masked: Masked, part: NDArray[np.int64]) -> Tensor:
        """The summed loss of the hidden tokens, divided by how many the whole step has.

        states: (b, T, W). Only the hidden positions go through the head, which is half of the
        arithmetic of a small model (Geiping and Goldstein 2023).
        """
        places, targets = _hidden(masked, part, states.device)
        return self._cross_entropy(states, places, targets) / masked.targets.size

    def _eager_states(self, ids: Tensor) -> Tensor:
        """The encoder's last states (b, T, W)."""
        # `explain` writes attention out as matrix products, which on a CPU is faster than the
        # fused kernel for short rows: of 64 tokens, compiled, 7,600 tokens/s and core for 4,900.
        short = ids.device.type == "cpu" and ids.shape[1] <= SHORT_ROW_TOKENS
        states: Tensor = self.model.encoder(ids, explain=short).last
        return states

    def _eager_cross_entropy(self, states: Tensor, places: Tensor, targets: Tensor) -> Tensor:
        chosen = states.flatten(0, 1).index_select(0, places)  # (b * hidden, W)
        logits = self.model.logits(chosen).float()
        return F.cross_entropy(logits, targets, reduction="sum")

    @torch.no_grad()
    def _update_average(self, step: Step) -> None:
        # The first weights are noise, so the average begins short and grows to its full length.
        # It begins anew where the rate begins to fall: in a short run half of it would be weights
        # from before, which are worse than those after.
        if step.decays and not self._decaying:
            self._averaged = 0
        self._decaying = step.decays
        self._averaged += 1
        full = self.recipe.optimizer.average_decay
        decay = min(full, (1 + self._averaged) / (10 + self._averaged))
        torch._foreach_lerp_(self._average, self._trained, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[MaskedLanguageModel]:
        """The model with its averaged weights, for as long as the block lasts."""
        own = [p.detach().clone() for p in self._trained]
        with torch.no_grad():
            torch._foreach_copy_(self._trained, self._average)
        try:
            yield self.model
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._trained, own)

    def evaluate(self) -> dict[str, float]:
        """Loss on held-out text by language, in nats: 15 % hidden, 80/10/10, half whole words.

        The averaged weights are judged. "mean" is the mean of the languages.
        """
        # Its rows have a shape of their own, which is not worth compiling for.
        with self.averaged(), torch.no_grad(), torch.compiler.set_stance("force_eager"):
            losses = {
                language: self._loss(masked)
                for language, masked in self._batches.evaluation().items()
            }
        return losses | {"mean": sum(losses.values()) / len(losses)} if losses else {}

    def _loss(self, masked: Masked) -> float:
        rows, row_tokens = masked.inputs.shape
        at_once = max(1, self.recipe.micro_tokens // row_tokens)
        total = 0.0
        device = self._workers.device
        with torch.autocast(device.type, self._precision, enabled=self._precision != torch.float32):
            for begin in range(0, rows, at_once):
                part = np.arange(begin, min(begin + at_once, rows))
                states = self.model.encoder(_tensor(masked.inputs[part], device)).last
                total += float(self._eager_cross_entropy(states, *_hidden(masked, part, device)))
        return total / masked.targets.size

    def state(self) -> dict[str, Any]:
        """Everything that a checkpoint must hold, beside what it belongs to."""
        return {
            "steps_done": self.steps_done,
            "model": self.model.state_dict(),
            "decoder": self.decoder.state_dict(),
            "average": self._average,
            "averaged": self._averaged,
            "decaying": self._decaying,
            "optimizers": self._optimizers.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.model.load_state_dict(state["model"])
        self.decoder.load_state_dict(state["decoder"])
        for own, saved in zip(self._average, state["average"], strict=True):
            own.copy_(saved)
        self._optimizers.load(state["optimizers"])
        self.steps_done = int(state["steps_done"])
        # Earlier checkpoints have neither: all of their steps are in the average.
        self._averaged = int(state.get("averaged", self.steps_done))
        self._decaying = bool(state.get("decaying", False))


def config_of(recipe: Recipe, vocab_size: int, pad_id: int) -> EncoderConfig:
    """The recipe's shape with its tokenizer's vocabulary."""
    shape = recipe.model
    return EncoderConfig(
        vocab_size=vocab_size,
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        inner_width=shape.inner_width,
        tokens_max=shape.tokens_max,
        pad_id=pad_id,
        rope_theta_global=shape.rope_theta,
    )


def _hidden(masked: Masked, part: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
    """Where in a flattened batch the hidden tokens are, and what they were: (b * hidden,) each."""
    rows = np.arange(len(part))[:, None] * masked.inputs.shape[1]
    places = _tensor((rows + masked.places[part]).reshape(-1), device)
    return places, _tensor(masked.targets[part].reshape(-1), device)


def _tensor(values: NDArray[np.int64], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    # From pinned memory a copy waits its turn on the GPU; from any other this thread would.
    tensor = tensor.pin_memory() if device.type == "cuda" else tensor
    return tensor.to(device, non_blocking=True)
