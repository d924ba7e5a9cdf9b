"""What each step of a run does: a pure function of the recipe and of how far the run is.

A run goes by its tokens (`step_at`: a step's number says all), or by the clock (`step_by_clock`).
"""

from dataclasses import dataclass, field
from math import sqrt

from encoder.training.recipe import Optimizer, Recipe, Stage

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
    decays: bool  # whether the rate is on its way down
    mask_rate: float
    reconstructs: bool  # whether RetroMAE's task is trained as well

    @property
    def tokens(self) -> int:
        """Trained on in this step."""
        return self.stage.row_tokens * self.stage.step_rows


@dataclass(frozen=True, slots=True)
class Place:
    """How far a run by the clock is."""

    steps: int = 0
    tokens: int = 0
    rows: dict[int, int] = field(default_factory=dict)  # read of each stage, by its index
    seconds: float = 0.0  # of training, over all resumes

    def after(self, step: Step, seconds: float) -> "Place":
        """The place at which `step` leaves a run that has trained for `seconds`."""
        rows = {**self.rows, step.stage_index: step.first_row + step.stage.step_rows}
        return Place(step.number + 1, self.tokens + step.tokens, rows, seconds)


def place_at(recipe: Recipe, number: int, seconds: float) -> Place:
    """Where a run by tokens is after `number` steps that took `seconds`."""
    rows, tokens, left = {}, 0, number
    for index, stage in enumerate(recipe.stages):
        if done := min(left, stage.steps):
            rows[index] = done * stage.step_rows
        tokens += done * stage.step_rows * stage.row_tokens
        left -= done
    return Place(number, tokens, rows, seconds)


def step_at(recipe: Recipe, number: int) -> Step:
    """Step `number` of the run. Raises IndexError beyond its last."""
    first, before = 0, 0
    for index, stage in enumerate(recipe.stages):
        step_tokens = stage.row_tokens * stage.step_rows
        if number < first + stage.steps:
            done = before + (number - first) * step_tokens
            return _step(
                recipe,
                index,
                Place(number, done, {index: (number - first) * stage.step_rows}),
                progress=done / recipe.tokens,
                rate_share=rate_share(recipe, done + step_tokens / 2),
            )
        first += stage.steps
        before += stage.steps * step_tokens
    raise IndexError(f"step {number} of a run of {recipe.steps}")


def step_by_clock(
    recipe: Recipe, place: Place, seconds_total: float, step_s: float = 0.0
) -> Step | None:
    """The next step of a run that ends after `seconds_total`; None where it has ended.

    step_s: what a step takes. Each stage has the share of the time that the recipe gives it of
    the tokens, and the rate has fallen to nothing at the end, however fast the machine is. So
    the weights depend on the clock: such a run is never repeated bit for bit.
    """
    progress = place.seconds / seconds_total
    if progress >= 1:
        return None
    index, end = 0, recipe.stages[0].tokens
    total = sum(stage.tokens for stage in recipe.stages)
    while progress * total >= end and index + 1 < len(recipe.stages):
        index += 1
        end += recipe.stages[index].tokens
    middle = min(1.0, progress + step_s / 2 / seconds_total)
    share = _rate_share(recipe.optimizer, middle)
    return _step(recipe, index, place, progress=progress, rate_share=share)


def _step(recipe: Recipe, index: int, place: Place, *, progress: float, rate_share: float) -> Step:
    masking = recipe.masking
    rate = masking.rate_first + progress * (masking.rate_last - masking.rate_first)
    return Step(
        number=place.steps,
        stage_index=index,
        stage=recipe.stages[index],
        first_row=place.rows.get(index, 0),
        tokens_before=place.tokens,
        rate_share=rate_share,
        decays=progress >= 1 - recipe.optimizer.decay_share,
        mask_rate=round(rate / MASK_RATE_STEP) * MASK_RATE_STEP,
        reconstructs=progress >= 1 - recipe.reconstruction.share,
    )


def rate_share(recipe: Recipe, tokens_done: float) -> float:
    """Of the optimiser's full rate, after so many tokens."""
    return _rate_share(recipe.optimizer, tokens_done / recipe.tokens)


def _rate_share(optimizer: Optimizer, progress: float) -> float:
    """Warm-up, a long plateau, and a fall to nothing as 1 - sqrt (Hägele et al. 2024)."""
    if progress < optimizer.warm_up_share:
        return progress / optimizer.warm_up_share
    begin = 1 - optimizer.decay_share
    if progress <= begin:
        return 1.0
    return 1 - sqrt((progress - begin) / optimizer.decay_share)
