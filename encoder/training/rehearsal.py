"""A rehearsal: what a run will take in time and memory, measured on a few of its steps."""

import resource
import sys
import time
from collections.abc import Callable

from encoder.training.masked_lm import Pretraining
from encoder.training.progress import duration
from encoder.training.recipe import Recipe
from encoder.training.run import EVALUATION_TOKENS, EVALUATIONS_MIN
from encoder.training.schedule import Step, step_at


def rehearse(training: Pretraining, say: Callable[[str], None]) -> None:
    """Do a few steps of every stage and say what the run will take; keeps nothing.

    The steps of the last part, with reconstruction, are timed too: they are dearer.
    """
    recipe, total_s, first = training.recipe, 0.0, 0
    for stage in recipe.stages:
        numbers = range(first, first + stage.steps)
        steps = [step_at(recipe, number) for number in (numbers[0], numbers[-1])]
        plain_s, last_s = (_time(training, step) for step in steps)
        rebuilding = _count(recipe, numbers)
        stage_s = plain_s * (stage.steps - rebuilding) + last_s * rebuilding
        tokens = stage.row_tokens * stage.step_rows
        say(
            f"rows of {stage.row_tokens}: {stage.steps:,} steps of {tokens:,} tokens, "
            f"{tokens / plain_s:,.0f} tokens/s ({tokens / last_s:,.0f} at its end), "
            f"{duration(stage_s)}"
        )
        total_s += stage_s
        first += stage.steps
    started = time.monotonic()
    held_out = training.evaluate()
    evaluations = max(EVALUATIONS_MIN, recipe.tokens // EVALUATION_TOKENS)
    total_s += evaluations * (time.monotonic() - started)
    parameters = sum(p.numel() for p in training.model.parameters())
    say(f"{parameters:,} parameters; held-out text: {', '.join(held_out) or 'none'}")
    say(f"memory: {memory_bytes() / 2**20:,.0f} MiB at most so far; whole run: {duration(total_s)}")


def _time(training: Pretraining, step: Step) -> float:
    """Seconds of the step, the first time not counted: memory is found then."""
    begun = 0.0
    for _ in range(2):
        begun = time.monotonic()
        training.steps_done = step.number
        training.train(step)
    return time.monotonic() - begun


def _count(recipe: Recipe, numbers: range) -> int:
    """How many of the steps rebuild; they are the last ones of the run."""
    plain = sum(1 for number in numbers if not step_at(recipe, number).reconstructs)
    return len(numbers) - plain


def memory_bytes() -> int:
    """The most this process ever held (Linux counts in KiB, macOS in bytes)."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
