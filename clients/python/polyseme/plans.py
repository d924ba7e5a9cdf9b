"""Plans: what a call does, step by step, with nothing done yet.

A plan is a generator. It yields a step (send this request, wait so long, give me the next of the
caller's items), is sent the step's outcome, and returns the call's result. `drive` performs the
steps, once for the blocking client and once for the asyncio one; so batching, paging, retrying
and resuming are written once, and are tested without a network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from google.protobuf.message import Message

from polyseme.errors import PolysemeError
from polyseme.methods import A, Method, Q
from polyseme.retry import Budget

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """Send one request; the outcome is the answer."""

    method: Method[Any, Any]
    request: Message
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit:
    """Give the caller one item of the result."""

    item: Any


@dataclass(frozen=True, slots=True)
class Pull:
    """Take the next of the caller's items; the outcome is the item, or `END`."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Call a function of the caller's."""

    function: Callable[[Any], object]
    value: Any


class End:
    """The caller has no more items."""


END = End()


@dataclass(frozen=True, slots=True)
class Open:
    """Open a stream; the outcome is its handle. An open one before it is cancelled."""

    method: Method[Any, Any]
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message on the open stream."""

    request: Message


@dataclass(frozen=True, slots=True)
class CloseSend:
    """Say that nothing more will be sent on the open stream."""


@dataclass(frozen=True, slots=True)
class Receive:
    """Take the next answer from the open stream; none for so long is DeadlineExceeded."""

    silence_s: float


Step: TypeAlias = Call | Sleep | Emit | Pull | Tell | Open | Send | CloseSend | Receive
# What these raise is the caller's own. It ends the plan and goes back as it is: thrown into the
# plan it would pass for a failure of the server, which may be tried again.
CALLERS_OWN = (Pull, Tell)
Plan: TypeAlias = Generator[Step, Any, T]


def call(budget: Budget, method: Method[Q, A], request: Q) -> Plan[A]:
    """Send `request`, again where that is safe and useful, within one request's deadline."""
    deadline = budget.request_deadline()
    attempt = 0
    while True:
        attempt += 1
        try:
            answer: A = yield Call(method, request, budget.remaining_s(deadline))
            return answer
        except PolysemeError as error:
            wait_s = _wait_s(budget, method, error, attempt, deadline)
            if wait_s is None:
                raise
        yield Sleep(wait_s)


def gather(
    budget: Budget, method: Method[Q, A], request: Q, count: Callable[[A], int]
) -> Plan[list[A]]:
    """All answers to `request`, of a method that streams them; `count` tells from the first how
    many there will be. A stream that breaks is asked for again from its beginning, as by `call`.
    """
    deadline = budget.request_deadline()
    attempt = 0
    while True:
        attempt += 1
        try:
            yield Open(method, budget.remaining_s(deadline))
            yield Send(request)
            yield CloseSend()
            answers: list[A] = [(yield Receive(budget.silence_s))]
            while len(answers) < count(answers[0]):
                answers.append((yield Receive(budget.silence_s)))
            return answers
        except PolysemeError as error:
            wait_s = _wait_s(budget, method, error, attempt, deadline)
            if wait_s is None:
                raise
        yield Sleep(wait_s)


def _wait_s(
    budget: Budget, method: Method[Any, Any], error: PolysemeError, attempt: int, deadline: float
) -> float | None:
    """Seconds before the next attempt; None for none."""
    if not method.repeatable:
        return None
    remaining_s = max(0.0, deadline - budget.now())
    return budget.retry.wait_s(error, attempt, remaining_s, budget.chance())


@dataclass(frozen=True, slots=True)
class Flight:
    """A message on its way: sent, not yet answered."""

    request: Message
    ids: frozenset[str] = frozenset()  # documents in it; two flights never share one
    context: Any = None  # whatever `landed` wants to know about it


def pipeline(
    budget: Budget,
    method: Method[Any, Any],
    next_flight: Callable[[], Plan[Flight | None]],
    landed: Callable[[Flight, Any], Plan[None]],
    flights_max: int,
) -> Plan[None]:
    """Keep up to `flights_max` messages on a stream that answers each in order.

    After a failure that may pass, the stream is opened again and every message without an answer
    is sent again; the method's answers must therefore not depend on how often a message arrives.
    `landed` raises the error of a refused message; a passing one is retried like a lost stream.
    """
    lane = _Lane(next_flight, flights_max)
    attempt = 0
    while not lane.done:
        try:
            yield Open(method, budget.stream_timeout_s())
            yield from lane.send_again()
            while not lane.done:
                yield from lane.fill()
                if lane.flying:
                    answer = yield Receive(budget.silence_s)
                    yield from landed(lane.flying[0], answer)
                    lane.flying.popleft()
                    attempt = 0
            return
        except PolysemeError as error:
            attempt += 1
            remaining_s = budget.stream_timeout_s() or float("inf")
            wait_s = budget.retry.wait_s(error, attempt, remaining_s, budget.chance())
            if wait_s is None:
                raise
        yield Sleep(wait_s)


class _Lane:
    """The messages of one pipeline: flying, waiting for an id to come free, or yet to be made."""

    def __init__(self, next_flight: Callable[[], Plan[Flight | None]], flights_max: int) -> None:
        self._next_flight = next_flight
        self._flights_max = flights_max
        self._held: Flight | None = None
        self._exhausted = False
        self.flying: deque[Flight] = deque()

    @property
    def done(self) -> bool:
        return self._exhausted and not self.flying and self._held is None

    def send_again(self) -> Plan[None]:
        for flight in self.flying:
            yield Send(flight.request)
        if self._exhausted and self._held is None:
            yield CloseSend()

    def fill(self) -> Plan[None]:
        """Send until the window is full, the source is empty, or an id is still in flight.

        A later version of a document waits for the earlier one's answer: if the earlier were
        lost and sent again, it would otherwise land last and win.
        """
        while not self._exhausted or self._held is not None:
            if len(self.flying) >= self._flights_max:
                return
            flight = self._held or (yield from self._next_flight())
            self._held = None
            if flight is None:
                self._exhausted = True
                yield CloseSend()
                return
            if any(flight.ids & other.ids for other in self.flying):
                self._held = flight
                return
            self.flying.append(flight)
            yield Send(flight.request)
