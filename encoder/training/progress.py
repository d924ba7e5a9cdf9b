"""A line on the terminal that says how far a long task is, and when it will be done."""

import sys
import time
from typing import TextIO

TERMINAL_INTERVAL_S = 0.5
LOG_INTERVAL_S = 30.0  # where the output is a file, each report is a line of its own
BAR_CHARACTERS = 24


def duration(seconds: float) -> str:
    """45 s, 12 min 05 s, 3 h 20 min: two units are enough."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Reports at most twice a second on a terminal, every half minute in a log.

    total: the amount of work; `start` of it was done before, and does not count for the speed
    """

    def __init__(
        self, title: str, total: float, *, start: float = 0.0, stream: TextIO | None = None
    ) -> None:
        self._title = title
        self._total = max(total, 1e-9)
        self._start = start
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._begun = time.monotonic()
        self._last = 0.0 if self._terminal else self._begun

    def update(self, done: float, note: str = "") -> None:
        """Say how much is done; does nothing if the last report is fresh."""
        now = time.monotonic()
        if now - self._last >= (TERMINAL_INTERVAL_S if self._terminal else LOG_INTERVAL_S):
            self._last = now
            self._write(done, note, end="" if self._terminal else "\n")

    def finish(self, note: str = "") -> None:
        """Report that all is done."""
        self._write(self._total, note, end="\n")

    def _write(self, done: float, note: str, end: str) -> None:
        share = min(1.0, done / self._total)
        elapsed = time.monotonic() - self._begun
        gained = done - self._start
        left = duration((self._total - done) * elapsed / gained) if gained > 0 else "?"
        filled = round(share * BAR_CHARACTERS)
        bar = "#" * filled + "." * (BAR_CHARACTERS - filled)
        time_left = f"{left} left" if share < 1 else duration(elapsed)
        line = f"{self._title} [{bar}] {share:6.1%}  {note + '  ' if note else ''}{time_left}"
        self._stream.write(f"\r\x1b[K{line}{end}" if self._terminal else line + end)
        self._stream.flush()
