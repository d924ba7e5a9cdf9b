"""The documents of a bulk load, and which line each of them was."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from polyseme.cli import session
from polyseme.cli.reading import BadRow, Row, Shape, rows
from polyseme.cli.sources import Source
from polyseme.errors import InvalidRequest


class Place(NamedTuple):
    """A line of one of the sources; two of them may have the same name."""

    source: int  # from 0
    line: int  # from 1


class Lines:
    """The lines of all sources as documents, read as often as it takes.

    Bad lines end the command, or with `skip_bad` are told once and passed over.
    """

    def __init__(self, sources: Sequence[Source], shape: Shape, skip_bad: bool) -> None:
        self._sources = sources
        self._shape = shape
        self._skip_bad = skip_bad
        self._skipped: dict[Place, str] = {}
        # The rows of documents on their way, by the document's number: to name the line that the
        # server refuses, and to move the bar by lines. As long as the stream's window, at most.
        self._underway: deque[tuple[int, Place, Row]] = deque()

    @property
    def sources(self) -> int:
        """How many sources there are."""
        return len(self._sources)

    @property
    def skipped(self) -> int:
        """How many lines were passed over."""
        return len(self._skipped)

    @property
    def underway(self) -> int:
        """How many rows are remembered because their documents are on their way."""
        return len(self._underway)

    def documents(self, written: int = 0) -> Iterator[Mapping[str, Any]]:
        """All documents from the first; so many of them are written, and need no remembering."""
        self._underway.clear()
        index = 0
        for place, row in self._rows():
            if isinstance(row, BadRow):
                if row.last:
                    session.fail(f"{row.source} line {row.line}: {row.problem}")
                self._refuse(place, row.source, row.problem)
            elif place not in self._skipped:
                if index >= written:
                    self._underway.append((index, place, row))
                index += 1
                yield row.document

    def _rows(self) -> Iterator[tuple[Place, Row | BadRow]]:
        for number, source in enumerate(self._sources):
            opened = source.path.open("rb") if source.path else nullcontext(sys.stdin.buffer)
            with opened as lines:
                for row in rows(lines, source.name, source.format, self._shape):
                    yield Place(number, row.line), row

    def landed(self, documents: int) -> int:
        """Let go of the first `documents`, which are on the disk; the last one's line, or 0."""
        line = 0
        while self._underway and self._underway[0][0] < documents:
            line = self._underway.popleft()[1].line
        return line

    def skip(self, error: InvalidRequest) -> bool:
        """Pass over the line that was refused from now on; False if none is to blame."""
        found = self._refused(error)
        if found is None:
            return False
        place, row = found
        self._refuse(place, row.source, str(error))
        return True

    def tell(self, error: InvalidRequest) -> None:
        """Say which line was refused, if it was one."""
        if (found := self._refused(error)) is not None:
            session.say(f"{found[1].source} line {found[1].line}: refused")

    def _refused(self, error: InvalidRequest) -> tuple[Place, Row] | None:
        """The line whose document the server (or the client) did not take."""
        for violation in error.violations:
            name, _, rest = violation.field.partition("[")
            if name == "documents" and rest:
                index = int(rest.partition("]")[0])
                found = ((place, row) for i, place, row in self._underway if i == index)
                return next(found, None)
        return None

    def _refuse(self, place: Place, source: str, problem: str) -> None:
        if place in self._skipped:
            return
        session.say(f"{source} line {place.line}: {problem}")
        if not self._skip_bad:
            session.fail("stopped at a bad line; mend it, or say --skip-bad")
        self._skipped[place] = problem
