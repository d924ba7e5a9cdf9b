"""How much one API key may ask for: a bucket that fills at the key's rate."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from server.errors import RateExceeded

BURST_S = 10.0  # of its rate, a key that was silent may ask for at once
CALL_TOKENS = 16  # of a call beside its texts': what a model call costs beside its tokens


@dataclass(frozen=True, slots=True)
class Level:
    """What was in a bucket at a moment; below 0 it is in debt."""

    tokens: float
    at: float  # seconds, of any clock that goes on


def filled(level: Level, tokens_per_s: float, now: float) -> Level:
    """The same bucket at `now`: never fuller than its burst."""
    more = max(0.0, now - level.at) * tokens_per_s
    return Level(min(level.tokens + more, BURST_S * tokens_per_s), now)


def wait_s(level: Level, tokens_per_s: float) -> float:
    """How long until a bucket is out of debt; 0 if it is not in debt.

    Whoever finds the bucket not empty may take more than is in it, and those who come next wait
    until that is paid: so a call larger than the burst is let in too, and the average holds.
    """
    return max(0.0, -level.tokens / tokens_per_s)


class Bucket:
    """The shell: one key's level, changed by its calls. There is one a key, so at most KEYS_MAX."""

    def __init__(
        self, key: str, tokens_per_s: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._key = key
        self._tokens_per_s = tokens_per_s
        self._clock = clock
        self._level = Level(BURST_S * tokens_per_s, clock())

    def enter(self) -> int:
        """Charge a call as such; gives what was charged. Raises RateExceeded if nothing is left."""
        level = self._filled()
        if level.tokens <= 0:
            raise self._exceeded(level)
        self._take(CALL_TOKENS)
        return CALL_TOKENS

    def charge(self, tokens: int, own: int) -> None:
        """Charge what a call is made of that entered and was charged `own` so far.

        Raises RateExceeded if the calls beside it have emptied the bucket in the meantime: what
        the call itself took is not held against it.
        """
        level = self._filled()
        if level.tokens + own < 0:
            raise self._exceeded(level)
        self._take(tokens)

    def take(self, tokens: int) -> None:
        """Charge without asking: for streams, whose next message waits instead."""
        self._filled()
        self._take(tokens)

    def debt_s(self) -> float:
        """Seconds until the key is out of debt."""
        return wait_s(self._filled(), self._tokens_per_s)

    def _filled(self) -> Level:
        self._level = filled(self._level, self._tokens_per_s, self._clock())
        return self._level

    def _take(self, tokens: int) -> None:
        self._level = Level(self._level.tokens - tokens, self._level.at)

    def _exceeded(self, level: Level) -> RateExceeded:
        # A token more than the debt: at the very moment when it is paid, nothing is left.
        retry_after_s = wait_s(level, self._tokens_per_s) + 1 / self._tokens_per_s
        return RateExceeded(self._key, self._tokens_per_s, retry_after_s)
