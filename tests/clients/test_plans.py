"""Streams that break, without a network: the pipeline against a scripted server."""

import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyseme import Unavailable
from polyseme.errors import Failure
from polyseme.methods import DRAIN, GET_ATTENTION, WRITE_STREAM
from polyseme.plans import CloseSend, Flight, Open, Receive, Send, Sleep, gather, pipeline
from polyseme.retry import Budget, Retry


def run(messages, breaks, flights_max=3, attempts_max=1000):
    """Drive a pipeline; before the n-th answer with n in `breaks` the connection is lost.

    Returns what the server saw, connection by connection, and the answers that landed.
    """
    source = iter(messages)
    landed, connections, waiting = [], [], deque()

    def next_flight():
        return next(source, None)
        yield

    def land(flight, answer):
        assert flight.request == answer
        landed.append(answer)
        return
        yield

    budget = Budget(request_timeout_s=60, retry=Retry(attempts_max=attempts_max))
    plan = pipeline(budget, WRITE_STREAM, next_flight, land, flights_max)
    outcome, failure, received = None, None, 0
    while True:
        try:
            step = plan.throw(failure) if failure else plan.send(outcome)
        except StopIteration:
            return connections, landed
        outcome, failure = None, None
        match step:
            case Open():
                connections.append([])
                waiting.clear()
            case Send(request):
                connections[-1].append(request)
                waiting.append(request)
                assert len(waiting) <= flights_max
            case Receive():
                received += 1
                if received in breaks:
                    failure = Unavailable(Failure(code="UNAVAILABLE"))
                else:
                    outcome = waiting.popleft()
            case CloseSend() | Sleep():
                pass


flights = st.lists(st.frozensets(st.sampled_from("abcdef"), max_size=2), max_size=30)


@given(ids=flights, breaks=st.sets(st.integers(1, 60)), flights_max=st.integers(1, 5))
def test_every_message_lands_once_in_order_however_often_the_stream_breaks(
    ids, breaks, flights_max
):
    messages = [Flight(i, shared) for i, shared in enumerate(ids)]

    connections, landed = run(messages, breaks, flights_max)

    assert landed == list(range(len(messages)))
    for seen in connections:
        assert seen == sorted(seen)


@given(ids=flights, breaks=st.sets(st.integers(1, 60)))
def test_the_last_version_of_a_document_is_written_last(ids, breaks):
    messages = [Flight(i, shared) for i, shared in enumerate(ids)]

    connections, _ = run(messages, breaks)

    applied = {}  # the server writes a message when it first arrives; repetitions change nothing
    seen = set()
    for request in (r for connection in connections for r in connection if r not in seen):
        seen.add(request)
        applied |= dict.fromkeys(ids[request], request)
    assert applied == {i: n for n, shared in enumerate(ids) for i in shared}


def test_a_server_that_stays_away_is_given_up():
    with pytest.raises(Unavailable):
        run([Flight(0)], breaks={1, 2, 3}, attempts_max=3)


def test_an_answer_in_between_starts_the_count_again():
    random.seed(0)
    messages = [Flight(i) for i in range(6)]

    _, landed = run(messages, breaks={1, 3, 5, 7}, attempts_max=2)

    assert landed == list(range(6))


def gathered(method, answers, breaks, attempts_max=4):
    """Drive `gather` for `answers`; the n-th receive with n in `breaks` finds the stream lost."""
    budget = Budget(request_timeout_s=60, retry=Retry(attempts_max=attempts_max))
    plan = gather(budget, method, "request", lambda first: len(answers))
    outcome, failure, received, opened = None, None, 0, 0
    while True:
        try:
            step = plan.throw(failure) if failure else plan.send(outcome)
        except StopIteration as end:
            return end.value, opened
        outcome, failure = None, None
        match step:
            case Open():
                source = iter(answers)
                opened += 1
            case Receive():
                received += 1
                outcome = next(source)
                if received in breaks:
                    failure = Unavailable(Failure(code="UNAVAILABLE"))
            case Send(request):
                assert request == "request"


@given(answers=st.lists(st.integers(), min_size=1, max_size=6), broken=st.integers(1, 6))
def test_a_streamed_answer_that_breaks_is_asked_for_from_its_beginning(answers, broken):
    found, opened = gathered(GET_ATTENTION, answers, {broken})

    assert found == answers
    assert opened == 1 + (broken <= len(answers))


def test_a_streamed_answer_is_given_up_in_the_end_and_never_repeated_where_that_may_harm():
    for method, attempts_max in ((GET_ATTENTION, 2), (DRAIN, 9)):
        with pytest.raises(Unavailable):
            gathered(method, [1, 2], breaks={1, 2}, attempts_max=attempts_max)
