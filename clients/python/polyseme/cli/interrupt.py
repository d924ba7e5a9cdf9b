"""Ctrl-C, remembered."""

from __future__ import annotations

import signal
from types import FrameType


class Interrupt:
    """While it is entered, Ctrl-C raises KeyboardInterrupt as ever, and `check` raises it again.

    In a destructor or a callback of C code Python has nowhere to raise it: it is printed and
    dropped, and a long load would go on as if nobody had asked. For the main thread alone.
    """

    def __init__(self) -> None:
        self._asked = False

    def __enter__(self) -> Interrupt:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *failure: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raises KeyboardInterrupt if Ctrl-C was pressed."""
        if self._asked:
            raise KeyboardInterrupt
