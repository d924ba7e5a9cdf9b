"""A pretraining run in its folder: prepare, train, save, resume, finish.

The folder holds `recipe.json`, `checkpoint.pt`, `curves.jsonl`, `curves.svg`, `README.md` and,
at the end, `model/`: a directory that transformers loads.
"""

import contextlib
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from encoder.checkpoint import save_directory
from encoder.config import Pooling
from encoder.model import SentenceEncoder
from encoder.training.atomic import write_atomically
from encoder.training.beginning import tokenizer_of
from encoder.training.checkpoints import CheckpointRefused, load_checkpoint, save_checkpoint
from encoder.training.cleaning import clean
from encoder.training.corpus import CorpusInvalid, find_sources
from encoder.training.curves import Curves, Window, draw, read_curves
from encoder.training.masked_lm import Pretraining
from encoder.training.progress import Progress
from encoder.training.recipe import Recipe
from encoder.training.schedule import Step, step_at
from encoder.training.streams import Tokenized, tokenize
from encoder.training.vocabulary import SPECIAL_TOKENS
from encoder.training.workers import Workers

LOG_TOKENS = 250_000  # between two lines of the training curve; less in a short run
LOG_LINES_MIN = 200
EVALUATION_TOKENS = 2_500_000  # between two evaluations; less in a short run
EVALUATIONS_MIN = 10


class Interrupted(Exception):
    """The run was asked to stop (SIGTERM, Ctrl-C); its checkpoint is written."""


class Diverged(ArithmeticError):
    """The loss is no longer a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What does not change the result of a run, but where it is and how fast."""

    text: Path
    out: Path
    cache: Path
    resume: bool = False
    checkpoint_s: float = 300.0
    precision: torch.dtype = torch.float32
    compiled: bool = False
    for_gpu: bool | None = None  # steps as a large GPU wants them; None: where there is one
    weights: Path | None = None  # a model directory to begin with; None: random numbers


def prepare(recipe: Recipe, settings: Settings) -> tuple[Recipe, Tokenized]:
    """Find, clean and tokenise the text. Returns the recipe as it will be followed.

    A text that would be read more often than `epochs_max` shortens the run, and says so. Raises
    CorpusInvalid for text that cannot be used.
    """
    complete = find_sources(settings.text, recipe)
    folder, files = clean(settings.text, complete, settings.cache)
    given = tokenizer_of(settings.weights) if settings.weights else None
    data = tokenize(folder, files, complete, settings.cache, given)
    longest = max(stage.row_tokens for stage in recipe.stages)
    text_tokens = sum(stream.tokens for stream in data.streams if not stream.pairs)
    if text_tokens < 2 * longest:
        raise CorpusInvalid(
            f"{settings.text} has {text_tokens} tokens; the longest rows of the recipe need at "
            f"least {2 * longest} (bring more text, or shorten the rows)"
        )
    tokens_max = int(data.tokens * recipe.epochs_max)
    if recipe.tokens <= tokens_max:
        return complete, data
    print(
        f"note: the text has {data.tokens:,} tokens; the run is shortened from {recipe.tokens:,} "
        f"to {tokens_max:,}, which is {recipe.epochs_max:g} readings of it",
        file=sys.stderr,
    )
    return complete.with_tokens(tokens_max), data


