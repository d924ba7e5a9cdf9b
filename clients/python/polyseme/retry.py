"""When to try again, and how long a call may take. Nothing here sleeps or sends."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyseme.errors import DeadlineExceeded, Failure, Overloaded, PolysemeError, Unavailable

if TYPE_CHECKING:
    from polyseme.service import ServerInfo

BUSY = frozenset({"QUEUE_FULL", "TOO_MANY_CALLS", "RATE_LIMITED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how patiently a call that may be repeated is repeated.

    Only calls that change nothing, or that carry a request id, are repeated, and only for
    UNAVAILABLE and for RESOURCE_EXHAUSTED of a server that is busy (QUEUE_FULL, TOO_MANY_CALLS,
    RATE_LIMITED), not for one that is full.
    """

    attempts_max: int = 4  # the first one included; 1 never retries
    wait_first_s: float = 0.1  # doubles with each attempt
    wait_max_s: float = 5.0  # also the longest wait that the server may ask for

    def __post_init__(self) -> None:
        if self.attempts_max < 1:
            raise ValueError(f"attempts_max {self.attempts_max}: the first attempt counts, give 1")
        if not 0 <= self.wait_first_s <= self.wait_max_s:
            raise ValueError(f"wait_first_s {self.wait_first_s} is not in 0..{self.wait_max_s}")

    def wait_s(
        self, error: PolysemeError, attempt: int, remaining_s: float, chance: float
    ) -> float | None:
        """Seconds to wait before attempt `attempt + 1`; None to give up.

        attempt:     how many have failed, 1 or more
        remaining_s: until the deadline; a wait that would reach it is not worth beginning
        chance:      uniform in 0..1, so that callers refused together do not return together
        """
        if not retryable(error) or attempt >= self.attempts_max:
            return None
        backoff = min(self.wait_max_s, self.wait_first_s * 2 ** (attempt - 1))
        asked = error.retry_after_s
        if asked is None:
            wait = backoff * chance  # full jitter (Brooker 2015)
        elif asked > self.wait_max_s:
            return None
        else:
            wait = asked + 0.5 * self.wait_first_s * chance  # never before the server asked
        return wait if wait < remaining_s else None


def retryable(error: PolysemeError) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, Unavailable):
        return True
    return isinstance(error, Overloaded) and error.reason in BUSY


class Known:
    """What a client has learnt of its server; shared by all its calls."""

    info: ServerInfo | None = None


class Budget:
    """The time that one call of a method has, however many requests it makes."""

    def __init__(
        self,
        *,
        request_timeout_s: float,
        total_s: float | None = None,
        retry: Retry | None = None,
        known: Known | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        for name, value in (("timeout_s", request_timeout_s), ("timeout_s", total_s)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} {value} must be above 0")
        self.retry = retry or Retry()
        self.known = known or Known()
        self.chance = chance
        self._clock = clock
        self._request_s = request_timeout_s
        self._end = None if total_s is None else clock() + total_s

    def request_deadline(self) -> float:
        """When a request that begins now must be done, its retries included; on the clock."""
        end = self._clock() + self._request_s
        return end if self._end is None else min(end, self._end)

    def now(self) -> float:
        """The clock that deadlines are told on."""
        return self._clock()

    def remaining_s(self, deadline: float) -> float:
        """Seconds until `deadline`. Raises DeadlineExceeded when none are left."""
        remaining = deadline - self._clock()
        if remaining <= 0:
            raise late()
        return remaining

    def stream_timeout_s(self) -> float | None:
        """The deadline of a stream: what is left of the whole call; None where it has no end."""
        return None if self._end is None else self.remaining_s(self._end)

    @property
    def silence_s(self) -> float:
        """How long a stream may leave a message unanswered."""
        return self._request_s


def silent(seconds: float) -> PolysemeError:
    """A stream whose server stopped answering."""
    message = f"the server answered nothing for {seconds:g} s"
    return DeadlineExceeded(Failure(code="DEADLINE_EXCEEDED", message=message))


def late() -> PolysemeError:
    """A call whose time is up."""
    return DeadlineExceeded(Failure(code="DEADLINE_EXCEEDED", message="out of time"))


def unavailable(message: str) -> PolysemeError:
    """A server that cannot be used now."""
    return Unavailable(Failure(code="UNAVAILABLE", message=message))
