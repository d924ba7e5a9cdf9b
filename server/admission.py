"""Whether a call may begin now, and how many are running."""

import asyncio
from collections.abc import Iterable, Sequence

from server.auth import AUTHORIZATION, ApiKeys, Key
from server.errors import Draining, NotReady, ScopeMissing, TooManyCalls, Unauthenticated
from server.rates import Bucket
from server.scopes import scope_of

# Says that the server is draining, which nobody could ask otherwise.
WHILE_DRAINING = frozenset({"/polyseme.v1.AdminService/GetServerInfo"})


class Admission:
    """The door. It opens when the model is loaded and closes when the server goes home."""

    def __init__(self, *, calls_max: int, streams_max: int, keys: ApiKeys | None = None) -> None:
        self._calls_max = calls_max
        self._streams_max = streams_max
        self._keys = keys
        self._buckets = {
            key.name: Bucket(key.name, key.tokens_per_s)
            for key in (keys.keys if keys else ())
            if key.tokens_per_s is not None
        }
        self._idle = asyncio.Event()
        self._idle.set()
        self._streams: set[asyncio.Future[None]] = set()  # of each open one: the end of its input
        self.running = 0  # streams included
        self.ready = False
        self.draining = False

    @property
    def serving(self) -> bool:
        """Whether a call would be answered now."""
        return self.ready and not self.draining

    def identify(self, metadata: Iterable[tuple[str, str | bytes]]) -> Key | None:
        """Whose call this is; None where no keys are asked for. Raises Unauthenticated."""
        if self._keys is None:
            return None
        headers = [str(value) for key, value in metadata if key == AUTHORIZATION]
        key = self._keys.find(headers)
        if key is None:
            raise Unauthenticated(_why(headers))
        return key

    def bucket_of(self, key: Key | None) -> Bucket | None:
        """What the key's calls are charged to; None for one without a rate."""
        return None if key is None else self._buckets.get(key.name)

    def enter(self, method: str, key: Key | None) -> None:
        """Count a call in.

        Raises ScopeMissing, Draining, NotReady or TooManyCalls, and then counts nothing.
        """
        self._check(method, key, self.running - len(self._streams), self._calls_max)
        self._begin()

    def enter_stream(self, method: str, key: Key | None) -> "asyncio.Future[None]":
        """The same for a stream of requests, of which many may be open and silent: they have a
        limit of their own. What it gives is done when no more of its requests shall be read."""
        self._check(method, key, len(self._streams), self._streams_max)
        self._begin()
        closed = asyncio.get_running_loop().create_future()
        self._streams.add(closed)
        return closed

    def drain(self) -> None:
        """Let nobody in any more, and read nothing more from those who are in."""
        self.draining = True
        for closed in self._streams:
            if not closed.done():
                closed.set_result(None)

    def leave(self, closed: "asyncio.Future[None] | None" = None) -> None:
        """A call that entered has ended; `closed` is what `enter_stream` gave."""
        if closed is not None:
            self._streams.discard(closed)
        self.running -= 1
        if self.running == 0:
            self._idle.set()

    def _check(self, method: str, key: Key | None, running: int, limit: int) -> None:
        needed = scope_of(method)
        if key is not None and needed not in key.scopes:
            raise ScopeMissing(key.name, needed, ",".join(sorted(key.scopes)))
        if self.draining and method not in WHILE_DRAINING:
            raise Draining()
        if not self.ready:
            raise NotReady()
        if running >= limit:
            raise TooManyCalls(limit)

    def _begin(self) -> None:
        self.running += 1
        self._idle.clear()

    async def idle(self, timeout_s: float) -> None:
        """Wait until no call is running, but not longer than `timeout_s`."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return


def _why(headers: Sequence[str]) -> str:
    """Never quotes what was sent: it may be a key of somewhere else."""
    if not headers:
        return "no API key: send `authorization: Bearer KEY`"
    if len(headers) > 1:
        return "more than one API key: send one"
    return "this API key is not known"
