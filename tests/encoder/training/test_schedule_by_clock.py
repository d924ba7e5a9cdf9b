"""A run by the clock, on machines of any speed."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.training.recipe import Recipe, Stage
from encoder.training.schedule import Place, step_by_clock

RECIPE = Recipe(
    stages=(
        Stage(row_tokens=16, step_rows=4, tokens=6000),
        Stage(row_tokens=32, step_rows=8, tokens=4000),
    )
)
TOTAL_S = 100.0


def steps_of(durations, total_s=TOTAL_S):
    """The steps of a run whose steps take `durations`, over and over."""
    place, before = Place(), 1.0
    for duration in itertools.cycle(durations):
        step = step_by_clock(RECIPE, place, total_s, before)
        if step is None:
            return
        yield place, step
        place, before = place.after(step, place.seconds + duration), duration


@given(durations=st.lists(st.floats(0.05, 9.0), min_size=1, max_size=8))
def test_a_run_ends_in_time_with_its_rate_fallen_whatever_the_speed(durations):
    run = list(steps_of(durations))

    place, last = run[-1]
    assert place.seconds < TOTAL_S <= place.seconds + max(durations)
    # What is left of the rate is what half a step of the decay's 25 s can leave.
    assert last.rate_share <= 1 - (max(0.0, 1 - 1.5 * max(durations) / 25)) ** 0.5 + 1e-9
    assert last.stage_index == 1


@given(durations=st.lists(st.floats(0.05, 9.0), min_size=1, max_size=8))
def test_no_row_is_read_twice_and_none_is_skipped(durations):
    read = {0: 0, 1: 0}
    for number, (_, step) in enumerate(steps_of(durations)):
        assert step.number == number
        assert step.first_row == read[step.stage_index]
        read[step.stage_index] += step.stage.step_rows


def test_each_stage_has_its_share_of_the_time():
    seconds = {0: 0, 1: 0}
    for _, step in steps_of([1.0]):
        seconds[step.stage_index] += 1

    assert seconds == {0: 60, 1: 40}


def test_masks_and_reconstruction_follow_the_clock():
    run = [step for _, step in steps_of([1.0])]

    assert run[0].mask_rate == pytest.approx(0.30)
    assert run[-1].mask_rate == pytest.approx(0.15)
    assert [step.reconstructs for step in run] == [False] * 70 + [True] * 30


def test_a_run_that_lost_time_to_a_kill_decays_sooner_and_still_ends_in_time():
    stopped = Place(steps=40, tokens=4000, rows={0: 160}, seconds=40.0)

    step = step_by_clock(RECIPE, stopped, seconds_total=50.0, step_s=1.0)

    assert step.stage_index == 1
    assert step.first_row == 0
    assert 0 < step.rate_share < 1
    assert step_by_clock(RECIPE, Place(seconds=50.0), 50.0) is None
