"""Where an interrupted load goes on."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from polyseme.cli import session
from polyseme.cli.reading import Shape
from polyseme.cli.sources import Source
from polyseme.collection import Collection

_MARK = re.compile(r"([0-9a-f-]{36}\.\d+\.\d+) (\d+)\n")


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a load has come: all of it is on the server's disk."""

    resume: str
    sequence: int  # of the last write

    @property
    def documents(self) -> int:
        """How many documents lie behind it."""
        return documents_of(self.resume)

    def within(self, collection: Collection) -> bool:
        """Whether the collection can still hold what was written.

        A snapshot that was restored under the old name has the old create_time too, but not the
        writes that came after it.
        """
        return self.sequence <= collection.statistics.sequence


def documents_of(resume: str) -> int:
    """How many documents lie behind a token of `Client.write`; 0 for none."""
    return int(resume.split(".")[1]) if resume else 0


class State:
    """The mark of a load, kept between runs in a file; without one nothing is remembered.

    A directory that cannot be written to costs the memory and not the load: it is told once.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @classmethod
    def of(cls, address: str, collection: Collection, shape: Shape, sources: list[Source]) -> State:
        """The state of exactly this load: a changed file is another one, and so is a collection
        that was deleted and made again."""
        try:
            directory = session.state_directory()
        except RuntimeError as error:  # Path.home() knows none
            _warn(str(error))
            return cls(None)
        created = collection.create_time.isoformat()
        files = [_identity(source) for source in sources]
        identity = json.dumps([address, collection.name, created, session.plain(shape), files])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:32]
        return cls(directory / f"upsert-{digest}")

    def read(self) -> Mark | None:
        """The mark of the interrupted run, if there was one."""
        if self._path is None:
            return None
        try:
            found = _MARK.fullmatch(self._path.read_text("ascii", errors="replace"))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._give_up(error)
            return None
        return Mark(found[1], int(found[2])) if found else None

    def write(self, mark: Mark) -> None:
        """Remember the mark, whole or not at all."""
        if self._path is None:
            return
        temporary = self._path.with_suffix(".partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(f"{mark.resume} {mark.sequence}\n")
            os.replace(temporary, self._path)
        except OSError as error:
            self._give_up(error)

    def forget(self) -> None:
        """The load is done."""
        if self._path is None:
            return
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        _warn(f"{error.filename}: {error.strerror}")
        self._path = None


def _identity(source: Source) -> list[object]:
    assert source.path is not None, "stdin cannot be read again"
    stat = source.path.stat()
    return [str(source.path.resolve()), stat.st_size, stat.st_mtime_ns, source.format]


def _warn(problem: str) -> None:
    session.say(f"{problem}; interrupted, this load would begin anew")
