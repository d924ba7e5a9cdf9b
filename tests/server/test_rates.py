import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.call import Call
from server.errors import RateExceeded
from server.rates import BURST_S, CALL_TOKENS, Bucket, Level, filled, wait_s


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@given(tokens=st.floats(-1e6, 1e3), rate=st.integers(1, 10_000), seconds=st.floats(0, 1e6))
def test_a_bucket_fills_at_its_rate_up_to_its_burst(tokens, rate, seconds):
    level = filled(Level(tokens, 5.0), rate, 5.0 + seconds)

    assert level.tokens == pytest.approx(min(tokens + seconds * rate, BURST_S * rate), rel=1e-6)
    assert filled(level, rate, level.at - 1).tokens <= BURST_S * rate  # a clock that goes back


@given(tokens=st.floats(-1e6, 1e3), rate=st.integers(1, 10_000))
def test_after_the_wait_a_bucket_is_out_of_debt(tokens, rate):
    wait = wait_s(Level(tokens, 0.0), rate)

    assert filled(Level(tokens, 0.0), rate, wait).tokens >= -1e-6
    assert (wait > 0) == (tokens < 0)


@given(calls=st.lists(st.tuples(st.floats(0, 3), st.integers(0, 5000)), max_size=60))
def test_on_average_no_more_is_let_in_than_the_rate_and_the_burst_and_one_call(calls):
    clock, rate = Clock(), 100
    bucket = Bucket("web", rate, clock)
    begun, let_in, largest = clock.now, 0, 0
    for pause, tokens in calls:
        clock.now += pause
        call = Call("m", "r", bucket=bucket)
        try:
            call.charged = bucket.enter()
            call.charge(tokens)
        except RateExceeded:
            continue
        let_in += call.charged
        largest = max(largest, call.charged)

    assert let_in <= rate * (clock.now - begun) + BURST_S * rate + largest


def test_a_caller_who_comes_when_it_is_told_to_is_let_in(clock):
    bucket = Bucket("web", 3, clock)
    bucket.enter()
    bucket.charge(10_000, CALL_TOKENS)

    with pytest.raises(RateExceeded) as refusal:
        bucket.enter()
    clock.now += refusal.value.retry_after_s

    bucket.enter()


def test_a_call_is_not_refused_for_what_it_took_itself(clock):
    bucket = Bucket("web", 1, clock)
    call = Call("m", "r", bucket=bucket, charged=bucket.enter())

    for _ in range(3):
        call.charge(1000)


def test_calls_beside_one_that_emptied_the_bucket_are_refused(clock):
    bucket = Bucket("web", 10, clock)
    calls = [Call("m", "r", bucket=bucket, charged=bucket.enter()) for _ in range(3)]

    calls[0].charge(1000)

    for call in calls[1:]:
        with pytest.raises(RateExceeded):
            call.charge(1)


def test_a_stream_is_charged_and_never_refused(clock):
    bucket = Bucket("web", 10, clock)
    stream = Call("m", "r", bucket=bucket, paced=True)

    for _ in range(3):
        stream.charge(100)

    assert bucket.debt_s() == pytest.approx(20)