class Run:
    """One run: the shell around `Pretraining`."""

    def __init__(
        self, recipe: Recipe, data: Tokenized, settings: Settings, workers: Workers
    ) -> None:
        self._recipe = recipe
        self._data = data
        self._settings = settings
        self._workers = workers
        self.training = Pretraining(
            recipe,
            data,
            workers,
            precision=settings.precision,
            compiled=settings.compiled,
            for_gpu=settings.for_gpu,
            weights=settings.weights,
        )
        self._checkpoint = settings.out / "checkpoint.pt"
        self._stopping = False
        self._before = ""  # what the loaded checkpoint was trained with
        self._seconds = 0.0  # of training, over all resumes

    def train(self) -> Path:
        """Train to the end; returns the model's directory.

        Raises CheckpointRefused, atomic.NotWritten, and Interrupted after SIGTERM or Ctrl-C.
        """
        self._begin()
        model = self._settings.out / "model"
        if self._unfinished():
            with self._signals():
                self._loop()
        if self._workers.first:
            self._save()
            self._draw()
            if not model.exists():
                self.write_model(model)
        return model

    @property
    def tokens(self) -> int:
        """Trained on, at the end."""
        return self._recipe.tokens

    def _unfinished(self) -> bool:
        return self.training.steps_done < self._recipe.steps

    def _begin(self) -> None:
        out = self._settings.out
        if self._settings.resume:
            self._load()
            if self._before != self._numerics() and self._workers.first:
                print(
                    f"note: the checkpoint was trained with {self._before}, this process has "
                    f"{self._numerics()}: the run goes on, but its last bits may differ",
                    file=sys.stderr,
                )
        elif self._checkpoint.exists():
            raise CheckpointRefused(
                f"{self._checkpoint} exists: add --resume to go on with it, or give another --out"
            )
        if self._workers.first:
            out.mkdir(parents=True, exist_ok=True)
            write_atomically(out / "recipe.json", self._recipe.model_dump_json(indent=1).encode())
            write_atomically(out / "README.md", _readme(self._recipe).encode())
        self._curves = (
            Curves(out / "curves.jsonl", steps_done=self.training.steps_done)
            if (self._workers.first)
            else None
        )

    def _load(self) -> None:
        content = load_checkpoint(
            self._checkpoint,
            recipe_sha256=self._recipe.sha256,
            data_sha256=self._data.sha256,
        )
        self._before = str(content["numerics"])
        self.training.load(content["training"])
        self._seconds = float(content["seconds"])
        self._restore(content)

    def _restore(self, content: Mapping[str, Any]) -> None:
        """Take what `_extra` put into a checkpoint."""

    def _extra(self) -> dict[str, Any]:
        """What a checkpoint holds beside what every run's does."""
        return {}

    def _numerics(self) -> str:
        return (
            f"torch {torch.__version__}, {self._workers.device.type}, {self._settings.precision}, "
            f"{torch.get_num_threads()} threads, {self._workers.count} processes, "
            f"{'compiled' if self._settings.compiled else 'not compiled'}"
        )

    def _save(self) -> None:
        save_checkpoint(
            self._checkpoint,
            {
                "recipe": self._recipe.name,
                "recipe_sha256": self._recipe.sha256,
                "data_sha256": self._data.sha256,
                "numerics": self._numerics(),
                "seconds": self._seconds,
                "training": self.training.state(),
                **self._extra(),
            },
        )

    def _loop(self) -> None:
        first = step_at(self._recipe, self.training.steps_done)
        total = self._recipe.tokens
        progress = Progress(self._recipe.name, total, start=first.tokens_before)
        window = Window()
        saved = clock = time.monotonic()
        for number in range(self.training.steps_done, self._recipe.steps):
            step = step_at(self._recipe, number)
            losses = self.training.train(step)
            if not isfinite(losses.masked):
                raise Diverged(
                    f"the loss is {losses.masked} at step {number}: lower the rates of the recipe; "
                    "the last checkpoint is from before"
                )
            tokens = step.stage.row_tokens * step.stage.step_rows
            done = step.tokens_before + tokens
            now = time.monotonic()
            self._seconds += now - clock
            window.add(tokens, now - clock, losses.masked, losses.rebuilt)
            if self._workers.first:
                progress.update(done, window.note(done))
                self._record(step, done, window)
                if now - saved > self._settings.checkpoint_s or self._stopping:
                    self._save()
                    self._draw()
                    saved = time.monotonic()
            clock = time.monotonic()
            if self._stopping:
                raise Interrupted(f"stopped after step {number + 1} of {self._recipe.steps}")
        if self._workers.first:
            progress.finish(window.note(total))

    def _record(self, step: Step, done: int, window: Window) -> None:
        """Write to the curves what is due: a function of the tokens, so the same after a resume."""
        if self._curves is None:
            return
        last = step.number + 1 == self._recipe.steps
        place = {"step": step.number + 1, "tokens": done}
        every = min(LOG_TOKENS, self._recipe.tokens // LOG_LINES_MIN + 1)
        if done // every > step.tokens_before // every or last:
            self._curves.add({**place, **window.line(step)})
            window.clear()
        every = min(EVALUATION_TOKENS, self._recipe.tokens // EVALUATIONS_MIN + 1)
        if done // every > step.tokens_before // every or last:
            held_out = {k: round(v, 4) for k, v in self.training.evaluate().items()}
            self._curves.add({**place, "held_out": held_out})

    def _draw(self) -> None:
        lines = read_curves(self._settings.out / "curves.jsonl")
        picture = draw(lines, f"{self._recipe.name}: loss of the masked language model")
        write_atomically(self._settings.out / "curves.svg", picture.encode())

    def write_model(self, directory: Path) -> None:
        """Write the model with its averaged weights; the directory appears whole or not at all."""
        temporary = directory.with_name(f".{directory.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        with self.training.averaged() as model:
            save_directory(
                temporary,
                SentenceEncoder(model.encoder, Pooling.MEAN),
                tokenizer=self._data.folder / "tokenizer.json",
                language_model=model,
                special_tokens=SPECIAL_TOKENS,
            )
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

    def snapshot(self, directory: Path) -> int:
        """Write the model as its last checkpoint has it; returns the steps it has done."""
        self._load()
        self.write_model(directory)
        return self.training.steps_done


def _readme(recipe: Recipe) -> str:
    # argv[0] is a path: of the script, or of the module that `python -m` runs.
    program = Path(sys.argv[0])
    name = program.name if program.suffix != ".py" else "python -m encoder.training.command"
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    return (
        f"# {recipe.name}\n\n"
        f"A pretraining run of {recipe.tokens:,} tokens in {recipe.steps:,} steps. It may be "
        "killed at any moment; it goes on with\n\n"
        f"    {name} {shlex.join(arguments)} --resume\n\n"
        "`curves.jsonl` and `curves.svg` show how far it is, `checkpoint.pt` is its state, "
        "`model/` appears when it is done.\n"
    )
