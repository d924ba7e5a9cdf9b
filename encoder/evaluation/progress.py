"""A progress bar on stderr: one line that rewrites itself, or a line a tenth where nobody watches."""

import sys
import time
from types import TracebackType
from typing import TextIO

_BAR_CELLS = 24
_REDRAW_S = 0.1
_LINES_WHEN_UNWATCHED = 10


class Progress:
    """How far a loop of known length is, and how long the rest will take."""

    def __init__(self, label: str, total: int, stream: TextIO | None = None) -> None:
        """label: what is being done; total: how many steps it has, 0 for nothing to do."""
        self._label = label
        self._total = total
        self._stream = stream or sys.stderr
        self._watched = self._stream.isatty()
        self._done = 0
        self._started = time.monotonic()
        self._drawn_at = 0.0
        self._tenths = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._watched:
            self._stream.write("\r\x1b[K")  # the result takes the bar's place
            self._stream.flush()

    def advance(self, steps: int) -> None:
        """Count `steps` more as done, and show it if it is time to."""
        self._done += steps
        now = time.monotonic()
        if self._watched:
            if now - self._drawn_at >= _REDRAW_S:
                self._drawn_at = now
                self._stream.write("\r\x1b[K" + self.line(now - self._started))
                self._stream.flush()
            return
        tenths = self._done * _LINES_WHEN_UNWATCHED // max(self._total, 1)
        if tenths > self._tenths:
            self._tenths = tenths
            self._stream.write(self.line(now - self._started) + "\n")
            self._stream.flush()

    def line(self, elapsed_s: float) -> str:
        """What is shown after `elapsed_s` seconds."""
        share = min(self._done / self._total, 1.0) if self._total else 1.0
        filled = round(share * _BAR_CELLS)
        bar = "#" * filled + "." * (_BAR_CELLS - filled)
        left_s = elapsed_s * (1 - share) / share if share else 0.0
        return (
            f"{self._label} [{bar}] {self._done:,}/{self._total:,}"
            f"  {clock(elapsed_s)} gone, {clock(left_s)} left"
        )


def clock(seconds: float) -> str:
    """Minutes and seconds, as 3:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
