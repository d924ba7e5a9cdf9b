"""What is known of the call being served, wherever the code that asks may be."""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from server.rates import Bucket


@dataclass(slots=True)
class Call:
    """One RPC. Times are readings of `time.monotonic`."""

    method: str  # as /polyseme.v1.EncoderService/Embed
    request_id: str
    deadline: float | None = None
    started: float = field(default_factory=time.monotonic)
    bucket: Bucket | None = None  # of the caller's key, if it has a rate
    charged: int = 0  # tokens, to the bucket
    paced: bool = False  # a stream: its next message waits until this one is paid

    def charge(self, tokens: int) -> None:
        """Count what the call asks for against its key's rate. Raises RateExceeded."""
        if self.bucket is None:
            return
        if self.paced:
            self.bucket.take(tokens)
        else:
            self.bucket.charge(tokens, self.charged)
        self.charged += tokens

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def remaining_s(self) -> float | None:
        """Seconds until the deadline, None without one."""
        return None if self.deadline is None else self.deadline - time.monotonic()


_current: ContextVar[Call | None] = ContextVar("polyseme_call", default=None)


def current_call() -> Call | None:
    """The call that this code runs for; None outside of any."""
    return _current.get()


def enter(call: Call) -> None:
    """Make `call` the current one for the rest of this task."""
    _current.set(call)


def request_id() -> str:
    """The current call's id, for messages; empty outside of any."""
    call = _current.get()
    return call.request_id if call else ""
