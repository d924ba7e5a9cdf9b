"""Trains on the lent machine, in a process of its own: pretraining, then sentence vectors.

Each part is one of polyseme-model's commands in a process, and is done when its model directory
is there. So the pipeline may be killed and started again at any moment: it goes on with the part
that is not done, from its last checkpoint, and keeps to the plan's times.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from encoder.checkpoint import WEIGHTS, halve_file
from encoder.training.lent.plan import Plan
from encoder.training.recipe import load_recipe

ATTEMPTS_MAX = 3  # of one part: what fails thrice will fail a fourth time
POLL_S = 1.0
TEACHER = "teacher"
PRETRAINED, SENTENCES, LATEST = "pretrained", "sentences", "latest"  # results
PACE = re.compile(r"steps: [\d,]+ of ([\d,]+) tokens .*?([\d,]+) tokens/s")
COMMAND = "encoder.training.command"
COMPILED = "--compiled"
CHECKPOINT_S_MAX = 150.0  # between two: each takes a second or two


class PartFailed(RuntimeError):
    """A part ended without its model as often as it may."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The parts, and where everything is.

    work:        the folder of the lent machine: recipe.toml, text/, cache/, teacher/, runs/
    options:     more for pretraining's command line (`--compiled`)
    vectors_ahead: let the teacher read its texts while pretraining goes on: a GPU has room
    """

    work: Path
    plan: Plan
    options: Sequence[str] = ()
    vectors_ahead: bool = True

    def run(self) -> None:
        """Do what is not done yet. Raises PartFailed."""
        vectors = None
        for attempt in range(ATTEMPTS_MAX):
            if self.pretrained.exists():
                break
            process = self._start("pretrain", *self._pretraining(attempt))
            while process.poll() is None:
                time.sleep(POLL_S)
                if vectors is None and self.vectors_ahead and self._teacher_is_here():
                    vectors = self._start("finetune", *self._finetuning(), "--prepare-only")
        if not self.pretrained.exists():
            self._take_latest()
        self._give(self.pretrained.parent, PRETRAINED)
        if vectors is not None:
            vectors.wait()
        for _ in range(ATTEMPTS_MAX):
            if not self.sentences.exists():
                self._finetune()
        if not self.sentences.exists():
            raise PartFailed("the sentence stage ended without a model; log.txt says why")
        self._give(self.sentences.parent, SENTENCES)

    @property
    def pretrained(self) -> Path:
        """The model directory of the first part."""
        return self.work / "runs" / PRETRAINED / "model"

    @property
    def sentences(self) -> Path:
        """The model directory of the second part."""
        return self.work / "runs" / SENTENCES / "model"

    def _pretraining(self, attempt: int) -> list[str]:
        out = self.pretrained.parent
        seconds = max(1.0, self.plan.pretraining_s(time.time()))
        often = min(CHECKPOINT_S_MAX, seconds / 4)
        begun = (out / "checkpoint.pt").exists()
        options = list(self.options)
        if attempt and not begun and COMPILED in options:
            options.remove(COMPILED)  # what ended the first attempt before its first minutes
        return [
            *("--out", str(out), "--seconds", f"{seconds:.0f}", "--checkpoint-s", f"{often:.0f}"),
            *options,
            *(["--resume"] if begun else []),
        ]

    def _teacher_is_here(self) -> bool:
        """Whether its parcels have come; they are the last ones, and the weights their end."""
        return (self.work / "received").exists()

    def _finetuning(self) -> list[str]:
        return ["--teacher", str(self.work / TEACHER), "--out", str(self.sentences.parent)]

    def _finetune(self) -> None:
        while not self._teacher_is_here() and time.time() < self.plan.sentences:
            time.sleep(POLL_S)
        arguments = [*self._finetuning(), "--weights", str(self.pretrained)]
        steps_file = self.sentences.parent / "steps"
        if not steps_file.exists():
            steps_file.parent.mkdir(parents=True, exist_ok=True)
            steps_file.write_text(str(self._steps(arguments)))
        resume = ["--resume"] if (self.sentences.parent / "checkpoint.pt").exists() else []
        steps = ["--steps", steps_file.read_text(), "--checkpoint-s", "30"]
        self._start("finetune", *arguments, *steps, *resume).wait()

    def _steps(self, arguments: Sequence[str]) -> int:
        """How many steps fit: a dry run says what one takes."""
        most = load_recipe(self.work / "recipe.toml").sentences.steps
        before = self._log_path().stat().st_size
        self._start("finetune", *arguments, "--dry-run").wait()
        with self._log_path().open("rb") as log:
            log.seek(before)
            said = PACE.search(log.read().decode("utf-8", "replace"))
        if said is None:
            return most
        tokens, speed = (float(number.replace(",", "")) for number in said.groups())
        return self.plan.sentence_steps(time.time(), tokens / speed, most)

    def _start(self, command: str, *arguments: str) -> subprocess.Popen[bytes]:
        common = {"--recipe": "recipe.toml", "--text": "text", "--cache": "cache"}
        given = [part for flag, name in common.items() for part in (flag, str(self.work / name))]
        line = [sys.executable, "-u", "-m", COMMAND, command, *given, *arguments]
        with self._log_path().open("ab") as log:
            log.write(f"[{time.strftime('%H:%M:%S')}] {' '.join(line[3:])}\n".encode())
            log.flush()
            return subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT)

    def _log_path(self) -> Path:
        return self.work / "log.txt"

    def _take_latest(self) -> None:
        """Go on with the model of the last checkpoint where the run itself could not end."""
        latest = self.pretrained.parent / LATEST
        if not latest.exists():
            raise PartFailed("pretraining ended without a model; log.txt says why")
        shutil.copytree(latest, self.pretrained)

    def _give(self, run: Path, name: str) -> None:
        target = self.work / "results" / name
        if not target.exists():
            lay_out(run, run / "model", target, self.work)


def lay_out(run: Path, model: Path, target: Path, work: Path) -> None:
    """What is given back of a run: the model in fp16, its curves, the log and the power drawn."""
    new = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(model, new / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    for file in model.rglob("*.safetensors"):
        halve_file(file, new / "model" / file.relative_to(model))
    for name in ("curves.jsonl", "curves.svg", "recipe.json"):
        if (run / name).exists():
            shutil.copyfile(run / name, new / name)
    for name in ("log.txt", "power.csv", "plan.json"):
        if (work / name).exists():
            shutil.copyfile(work / name, new / name)
    new.rename(target)


def weights_of(result: Path) -> Path:
    """Of a result that was laid out."""
    return result / "model" / WEIGHTS
