"""The power goes after every change that a history makes to the disk.

What an honest disk may then hold is laid out in a new directory and opened: each acknowledged
step must have happened, the one that was under way has happened or not, and no manifest names a
segment that is not whole: then an fsync would be missing, though nothing would be lost by it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from index.errors import StoreError
from index.torture.disk import Call, Change, Look
from index.torture.history import (
    State,
    World,
    differences,
    document,
    faults_of,
    history,
    shown_by,
)
from index.torture.place import temporary_home
from index.torture.platter import Fate, Platter
from index.torture.watching import watched


@dataclass(slots=True)
class Recorder:
    """The watcher that writes down what changes."""

    changes: list[Change] = field(default_factory=list)

    def before(self, call: Call) -> None:
        pass

    def after(self, call: Call) -> None:
        if not isinstance(call, Look):
            self.changes.append(call)


@dataclass(frozen=True, slots=True)
class Recording:
    """A history as the disk saw it.

    states: before the first step, and after each
    ends: how many changes had been made when each step was acknowledged
    """

    home: Path
    changes: list[Change]
    states: list[State]
    ends: list[int]

    def allowed(self, changes: int) -> list[State]:
        """What may be shown after a cut when `changes` had been made."""
        acknowledged = sum(end <= changes for end in self.ends)
        return self.states[acknowledged : acknowledged + 2]


def record() -> Recording:
    with temporary_home() as home:
        recorder, world = Recorder(), World(home)
        states, ends = [State()], []
        with watched(home, recorder):
            for step in history():
                step.run(world)
                states.append(step.after(states[-1]))
                ends.append(len(recorder.changes))
    return Recording(home, recorder.changes, states, ends)


@dataclass(frozen=True, slots=True)
class Cut:
    """The power goes when `changes` have been made. `seed` decides what is torn."""

    changes: int
    fate: Fate
    seed: int = 0


@dataclass(slots=True)
class Result:
    cut: Cut
    last: str  # the change before
    wrong: list[str]

    def __str__(self) -> str:
        cut = self.cut
        head = f"{cut.fate} after change {cut.changes} ({self.last}), seed {cut.seed}"
        return f"{head}: {self.wrong}"


def every_cut(recording: Recording, *, seeds: int, every: int = 1, first: int = 0) -> list[Cut]:
    """By rising number of changes."""
    cuts = []
    for changes in range(first, len(recording.changes) + 1, every):
        cuts += [Cut(changes, fate) for fate in (Fate.LOST, Fate.EARLY_NAMES, Fate.KEPT)]
        cuts += [Cut(changes, Fate.TORN, seed) for seed in range(seeds)]
    return cuts


def run(recording: Recording, cuts: Iterable[Cut]) -> Iterator[Result]:
    """cuts: by rising number of changes"""
    platter, made = Platter(recording.home), 0
    for cut in cuts:
        for change in recording.changes[made : cut.changes]:
            platter.apply(change)
        made = cut.changes
        last = recording.changes[made - 1] if made else None
        with temporary_home() as home:
            rng = random.Random(f"{cut.changes} {cut.fate} {cut.seed}")
            platter.leave(home, cut.fate, rng)
            wrong = list(wrong_with(home, recording.allowed(cut.changes)))
        told = "nothing" if last is None else f"{type(last).__name__} {last.path.name}"
        yield Result(cut, told, wrong)


class _Complaints(logging.Handler):
    """What the index says of segments: a manifest must not name what was not durable."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())

    def __enter__(self) -> _Complaints:
        logging.getLogger("index").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("index").removeHandler(self)


def wrong_with(home: Path, allowed: list[State]) -> Iterator[str]:
    """Whatever is not one of the `allowed` states, whole, and ready to be written to."""
    with _Complaints() as complaints:
        yield from _wrong_with(home, allowed)
    yield from complaints.said


def _wrong_with(home: Path, allowed: list[State]) -> Iterator[str]:
    world = World(home)
    try:
        shown = shown_by(world)
        found = [list(differences(shown, state)) for state in allowed]
        if all(found):
            yield from (f"{told}" for told in found[0])
            return
        state = allowed[found.index([])]
        for collection in world.store.list():
            yield from faults_of(collection, state.collections[collection.name])
            collection.upsert([document(99, 9)])
            if collection.get(["d99"])[0] is None:
                yield f"{collection.name}: what is written now is not there"
    except (StoreError, OSError, AssertionError) as error:
        yield f"{type(error).__name__}: {error}"
    finally:
        world.crash()
