"""A run of the translation stage in its folder: train, save, resume, finish.

The folder holds `checkpoint.pt`, `curves.jsonl`, `curves.svg` and, at the end, `model/`: the
directory that the run began with, and in it `translation/`.
"""

import contextlib
import hashlib
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from types import FrameType

import tokenizers
import torch

from encoder.checkpoint import WEIGHTS
from encoder.manifest import MANIFEST_NAME, read_manifest, write_manifest
from encoder.training.atomic import write_atomically
from encoder.training.checkpoints import CheckpointRefused, load_checkpoint, save_checkpoint
from encoder.training.corpus import file_sha256
from encoder.training.curves import Curves, plot, read_curves
from encoder.training.progress import Progress, duration
from encoder.training.recipe import Recipe
from encoder.training.rehearsal import memory_bytes
from encoder.training.run import Diverged, Interrupted
from encoder.training.translation import (
    TranslationStep,
    TranslationTraining,
    parameters_of,
)
from encoder.training.translation_batches import place_of
from encoder.training.translation_pairs import PairFile, load_pairs
from encoder.translation_config import FOLDER
from encoder.translator import save_translator

LOG_STEPS = 25  # between two lines of the curve
EVALUATIONS = 16  # of a run
EVALUATION_STEPS_MIN = 100
UNTIMED_STEPS, TIMED_STEPS = 2, 6  # memory is found, and code compiled, in the first


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationSettings:
    """Where things are, and how they are computed."""

    base: Path
    text: Path
    out: Path
    cache: Path
    device: torch.device
    precision: torch.dtype = torch.float32
    compiled: bool = False
    resume: bool = False
    checkpoint_s: float = 300.0
    half: bool = False  # write the translator in fp16


