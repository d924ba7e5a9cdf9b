import itertools

import pytest

from encoder.training.recipe import Recipe, Stage
from encoder.training.schedule import place_at, rate_share, step_at

RECIPE = Recipe(
    stages=(
        Stage(row_tokens=16, step_rows=4, tokens=6400),
        Stage(row_tokens=32, step_rows=8, tokens=25_600),
    )
)


def test_steps_follow_one_another_without_gaps_or_repeats():
    steps = [step_at(RECIPE, number) for number in range(RECIPE.steps)]

    assert [step.stage_index for step in steps] == [0] * 100 + [1] * 100
    for before, after in itertools.pairwise(steps):
        tokens = before.stage.row_tokens * before.stage.step_rows
        assert after.tokens_before == before.tokens_before + tokens
        if after.stage_index == before.stage_index:
            assert after.first_row == before.first_row + before.stage.step_rows
    with pytest.raises(IndexError):
        step_at(RECIPE, RECIPE.steps)


@pytest.mark.parametrize("number", [0, 1, 99, 100, 101, 199])
def test_a_run_by_the_clock_goes_on_where_one_by_tokens_stopped(number):
    place, step = place_at(RECIPE, number, 7.0), step_at(RECIPE, number)

    assert (place.steps, place.tokens, place.seconds) == (number, step.tokens_before, 7.0)
    assert place.rows.get(step.stage_index, 0) == step.first_row


def test_the_rate_rises_stays_and_falls_to_nothing():
    shares = [rate_share(RECIPE, done) for done in range(0, RECIPE.tokens + 1, 320)]

    assert shares[0] == 0
    assert shares[-1] == pytest.approx(0, abs=1e-6)
    assert shares[2:75] == [1.0] * 73  # warm-up 2 %, decay 25 %
    assert all(after < before for before, after in itertools.pairwise(shares[76:]))


def test_fewer_tokens_are_hidden_as_the_run_goes_on():
    rates = [step_at(RECIPE, number).mask_rate for number in range(RECIPE.steps)]

    assert rates[0] == pytest.approx(0.30)
    assert rates[-1] == pytest.approx(0.15)
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == 7  # each is a shape to compile for


def test_reconstruction_is_trained_in_the_last_part_alone():
    flags = [step_at(RECIPE, number).reconstructs for number in range(RECIPE.steps)]

    assert flags == sorted(flags)
    tokens = sum(
        step_at(RECIPE, n).stage.row_tokens * step_at(RECIPE, n).stage.step_rows
        for n, flag in enumerate(flags)
        if flag
    )
    assert tokens / RECIPE.tokens == pytest.approx(0.3, abs=0.01)
