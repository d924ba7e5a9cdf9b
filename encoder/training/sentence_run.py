"""A run of the sentence stage in its folder: train, save, resume, finish."""

import hashlib
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from encoder.checkpoint import WEIGHTS
from encoder.training.atomic import write_atomically
from encoder.training.checkpoints import CheckpointRefused, load_checkpoint, save_checkpoint
from encoder.training.corpus import file_sha256
from encoder.training.curves import Curves, plot, read_curves
from encoder.training.progress import Progress
from encoder.training.recipe import Recipe
from encoder.training.sentence import SentenceTraining

LOG_STEPS = 50  # between two lines of the curve
EVALUATION_STEPS = 1000


class SentenceRun:
    """The shell around `SentenceTraining`; the folder has the files of a pretraining run."""

    def __init__(self, training: SentenceTraining, recipe: Recipe, base: Path, out: Path) -> None:
        self._training = training
        self._recipe = recipe
        self._out = out
        self._checkpoint = out / "checkpoint.pt"
        self._hashes = {
            "recipe_sha256": hashlib.sha256(recipe.choices().encode()).hexdigest(),
            "data_sha256": file_sha256(base / WEIGHTS),
        }

    def train(self, *, resume: bool, checkpoint_s: float) -> Path:
        """Train to the end; returns the model's directory. Raises CheckpointRefused and
        atomic.NotWritten."""
        if resume:
            content = load_checkpoint(self._checkpoint, **self._hashes)
            self._training.load(content["training"])
        elif self._checkpoint.exists():
            raise CheckpointRefused(
                f"{self._checkpoint} exists: add --resume to go on with it, or give another --out"
            )
        self._out.mkdir(parents=True, exist_ok=True)
        curves = Curves(self._out / "curves.jsonl", steps_done=self._training.steps_done)
        self._loop(curves, checkpoint_s)
        self._save()
        model = self._out / "model"
        if not model.exists():
            self._training.write_model(model)
        return model

    def _loop(self, curves: Curves, checkpoint_s: float) -> None:
        total = self._recipe.sentences.steps
        progress = Progress("sentences", total, start=self._training.steps_done)
        saved, losses = time.monotonic(), []
        while self._training.steps_done < total:
            losses.append(self._training.train())
            step = self._training.steps_done
            progress.update(step, f"loss {sum(losses[-LOG_STEPS:]) / len(losses[-LOG_STEPS:]):.3f}")
            if step % LOG_STEPS == 0 or step == total:
                recent = losses[-LOG_STEPS:]
                curves.add({"step": step, "loss": round(sum(recent) / len(recent), 4)})
                losses = []
            if step % EVALUATION_STEPS == 0 or step == total:
                scores = self._training.evaluate()
                curves.add({"step": step, "held_out": {k: asdict(v) for k, v in scores.items()}})
                print(f"step {step}: {scores}", file=sys.stderr)
            if time.monotonic() - saved > checkpoint_s:
                self._save()
                saved = time.monotonic()
        progress.finish()

    def _save(self) -> None:
        save_checkpoint(
            self._checkpoint,
            {
                **self._hashes,
                "numerics": f"torch {torch.__version__}, {torch.get_num_threads()} threads",
                "training": self._training.state(),
            },
        )
        lines = read_curves(self._out / "curves.jsonl")
        points = [(line["step"], line["loss"]) for line in lines if "loss" in line]
        picture = plot({"loss": points}, f"{self._recipe.name}: sentence stage", across="steps")
        write_atomically(self._out / "curves.svg", picture.encode())