class TranslationRun:
    """The shell around `TranslationTraining`."""

    def __init__(self, recipe: Recipe, settings: TranslationSettings) -> None:
        """Reads text and base. Raises CorpusInvalid, RecipeInvalid, ModelNotFound, ModelDamaged,
        UnsupportedModel."""
        self._recipe = recipe
        self._settings = settings
        tokenizer = tokenizers.Tokenizer.from_file(str(settings.base / "tokenizer.json"))
        self._files = load_pairs(settings.text, recipe, settings.cache, tokenizer)
        self.training = TranslationTraining(
            recipe,
            settings.base,
            self._files,
            tokenizer,
            device=settings.device,
            precision=settings.precision,
            compiled=settings.compiled,
        )
        self._checkpoint = settings.out / "checkpoint.pt"
        self._stopping = False

    def train(self) -> Path:
        """Train to the end; returns the model's directory.

        Raises CheckpointRefused, atomic.NotWritten, run.Diverged, and run.Interrupted after
        SIGTERM or Ctrl-C, with the checkpoint written.
        """
        out = self._settings.out
        if self._settings.resume:
            self.training.load(load_checkpoint(self._checkpoint, **self._hashes())["training"])
        elif self._checkpoint.exists():
            raise CheckpointRefused(
                f"{self._checkpoint} exists: add --resume to go on with it, or give another --out"
            )
        out.mkdir(parents=True, exist_ok=True)
        curves = Curves(out / "curves.jsonl", steps_done=self.training.steps_done)
        with self._signals():
            self._loop(curves)
        self._save()
        if not (out / "model").exists():
            self._write_model(out / "model")
        return out / "model"

    def rehearse(self, say: Callable[[str], None]) -> None:
        """Do a few steps of each stage and say what the run will take; keeps nothing."""
        say(describe(self._files))
        rules, total_s, first = self._recipe.translation, 0.0, 0
        for index, stage in enumerate(rules.stages):
            seconds, tokens = self._time(first, stage.steps)
            total_s += seconds * stage.steps
            frozen = "encoder frozen" if stage.encoder_share == 0 else "encoder learns"
            say(
                f"stage {index + 1}: {stage.steps:,} steps of {tokens:,.0f} tokens, {frozen}, "
                f"{tokens / seconds:,.0f} tokens/s, {duration(seconds * stage.steps)}"
            )
            first += stage.steps
        begun = time.monotonic()
        losses = self.training.evaluate()
        total_s += EVALUATIONS * (time.monotonic() - begun)
        say(f"{parameters_of(self.training.model):,} parameters; held out: {', '.join(losses)}")
        say(
            f"memory: {memory_bytes() / 2**20:,.0f} MiB at most so far; "
            f"whole run: {duration(total_s)}"
        )

    def _time(self, first: int, steps: int) -> tuple[float, float]:
        """Seconds and tokens of a step, from a stage of `steps` that begins with step `first`."""
        last = first + min(steps, UNTIMED_STEPS + TIMED_STEPS)
        timed = min(first + UNTIMED_STEPS, last - 1)
        tokens, begun = 0, 0.0
        for number in range(first, last):
            if number == timed:
                tokens, begun = 0, time.monotonic()
            self.training.steps_done = number
            tokens += self.training.train().tokens
        return (time.monotonic() - begun) / (last - timed), tokens / (last - timed)

    def _loop(self, curves: Curves) -> None:
        total = self._recipe.translation.steps
        progress = Progress(f"{self._recipe.name}: translation", total, start=self._done())
        window = TranslationWindow()
        saved = clock = time.monotonic()
        while self._done() < total:
            step = self.training.train()
            if not isfinite(step.loss):
                raise Diverged(
                    f"the loss is {step.loss} at step {self._done()}: lower the recipe's rate"
                )
            window.add(step, time.monotonic() - clock)
            progress.update(self._done(), window.note())
            self._record(curves, window)
            if self._stopping or time.monotonic() - saved > self._settings.checkpoint_s:
                self._save()
                saved = time.monotonic()
            if self._stopping:
                raise Interrupted(f"stopped after step {self._done()} of {total}")
            clock = time.monotonic()
        progress.finish()

    def _done(self) -> int:
        return self.training.steps_done

    def _record(self, curves: Curves, window: "TranslationWindow") -> None:
        """Write to the curves what is due: a function of the step, so the same after a resume."""
        step, total = self._done(), self._recipe.translation.steps
        if step % LOG_STEPS == 0 or step == total:
            stage = place_of(self._recipe.translation, step - 1).stage_index
            curves.add({"step": step, "stage": stage + 1, **window.line()})
            window.clear()
        if step % max(EVALUATION_STEPS_MIN, total // EVALUATIONS) == 0 or step == total:
            held_out = {name: round(loss, 4) for name, loss in self.training.evaluate().items()}
            curves.add({"step": step, "held_out": held_out})

    def _hashes(self) -> dict[str, str]:
        """What a checkpoint belongs to: the recipe's choices for this stage, the base, the text."""
        recipe = self._recipe
        choices = f"{recipe.seed} {recipe.translation.choices()}"
        seen = hashlib.sha256(file_sha256(self._settings.base / WEIGHTS).encode())
        for file in self._files:
            seen.update(f"{file.name} {file.languages} {len(file)}".encode())
            for texts in (file.firsts, file.seconds):
                seen.update("\n".join(texts).encode())
        return {
            "recipe_sha256": hashlib.sha256(choices.encode()).hexdigest(),
            "data_sha256": seen.hexdigest(),
        }

    def _save(self) -> None:
        settings = self._settings
        numerics = (
            f"torch {torch.__version__}, {settings.device.type}, {settings.precision}, "
            f"{torch.get_num_threads()} threads, "
            f"{'compiled' if settings.compiled else 'not compiled'}"
        )
        save_checkpoint(
            self._checkpoint,
            {**self._hashes(), "numerics": numerics, "training": self.training.state()},
        )
        lines = read_curves(settings.out / "curves.jsonl")
        picture = draw(lines, f"{self._recipe.name}: translation")
        write_atomically(settings.out / "curves.svg", picture.encode())

    def _write_model(self, directory: Path) -> None:
        """Copy the base and add the translator; the directory appears whole or not at all."""
        temporary = directory.with_name(f".{directory.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(self._settings.base, temporary)
        shutil.rmtree(temporary / FOLDER, ignore_errors=True)  # which the run went on from
        with self.training.finished() as model:
            save_translator(temporary, model, half=self._settings.half)
        if (temporary / MANIFEST_NAME).exists():
            write_manifest(temporary, read_manifest(temporary))
        temporary.rename(directory)

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


class TranslationWindow:
    """What happened since the last line of the curve, as means."""

    def __init__(self) -> None:
        self.clear()
        self._speed = 0.0  # tokens/s, a running mean over the last tens of steps

    def clear(self) -> None:
        """Begin anew: a line was written."""
        self._steps: list[TranslationStep] = []
        self._seconds = 0.0

    def add(self, step: TranslationStep, seconds: float) -> None:
        """Count one step."""
        self._steps.append(step)
        self._seconds += seconds
        now = step.tokens / max(seconds, 1e-9)
        self._speed = now if not self._speed else 0.95 * self._speed + 0.05 * now

    def note(self) -> str:
        """For the progress bar."""
        loss = f"loss {self._mean_surprise():.3f}, " if self._steps else ""
        return f"{loss}{self._speed:,.0f} tokens/s"

    def line(self) -> dict[str, float]:
        """For the curve: `loss` is without the smoothing of labels."""
        count = len(self._steps)
        return {
            "loss": round(self._mean_surprise(), 4),
            "smoothed": round(sum(step.loss for step in self._steps) / count, 4),
            "tokens_per_s": round(sum(s.tokens for s in self._steps) / max(self._seconds, 1e-9)),
        }

    def _mean_surprise(self) -> float:
        return sum(step.surprise for step in self._steps) / len(self._steps)


def describe(files: Sequence[PairFile]) -> str:
    """What is read, a line for each file."""
    return "\n".join(
        f"{'-'.join(file.languages)}  {len(file):>7,} pairs  group {file.group or '-':<12} "
        f"weight {file.weight:g}  {file.name}"
        for file in files
    )


def draw(lines: Sequence[dict[str, object]], title: str) -> str:
    """An SVG of the losses over the steps."""
    curves: dict[str, list[tuple[float, float]]] = {"training": []}
    for line in lines:
        step = float(str(line["step"]))
        if "loss" in line:
            curves["training"].append((step, float(str(line["loss"]))))
        held_out = line.get("held_out")
        if isinstance(held_out, dict):
            for direction, loss in held_out.items():
                curves.setdefault(f"held out, {direction}", []).append((step, loss))
    return plot(curves, title, across="steps")
