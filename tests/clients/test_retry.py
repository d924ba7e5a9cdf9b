"""When the client tries again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyseme import DeadlineExceeded
from polyseme.errors import Failure, make
from polyseme.retry import Budget, Retry

UNAVAILABLE = make(Failure(code="UNAVAILABLE"))
QUEUE_FULL = make(Failure(code="RESOURCE_EXHAUSTED", reason="QUEUE_FULL", retry_after_s=0.7))


@given(
    attempt=st.integers(1, 20),
    remaining_s=st.floats(0.0, 100.0),
    chance=st.floats(0.0, 1.0),
    asked=st.one_of(st.none(), st.floats(0.0, 100.0)),
)
def test_a_wait_ends_before_the_deadline_and_no_earlier_than_asked(
    attempt, remaining_s, chance, asked
):
    policy = Retry()
    error = make(Failure(code="UNAVAILABLE", retry_after_s=asked))

    wait = policy.wait_s(error, attempt, remaining_s, chance)

    if wait is not None:
        assert attempt < policy.attempts_max
        assert wait < remaining_s
        assert wait >= (asked or 0.0)
        assert wait <= policy.wait_max_s + policy.wait_first_s


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "INTERNAL", "DEADLINE_EXCEEDED", "ABORTED"])
def test_other_failures_are_never_retried(code):
    assert Retry().wait_s(make(Failure(code=code)), 1, 60.0, 0.5) is None


def test_a_full_disk_is_not_a_full_queue():
    full_disk = make(Failure(code="RESOURCE_EXHAUSTED", reason="DISK_QUOTA"))

    assert Retry().wait_s(full_disk, 1, 60.0, 0.5) is None
    assert Retry().wait_s(QUEUE_FULL, 1, 60.0, 0.5) is not None


@pytest.mark.parametrize("reason", ["TOO_MANY_CALLS", "RATE_LIMITED"])
def test_a_busy_server_is_asked_again_when_it_says(reason):
    busy = make(Failure(code="RESOURCE_EXHAUSTED", reason=reason, retry_after_s=0.7))

    assert Retry().wait_s(busy, 1, 60.0, 0.5) >= 0.7


def test_one_attempt_means_no_retry():
    assert Retry(attempts_max=1).wait_s(UNAVAILABLE, 1, 60.0, 0.5) is None


def test_a_total_ends_requests_that_would_have_longer():
    clock = iter([0.0, 3.0, 5.0, 11.0])
    budget = Budget(request_timeout_s=60.0, total_s=10.0, clock=lambda: next(clock))

    deadline = budget.request_deadline()

    assert deadline == 10.0
    assert budget.remaining_s(deadline) == 5.0
    with pytest.raises(DeadlineExceeded):
        budget.remaining_s(deadline)


@pytest.mark.parametrize("timeout_s", [0, -1])
def test_a_timeout_that_is_over_before_it_begins_is_refused(timeout_s):
    with pytest.raises(ValueError, match="timeout_s"):
        Budget(request_timeout_s=timeout_s)
