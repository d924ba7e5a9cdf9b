"""Trains one architecture with the rate that suits it, and measures it. Resumable."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.architectures.data import Captions, Split
from bench.architectures.models import (
    Kind,
    Model,
    Shape,
    build,
    parameters_of,
    sequential_operations,
)
from encoder.evaluation.bleu import score
from encoder.training.atomic import write_atomically
from encoder.training.checkpoints import load_checkpoint, save_checkpoint
from encoder.training.progress import Progress
from encoder.training.smoothed_loss import Smoothing, smoothed_cross_entropy
from encoder.training.translation_batches import IGNORED, IdBatch

LABEL_SMOOTHING = 0.1
CLIP_NORM = 1.0
WARM_UP_STEPS = 400
TEXT_TOKENS_MAX = 80  # of a translation
LENGTH_BOUNDS = (9, 12, 15, 19)  # of source tokens: up to 9, 10 to 12, ..., above 19
DECODED_TEXTS = 64  # at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What every architecture gets alike.

    epochs:       readings of the training text in the measured run
    trial_epochs: readings with each of the rates, of which the best on the val set is taken
    steps:        if given, no more steps than so many, of trials too: a rehearsal
    """

    epochs: int = 20
    trial_epochs: int = 2
    rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    step_tokens: int = 4096
    dropout: float = 0.3
    merge_dropout: float = 0.1
    vocabulary: int = 8000
    table_width: int = 256
    inner_width: int = 512  # of the Transformer, which sets the size for all
    seed: int = 1
    steps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is known of one architecture at the end. Times on the machine that trained it."""

    kind: Kind
    parameters: int
    rate: float
    trials: dict[str, float]  # rate to val loss
    val_losses: list[float]  # after each epoch
    bleu: float
    chrf: float
    signature: str
    bleu_by_length: dict[str, float]
    texts_by_length: dict[str, int]
    tokens_trained: int
    train_tokens_per_s: float
    sequential_operations: int  # in training, for a caption of mean length
    decode_s: float  # of the whole test set, greedy, 64 at once
    decode_one_ms: float  # of one caption alone, mean of 50


class Trainer:
    """One model in training; everything it does follows from the step's number."""

    def __init__(
        self,
        kind: Kind,
        captions: Captions,
        budget: Budget,
        *,
        rate: float,
        epochs: int,
        precision: torch.dtype,
    ) -> None:
        self.kind = kind
        self.rate = rate
        self._captions = captions
        self._budget = budget
        self._precision = precision
        torch.manual_seed(budget.seed)
        self.model = build(kind, shape_of(captions, budget), reference_size(captions, budget))
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=1e-4
        )
        self.epochs = epochs
        self._epoch_steps = captions.epoch_steps(budget.step_tokens)
        self.epoch = 0
        self.tokens = 0
        self.seconds = 0.0
        self.losses: list[float] = []

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.epochs

    @property
    def hashes(self) -> dict[str, str]:
        """What a checkpoint belongs to."""
        choices = f"{self._budget} {self.kind} {self.rate} {self.epochs} {self._precision}"
        return {"recipe_sha256": choices, "data_sha256": self._captions.sha256}

    def run_epoch(self, progress: Progress) -> None:
        """Read the text once more, then measure the loss on the val set."""
        self.model.train()
        captions, budget = self._captions, self._budget
        first = self.epoch * self._epoch_steps
        for index, batch in enumerate(captions.epoch(self.epoch, budget.step_tokens)):
            if budget.steps is not None and index >= budget.steps:
                break
            torch.manual_seed(budget.seed * 1_000_003 + first + index)
            begun = time.monotonic()
            loss = self._step(batch, first + index)
            self.seconds += time.monotonic() - begun
            self.tokens += batch.tokens
            speed = self.tokens / max(self.seconds, 1e-9)
            done = self.epoch + index / self._epoch_steps
            progress.update(done, f"loss {loss:.3f}, {speed:,.0f} tokens/s")
        self.epoch += 1
        self.losses.append(self.val_loss())

    def val_loss(self) -> float:
        """In nats per token of the val set, without smoothing."""
        self.model.eval()
        total, count = 0.0, 0
        with torch.inference_mode():
            for _, batch in self._captions.batches(self._captions.val, DECODED_TEXTS):
                total += float(self._losses(batch, 0.0)[1])
                count += int((batch.wanted != IGNORED).sum())
        return total / count

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "epoch": self.epoch,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "losses": self.losses,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.tokens = int(state["epoch"]), int(state["tokens"])
        self.seconds, self.losses = float(state["seconds"]), list(state["losses"])

    def _step(self, batch: IdBatch, number: int) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate * self._rate_share(number)
        losses = self._losses(batch, LABEL_SMOOTHING)
        count = int((batch.wanted != IGNORED).sum())
        (losses[0] / count).backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(losses[1].detach()) / count

    def _rate_share(self, number: int) -> float:
        """A warm-up and a straight fall to 5 %, the same for all."""
        total = self.epochs * self._epoch_steps
        warm = min(1.0, (number + 1) / min(WARM_UP_STEPS, max(1, total // 5)))
        return warm * (1 - 0.95 * number / total)

    def _losses(self, batch: IdBatch, smoothing: float) -> Tensor:
        source, mask, given, wanted = (
            torch.from_numpy(a) for a in (batch.source, batch.mask, batch.given, batch.wanted)
        )
        low = self._precision != torch.float32
        with torch.autocast("cpu", self._precision, enabled=low):
            states = self.model.states(source, mask, given)
        places = (wanted.flatten() != IGNORED).nonzero().squeeze(1)
        return smoothed_cross_entropy(
            states.flatten(0, 1).index_select(0, places).float(),
            *self.model.output(),
            wanted.flatten().index_select(0, places),
            Smoothing(smoothing, self._precision),
        )


def measure(
    kind: Kind, captions: Captions, budget: Budget, out: Path, precision: torch.dtype
) -> Outcome:
    """Try the rates, train with the best, translate the test set. Goes on where it was stopped,
    epoch by epoch."""
    file = out / f"{kind}.json"
    if file.exists():
        return read_outcome(file)
    trials = {}
    for rate in budget.rates:
        trial = Trainer(
            kind, captions, budget, rate=rate, epochs=budget.trial_epochs, precision=precision
        )
        train(trial, out / f"{kind}-{rate:g}.pt")
        trials[rate] = trial.losses[-1]
    best = min(trials, key=trials.__getitem__)
    trainer = Trainer(kind, captions, budget, rate=best, epochs=budget.epochs, precision=precision)
    train(trainer, out / f"{kind}.pt")
    outcome = _outcome(captions, trainer, {f"{rate:g}": loss for rate, loss in trials.items()})
    write_atomically(file, json.dumps(asdict(outcome), indent=1).encode())
    return outcome


def read_outcome(file: Path) -> Outcome:
    """What an earlier run found."""
    content = json.loads(file.read_text("utf-8"))
    return Outcome(**{**content, "kind": Kind(content["kind"])})


def shape_of(captions: Captions, budget: Budget) -> Shape:
    """The Transformer's shape, whose width the others replace."""
    return Shape(
        vocab_size=captions.tokenizer.get_vocab_size(),
        table_width=budget.table_width,
        width=budget.inner_width,
        pad_id=captions.marks.pad,
        dropout=budget.dropout,
    )


def reference_size(captions: Captions, budget: Budget) -> int:
    """The parameters of the Transformer."""
    from bench.architectures.models import Transformer  # noqa: PLC0415  # beside its only use

    with torch.device("meta"):
        return parameters_of(Transformer(shape_of(captions, budget)))


@torch.inference_mode()
def translate(model: Model, batch: IdBatch, begin: int, end: int) -> list[list[int]]:
    """Greedy translations, without their end tokens."""
    model.eval()
    source, mask = torch.from_numpy(batch.source), torch.from_numpy(batch.mask)
    memory = model.begin(source, mask)
    last = torch.full((len(source),), begin)
    done = torch.zeros(len(source), dtype=torch.bool)
    written: list[Tensor] = []
    for _ in range(TEXT_TOKENS_MAX):
        states, memory = model.next(last, memory)
        last = model.logits(states).argmax(dim=-1)
        written.append(last.masked_fill(done, end))
        done = done | (last == end)
        if bool(done.all()):
            break
    rows: list[list[int]] = torch.stack(written, dim=1).tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]


def train(trainer: Trainer, checkpoint: Path) -> None:
    """To the end, from `checkpoint` if there is one. Raises CheckpointRefused."""
    if checkpoint.exists():
        trainer.load(load_checkpoint(checkpoint, **trainer.hashes)["training"])
    progress = Progress(
        f"{trainer.kind}, rate {trainer.rate:g}", trainer.epochs, start=trainer.epoch
    )
    while not trainer.finished:
        trainer.run_epoch(progress)
        save_checkpoint(checkpoint, {**trainer.hashes, "training": trainer.state()})
    progress.finish(f"val loss {trainer.losses[-1]:.3f}")


def _outcome(captions: Captions, trainer: Trainer, trials: dict[str, float]) -> Outcome:
    split = captions.test
    begun = time.monotonic()
    said = _translate_all(trainer.model, captions, split, DECODED_TEXTS)
    decode_s = time.monotonic() - begun
    begun = time.monotonic()
    few = Split(split.sources[:50], split.targets[:50])
    _translate_all(trainer.model, captions, few, 1)
    one_ms = 1000 * (time.monotonic() - begun) / len(few.sources)
    found = score(said, split.targets, "en")
    lengths = captions.source_tokens(split)
    buckets = by_length(lengths)
    mean = round(sum(lengths) / len(lengths))
    return Outcome(
        kind=trainer.kind,
        parameters=parameters_of(trainer.model),
        rate=trainer.rate,
        trials=trials,
        val_losses=trainer.losses,
        bleu=found.bleu,
        chrf=found.chrf,
        signature=found.signatures[0],
        bleu_by_length={
            name: score([said[i] for i in rows], [split.targets[i] for i in rows], "en").bleu
            for name, rows in buckets.items()
            if rows
        },
        texts_by_length={name: len(rows) for name, rows in buckets.items()},
        tokens_trained=trainer.tokens,
        train_tokens_per_s=trainer.tokens / max(trainer.seconds, 1e-9),
        sequential_operations=sequential_operations(trainer.kind, mean, mean),
        decode_s=decode_s,
        decode_one_ms=one_ms,
    )


def by_length(lengths: Sequence[int]) -> dict[str, list[int]]:
    """Line numbers by how long the source is, in tokens, shortest first."""
    bounds = [0, *LENGTH_BOUNDS]
    names = [f"{low + 1}-{high}" for low, high in pairwise(bounds)]
    found: dict[str, list[int]] = {name: [] for name in (*names, f"{bounds[-1] + 1}-")}
    for line, length in enumerate(lengths):
        place = sum(length > bound for bound in LENGTH_BOUNDS)
        found[[*found][place]].append(line)
    return found


def _translate_all(model: Model, captions: Captions, split: Split, texts: int) -> list[str]:
    said = [""] * len(split.sources)
    marks = captions.marks
    for rows, batch in captions.batches(split, texts):
        written = translate(model, batch, marks.languages["en"], marks.end)
        for row, ids in zip(rows, written, strict=True):
            said[row] = captions.tokenizer.decode(ids).strip()
    return said
