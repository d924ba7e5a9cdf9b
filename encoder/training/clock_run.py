"""A pretraining run that must end at a given time, on a machine whose speed is not known yet."""

import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from math import isfinite
from typing import Any, TypeAlias

import torch
from torch import Tensor

from encoder.training.curves import Window
from encoder.training.progress import Progress, duration
from encoder.training.recipe import Recipe
from encoder.training.run import Diverged, Interrupted, Run, Settings
from encoder.training.schedule import Place, Step, place_at, step_by_clock
from encoder.training.streams import Tokenized
from encoder.training.workers import Workers

Pair: TypeAlias = tuple[float, float]  # the masked and the rebuilt loss, in nats

PRACTICE_STEPS = 3  # timed, of each shape, after the one that compiles
ENDING_S = 8.0  # kept for the last evaluation and for writing the model
LINES = 200  # of the training curve
EVALUATIONS = 20
LATEST = "latest"  # the model as the last checkpoint has it


class ClockRun(Run):
    """One run by the clock: it ends, its rate fallen to nothing, `seconds` after `begun`.

    begun: of time.monotonic; now, unless given
    Compiling is done first and is part of the time. A GPU is given each step before the last
    one's losses are read. Beside a checkpoint it leaves `latest/`, a model to carry away.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Tokenized,
        settings: Settings,
        workers: Workers,
        *,
        seconds: float,
        begun: float | None = None,
    ) -> None:
        if workers.count > 1:
            raise ValueError("a run by the clock has one process: several clocks would not agree")
        super().__init__(recipe, data, settings, workers)
        self._budget_s = seconds
        self._place = Place()
        self._ended = False
        self._begun = time.monotonic() if begun is None else begun
        self._marks = {LINES: 0, EVALUATIONS: 0}  # how many of each are behind

    @property
    def tokens(self) -> int:
        """Trained on so far."""
        return self._place.tokens

    def _unfinished(self) -> bool:
        return not self._ended

    def _restore(self, content: Mapping[str, Any]) -> None:
        if "place" in content:  # a run by tokens may go on by the clock
            self._place = Place(**content["place"])
            self._ended = bool(content["ended"])
        else:
            self._place = place_at(self._recipe, self.training.steps_done, self._seconds)

    def _extra(self) -> dict[str, Any]:
        return {"place": asdict(self._place), "ended": self._ended}

    def _loop(self) -> None:
        deadline = self._begun + self._budget_s - ENDING_S
        self._practise()
        begun, before = time.monotonic(), self._place.seconds
        total = before + deadline - begun
        if total <= before:
            raise TimeoutError(
                f"{self._budget_s:.0f} s are over before the first step: compiling and the end "
                f"({ENDING_S:.0f} s) took them; give --seconds more"
            )
        progress = Progress(self._recipe.name, total, start=before)
        window = Window()
        saved = clock = begun
        step_s = 0.0
        for step, losses, last in self._steps(total, before - begun):
            self._check(step, losses)
            now = time.monotonic()
            self._seconds += now - clock
            # On a CPU the last step was done when the one before it was told of.
            step_s = max(now - clock, step_s if last else 0.0)
            window.add(step.tokens, step_s, *losses)
            clock = now
            progress.update(self._place.seconds, window.note(step.tokens_before + step.tokens))
            self._record_by_clock(step, window, 1.0 if last else self._place.seconds / total)
            if now - saved > self._settings.checkpoint_s or self._stopping:
                self._save_latest()
                saved = time.monotonic()
            if self._stopping:
                raise Interrupted(f"stopped after {self._place.seconds:.0f} of {total:.0f} s")
        self._ended = True
        progress.finish(window.note(self._place.tokens))

    def _steps(self, total: float, offset: float) -> Iterator[tuple[Step, Pair, bool]]:
        """Do step after step; gives each with its losses, which are read one step late, and
        whether it is the last."""
        step_s, last = 0.0, time.monotonic()
        step = step_by_clock(self._recipe, self._place, total)
        waiting: tuple[Step, Tensor] | None = None
        while step is not None:
            now = time.monotonic()
            step_s, last = (now - last if not step_s else 0.8 * step_s + 0.2 * (now - last)), now
            place = self._place.after(step, now + offset + step_s)
            following = step_by_clock(self._recipe, place, total, step_s)
            losses = self.training.advance(step, following)
            self._place = replace(place, seconds=time.monotonic() + offset)
            if waiting is not None:
                yield waiting[0], _values(waiting[1]), False
            waiting, step = (step, losses), following
        if waiting is not None:
            yield waiting[0], _values(waiting[1]), True

    def _check(self, step: Step, losses: Pair) -> None:
        if not isfinite(losses[0]):
            raise Diverged(
                f"the loss is {losses[0]} at step {step.number}: lower the rates of the recipe; "
                "the last checkpoint is from before"
            )

    def _practise(self) -> None:
        """Compile for every shape that will come, and say how fast it is."""
        for title, step in practice_steps(self._recipe):
            begun = time.monotonic()
            float(self.training.practise(step).sum())  # waits for the GPU
            compiled_s = time.monotonic() - begun
            begun = time.monotonic()
            for _ in range(PRACTICE_STEPS):
                losses = self.training.practise(step)
            float(losses.sum())
            speed = PRACTICE_STEPS * step.tokens / (time.monotonic() - begun)
            print(
                f"{title}: {speed:,.0f} tokens/s; ready after {duration(compiled_s)}",
                file=sys.stderr,
                flush=True,
            )
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() / 2**30
            print(f"GPU memory: {peak:.1f} GiB at most", file=sys.stderr, flush=True)

    def _record_by_clock(self, step: Step, window: Window, share: float) -> None:
        """Write to the curves what is due after `share` of the time."""
        if self._curves is None:
            return
        place = {
            "step": step.number + 1,
            "tokens": step.tokens_before + step.tokens,
            "seconds": round(self._place.seconds, 1),
        }
        if self._due(LINES, share):
            self._curves.add({**place, **window.line(step)})
            window.clear()
        if self._due(EVALUATIONS, share):
            held_out = {k: round(v, 4) for k, v in self.training.evaluate().items()}
            self._curves.add({**place, "held_out": held_out})

    def _due(self, count: int, share: float) -> bool:
        """Whether one of `count` marks, spread over the run, was passed since the last call."""
        before, self._marks[count] = self._marks[count], int(share * count)
        return self._marks[count] > before or share == 1.0

    def _save_latest(self) -> None:
        self._save()
        self._draw()
        latest = self._settings.out / LATEST
        new = latest.with_name(f".{LATEST}.new")
        shutil.rmtree(new, ignore_errors=True)
        self.write_model(new)
        shutil.rmtree(latest, ignore_errors=True)
        new.rename(latest)


def practice_steps(recipe: Recipe) -> Iterator[tuple[str, Step]]:
    """A step of each shape that a run by the clock will meet, with a name for it."""
    total = sum(stage.tokens for stage in recipe.stages)
    begun = 0
    for stage in recipe.stages:
        ends = {"begin": begun / total, "end": (begun + stage.tokens) / total - 1e-9}
        begun += stage.tokens
        seen = set()
        for progress in ends.values():
            step = step_by_clock(recipe, Place(seconds=progress), 1.0)
            if step is not None and step.reconstructs not in seen:
                seen.add(step.reconstructs)
                more = ", with reconstruction" if step.reconstructs else ""
                yield f"rows of {stage.row_tokens}{more}", step


def _values(losses: Tensor) -> Pair:
    masked, rebuilt = losses.tolist()
    return masked, rebuilt
