"""Whether a call may begin now, and how many are running."""

import asyncio

from server.auth import AUTHORIZATION, ApiKeys
from server.errors import Draining, NotReady, TooManyCalls, Unauthenticated


class Admission:
    """The door. It opens when the model is loaded and closes when the server goes home."""

    def __init__(self, *, calls_max: int, keys: ApiKeys | None = None) -> None:
        self._calls_max = calls_max
        self._keys = keys
        self._idle = asyncio.Event()
        self._idle.set()
        self.running = 0
        self.ready = False
        self.draining = False

    @property
    def serving(self) -> bool:
        """Whether a call would be answered now."""
        return self.ready and not self.draining

    def enter(self, metadata: dict[str, str]) -> str:
        """Count a call in and return its caller's name, empty where no keys are asked for.

        Raises Unauthenticated, Draining, NotReady or TooManyCalls, and then counts nothing.
        """
        name = self._name_of(metadata)
        if self.draining:
            raise Draining()
        if not self.ready:
            raise NotReady()
        if self.running >= self._calls_max:
            raise TooManyCalls(self._calls_max)
        self.running += 1
        self._idle.clear()
        return name

    def leave(self) -> None:
        """A call that entered has ended."""
        self.running -= 1
        if self.running == 0:
            self._idle.set()

    async def idle(self, timeout_s: float) -> None:
        """Wait until no call is running, but not longer than `timeout_s`."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return

    def _name_of(self, metadata: dict[str, str]) -> str:
        if self._keys is None:
            return ""
        header = metadata.get(AUTHORIZATION)
        if header is None:
            raise Unauthenticated("no API key: send `authorization: Bearer KEY`")
        name = self._keys.name_of(header)
        if name is None:
            raise Unauthenticated("this API key is not known")
        return name
