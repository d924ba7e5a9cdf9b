import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.speed import CALLS_WORTH, TOKENS_WORTH_MIN, Speed


def seen(calls):
    speed = Speed.of(0.001, 1 / 20_000)
    for tokens, seconds in calls:
        speed = speed.after(tokens, seconds)
    return speed


def test_what_it_is_made_of_is_what_it_says():
    speed = Speed.of(0.002, 0.0001)

    assert speed.call_s == pytest.approx(0.002)
    assert speed.token_s == pytest.approx(0.0001)


def test_it_learns_what_a_call_and_a_token_cost():
    rng = random.Random(3)
    sizes = [rng.choice([26, 100, 500, 2000]) for _ in range(300)]

    speed = seen([(n, 0.005 + 0.0002 * n) for n in sizes])

    assert speed.token_s == pytest.approx(0.0002, rel=0.05)
    assert speed.call_s == pytest.approx(0.005, rel=0.3)
    assert speed.tokens_within(0.1) == pytest.approx((0.1 - 0.005) / 0.0002, rel=0.1)


def test_calls_of_one_size_tell_nothing_of_the_call_itself():
    speed = seen([(128, 0.0128)] * 200)

    assert speed.token_s == pytest.approx(0.0001)
    assert speed.call_s == pytest.approx(0, abs=1e-6)


@given(
    calls=st.lists(st.tuples(st.integers(1, 70_000), st.floats(1e-6, 100)), max_size=80),
    seconds=st.floats(1e-3, 1.0),
)
def test_whatever_was_measured_it_says_something_sensible(calls, seconds):
    speed = seen(calls)

    assert 0 < speed.token_s <= speed.average_s * (1 + 1e-9)
    assert speed.call_s >= 0
    tokens = speed.tokens_within(seconds)
    assert tokens >= TOKENS_WORTH_MIN
    assert tokens >= int(CALLS_WORTH * speed.call_s / speed.token_s)
