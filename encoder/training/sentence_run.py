"""A run of the sentence stage in its folder: train, save, resume, finish."""

import contextlib
import hashlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from encoder.importing import describe_directory
from encoder.training.atomic import write_atomically
from encoder.training.checkpoints import CheckpointRefused, load_checkpoint, save_checkpoint
from encoder.training.corpus import file_sha256
from encoder.training.curves import Curves, plot, read_curves
from encoder.training.progress import Progress
from encoder.training.recipe import Recipe
from encoder.training.run import Diverged, Interrupted
from encoder.training.sentence import SentenceStep, SentenceTraining
from encoder.training.sentence_pairs import Kind

LOG_STEPS = 25  # between two lines of the curve
EVALUATIONS = 16  # of a run
EVALUATION_STEPS_MIN = 100


class SentenceWindow:
    """What happened since the last line of the curve, as means."""

    def __init__(self) -> None:
        self.clear()
        self._speed = 0.0  # tokens/s, a running mean over the last tens of steps

    def clear(self) -> None:
        """Begin anew: a line was written."""
        self._steps: list[SentenceStep] = []
        self._seconds = 0.0

    def add(self, step: SentenceStep, seconds: float) -> None:
        """Count one step."""
        self._steps.append(step)
        self._seconds += seconds
        now = step.tokens / max(seconds, 1e-9)
        self._speed = now if not self._speed else 0.95 * self._speed + 0.05 * now

    def note(self) -> str:
        """For the progress bar."""
        loss = f"loss {_mean([s.total for s in self._steps]):.3f}, " if self._steps else ""
        return f"{loss}{self._speed:,.0f} tokens/s"

    def line(self) -> dict[str, float]:
        """For the curve; `words` and `masked` alone where there were some."""
        steps = self._steps
        found = {
            "loss": _mean([s.total for s in steps]),
            "cosine": _mean([s.cosine for s in steps]),
            "similar": _mean([s.similar for s in steps]),
            "contrast": _mean([s.contrast for s in steps]),
        }
        if words := [s.words for s in steps if s.words is not None]:
            found["words"] = _mean(words)
        if masked := [s.masked for s in steps if s.masked is not None]:
            found["masked"] = _mean(masked)
        return {
            **{name: round(value, 4) for name, value in found.items()},
            "tokens_per_s": round(sum(s.tokens for s in steps) / max(self._seconds, 1e-9)),
        }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


