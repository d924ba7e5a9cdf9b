"""What each step of a run does: a pure function of the recipe and the step's number."""

from dataclasses import dataclass
from math import sqrt

from encoder.training.recipe import Recipe, Stage

# The mask rate falls by steps, because each number of hidden tokens is a shape to compile for.
MASK_RATE_STEP = 0.025


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its stage, its rows, and the values that change over the run."""

    number: int  # from 0
    stage_index: int
    stage: Stage
    first_row: int  # in the stage
    tokens_before: int  # trained on before this step
    rate_share: float  # of the optimiser's full rate
    mask_rate: float
    reconstructs: bool  # whether RetroMAE's task is trained as well


def step_at(recipe: Recipe, number: int) -> Step:
    """Step `number` of the run. Raises IndexError beyond its last."""
    first, before = 0, 0
    for index, stage in enumerate(recipe.stages):
        step_tokens = stage.row_tokens * stage.step_rows
        if number < first + stage.steps:
            done = before + (number - first) * step_tokens
            progress = done / recipe.tokens
            masking = recipe.masking
            rate = masking.rate_first + progress * (masking.rate_last - masking.rate_first)
            return Step(
                number=number,
                stage_index=index,
                stage=stage,
                first_row=(number - first) * stage.step_rows,
                tokens_before=done,
                rate_share=rate_share(recipe, done + step_tokens / 2),
                mask_rate=round(rate / MASK_RATE_STEP) * MASK_RATE_STEP,
                reconstructs=progress >= 1 - recipe.reconstruction.share,
            )
        first += stage.steps
        before += stage.steps * step_tokens
    raise IndexError(f"step {number} of a run of {recipe.steps}")


def rate_share(recipe: Recipe, tokens_done: float) -> float:
    """Warm-up, a long plateau, and a fall to nothing as 1 - sqrt (Hägele et al. 2024)."""
    progress = tokens_done / recipe.tokens
    optimizer = recipe.optimizer
    if progress < optimizer.warm_up_share:
        return progress / optimizer.warm_up_share
    begin = 1 - optimizer.decay_share
    if progress <= begin:
        return 1.0
    return 1 - sqrt((progress - begin) / optimizer.decay_share)