class SentenceRun:
    """The shell around `SentenceTraining`; the folder has the files of a pretraining run.

    data_sha256: of all that is learnt from, beside the recipe (`digest_of`)
    """

    def __init__(
        self, training: SentenceTraining, recipe: Recipe, data_sha256: str, out: Path
    ) -> None:
        self._training = training
        self._recipe = recipe
        self._out = out
        self._checkpoint = out / "checkpoint.pt"
        self._stopping = False
        self._hashes = {
            "recipe_sha256": hashlib.sha256(recipe.choices().encode()).hexdigest(),
            "data_sha256": data_sha256,
        }

    def train(self, *, resume: bool, checkpoint_s: float) -> Path:
        """Train to the end; returns the model's directory.

        Raises CheckpointRefused, atomic.NotWritten, run.Diverged, and run.Interrupted after
        SIGTERM or Ctrl-C, with the checkpoint written.
        """
        if resume:
            content = load_checkpoint(self._checkpoint, **self._hashes)
            self._training.load(content["training"])
        elif self._checkpoint.exists():
            raise CheckpointRefused(
                f"{self._checkpoint} exists: add --resume to go on with it, or give another --out"
            )
        self._out.mkdir(parents=True, exist_ok=True)
        curves = Curves(self._out / "curves.jsonl", steps_done=self._training.steps_done)
        with self._signals():
            self._loop(curves, checkpoint_s)
        self._save()
        model = self._out / "model"
        if not model.exists():
            self._write_model(model)
        return model

    def _write_model(self, directory: Path) -> None:
        """Write the model and its `polyseme.json`; the directory appears whole or not at all."""
        temporary = directory.with_name(f".{directory.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        self._training.write_model(temporary)
        dimensions = self._recipe.sentences.dimensions
        describe_directory(temporary, name=self._recipe.name, dimensions_choices=dimensions)
        temporary.rename(directory)

    def _loop(self, curves: Curves, checkpoint_s: float) -> None:
        total = self._recipe.sentences.steps
        progress = Progress("sentences", total, start=self._training.steps_done)
        window = SentenceWindow()
        saved = clock = time.monotonic()
        while self._training.steps_done < total:
            done = self._training.train()
            step = self._training.steps_done
            if not isfinite(done.total):
                raise Diverged(f"the loss is {done.total} at step {step}: lower the recipe's rate")
            window.add(done, time.monotonic() - clock)
            progress.update(step, window.note())
            self._record(curves, window)
            if self._stopping or time.monotonic() - saved > checkpoint_s:
                self._save()
                saved = time.monotonic()
            if self._stopping:
                raise Interrupted(f"stopped after step {step} of {total}")
            clock = time.monotonic()
        progress.finish()

    def _record(self, curves: Curves, window: SentenceWindow) -> None:
        """Write to the curves what is due: a function of the step, so the same after a resume."""
        step, total = self._training.steps_done, self._recipe.sentences.steps
        if step % LOG_STEPS == 0 or step == total:
            curves.add({"step": step, **window.line()})
            window.clear()
        if step % evaluation_steps(total) == 0 or step == total:
            scores = self._training.evaluate()
            scores["pairs"] = {name: asdict(found) for name, found in scores["pairs"].items()}
            curves.add({"step": step, "held_out": scores})
            print(f"step {step}: {describe(scores)}", file=sys.stderr)

    def _save(self) -> None:
        save_checkpoint(
            self._checkpoint,
            {
                **self._hashes,
                "numerics": f"torch {torch.__version__}, {torch.get_num_threads()} threads",
                "training": self._training.state(),
            },
        )
        picture = draw(read_curves(self._out / "curves.jsonl"), f"{self._recipe.name}: sentences")
        write_atomically(self._out / "curves.svg", picture.encode())

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGTERM and Ctrl-C end the run after the step, with its checkpoint written."""

        def stop(number: int, frame: FrameType | None) -> None:
            self._stopping = True

        before = {kind: signal.signal(kind, stop) for kind in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)


def digest_of(weights: Path, teacher_sha256: str, kinds: Sequence[Kind]) -> str:
    """Of the weights that a run begins with, the teacher, and every pair of texts."""
    digest = hashlib.sha256(f"{file_sha256(weights)} {teacher_sha256}".encode())
    for kind in kinds:
        digest.update(f"\n{kind.name}\n".encode())
        for first, second in kind.pairs:
            digest.update(f"{first}\t{second}\n".encode())
    return digest.hexdigest()


def evaluation_steps(steps: int) -> int:
    """How many steps are between two evaluations of a run of so many."""
    return max(EVALUATION_STEPS_MIN, steps // EVALUATIONS)


def describe_pairs(kinds: Sequence[Kind]) -> str:
    """How many pairs of each kind there are, in one line."""
    return ", ".join(f"{len(kind.pairs):,} {kind.name}" for kind in kinds)


def describe(scores: dict[str, Any]) -> str:
    """An evaluation in one line."""
    parts = [
        f"{name} cosine {found['cosine']:.3f} found {found['found']:.0f} %"
        for name, found in scores["pairs"].items()
    ]
    parts += [
        f"STS-B dev {language} " + " / ".join(f"{value:.1f}" for value in by_length.values())
        for language, by_length in scores["sts"].items()
    ]
    parts += [f"masked {language} {loss:.2f}" for language, loss in scores["masked"].items()]
    return ", ".join(parts)


def draw(lines: list[dict[str, Any]], title: str) -> str:
    """An SVG of the losses over the steps."""
    names = ("loss", "cosine", "similar", "contrast", "words", "masked")
    curves = {
        name: [(line["step"], line[name]) for line in lines if name in line] for name in names
    }
    return plot(curves, title, across="steps", up="nats; cosine and words: distance from 1")
