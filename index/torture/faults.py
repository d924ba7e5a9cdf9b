"""Every call of a history fails once: no room, no luck, no memory; early, late, or for good.

After each fault: the error is one of ours, the old state or the new is shown, what was refused
works now, and at the end, and after opening again, the store is what a dict says.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from index.errors import DiskFull, StorageFailed, StoreError
from index.torture.disk import Call, Create, Look, MakeDirectory, Write
from index.torture.history import (
    State,
    Step,
    World,
    differences,
    faults_of,
    history,
    shown_by,
)
from index.torture.place import temporary_home
from index.torture.watching import watched


class Kind(StrEnum):
    NO_ROOM = "ENOSPC"
    NO_LUCK = "EIO"
    NO_MEMORY = "MemoryError"


class When(StrEnum):
    EARLY = "early"  # the call does nothing
    LATE = "late"  # the call does its work, and says that it failed
    LASTING = "lasting"  # like early, and so do all later ones until the fault is mended


@dataclass(frozen=True, slots=True)
class Fault:
    """The `number`-th call (from 1) that can fail so, fails."""

    kind: Kind
    when: When
    number: int

    def error(self) -> Exception:
        if self.kind is Kind.NO_MEMORY:
            return MemoryError("a fault of the torture")
        code = errno.ENOSPC if self.kind is Kind.NO_ROOM else errno.EIO
        return OSError(code, f"{os.strerror(code)} (a fault of the torture)")

    def meets(self, call: Call) -> bool:
        """Only what takes room can fail for want of it."""
        return self.kind is not Kind.NO_ROOM or isinstance(call, Create | Write | MakeDirectory)


@dataclass(slots=True)
class Saboteur:
    """The watcher that makes a call fail."""

    fault: Fault
    seen: int = 0
    struck: Call | None = None
    off: bool = False

    def before(self, call: Call) -> None:
        if self.off or not self.fault.meets(call):
            return
        self.seen += 1
        due = self.seen == self.fault.number
        if self.fault.when is When.LASTING:
            due = self.seen >= self.fault.number
        if due and self.fault.when is not When.LATE:
            self.struck = self.struck or call
            raise self.fault.error()

    def after(self, call: Call) -> None:
        late = self.fault.when is When.LATE and self.seen == self.fault.number
        if not self.off and late and self.struck is None and self.fault.meets(call):
            self.struck = call
            raise self.fault.error()


@dataclass(slots=True)
class Outcome:
    """What became of one fault. `wrong` is empty if all went as promised."""

    fault: Fault
    struck: Call | None = None
    step: str = ""  # that failed; none if nobody noticed
    error: str = ""
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        struck = self.struck
        where = "nothing" if struck is None else f"{type(struck).__name__} {_what(struck)}"
        head = f"{self.fault.kind} {self.fault.when} at call {self.fault.number} ({where})"
        return f"{head}, step {self.step or '-'}, {self.error or 'no error'}: {self.wrong}"


def _what(call: Call) -> str:
    extra = f" ({call.what})" if isinstance(call, Look) else ""
    return f"{call.path.name}{extra}"


def suffer(fault: Fault, home: Path) -> Outcome:
    """Live through the history with one fault in it, in the empty directory `home`."""
    saboteur, outcome = Saboteur(fault), Outcome(fault)
    world, state = World(home), State()
    with watched(home, saboteur):
        for step in history():
            state, outcome.wrong = _live(step, world, state, saboteur, outcome)
            if outcome.wrong:
                break
            if saboteur.struck is not None and not outcome.step:
                saboteur.off = fault.when is not When.LASTING  # nobody noticed it: go on
    outcome.struck = saboteur.struck
    world.crash()
    if not outcome.wrong:
        outcome.wrong = list(_aftermath(home, state))
    return outcome


def _live(
    step: Step, world: World, state: State, saboteur: Saboteur, outcome: Outcome
) -> tuple[State, list[str]]:
    """One step, and once more if it failed. The state afterwards, and what is wrong."""
    new = step.after(state)
    try:
        step.run(world)
    except (StoreError, OSError, MemoryError) as error:
        saboteur.off = True
        outcome.step, outcome.error = step.name, f"{type(error).__name__}: {error}"
        if not isinstance(error, DiskFull | StorageFailed | MemoryError):
            return new, [f"{type(error).__name__} is no answer to this: {error}"]
        wrong = list(_recovery(step, world, state, new))
    else:
        return new, []
    return new, wrong


def _recovery(step: Step, world: World, old: State, new: State) -> Iterator[str]:
    """The fault is over. Reads go on; the step works now, or says that it had happened."""
    try:
        shown = shown_by(world)
        happened = not list(differences(shown, new))
        if not happened:
            yield from (f"after the fault: {told}" for told in differences(shown, old))
    except (StoreError, OSError) as error:
        yield f"reads do not go on: {type(error).__name__}: {error}"
        return
    try:
        step.run(world)
    except (StoreError, OSError) as error:
        if not (happened and isinstance(error, step.again)):
            yield f"once more: {type(error).__name__}: {error}"
            return
    yield from (f"once more: {told}" for told in differences(shown_by(world), new))


def _aftermath(home: Path, state: State) -> Iterator[str]:
    """Opened again: all of it, nothing else, and nothing left lying about."""
    world = World(home)
    try:
        yield from (f"reopened: {told}" for told in differences(shown_by(world), state))
        for collection in world.store.list():
            collection.wait_for_builds()
            if collection.name in state.collections:
                yield from faults_of(collection, state.collections[collection.name])
    except (StoreError, OSError) as error:
        yield f"reopened: {type(error).__name__}: {error}"
    finally:
        world.crash()
    yield from (f"left behind: {path}" for path in litter(home))


EXPECTED = (
    *("LOCK", "FORMAT", "SEAL", "MANIFEST", "SNAPSHOT"),
    *("collection.json", "documents.sqlite3"),
)


def litter(home: Path) -> list[str]:
    """Files that nobody needs, once everything is closed."""
    found = []
    for path in sorted(home.rglob("*")):
        name = path.name
        known = name in EXPECTED or path.suffix in (".rows", ".vectors", ".faiss")
        if path.is_file() and not known:
            found.append(str(path.relative_to(home)))
    return found


def calls_of(kind: Kind) -> int:
    """How many calls of the history can fail so."""
    quiet = Fault(kind, When.EARLY, 0)
    with temporary_home() as home:
        saboteur = Saboteur(quiet)
        world = World(home)
        with watched(home, saboteur):
            for step in history():
                step.run(world)
    return saboteur.seen


def every_fault(*, every: int = 1, first: int = 1) -> Iterator[Fault]:
    """Each kind of fault at each `every`-th call, beginning with the `first`."""
    for kind in Kind:
        count = calls_of(kind)
        for when in When:
            yield from (Fault(kind, when, n) for n in range(first, count + 1, every))


def run(faults: Iterable[Fault]) -> Iterator[Outcome]:
    for fault in faults:
        with temporary_home() as home:
            yield suffer(fault, home)


def summary(outcomes: Iterable[Outcome]) -> tuple[Counter[str], list[Outcome]]:
    """Counts by kind and time, and the outcomes with something wrong."""
    counts: Counter[str] = Counter()
    wrong = []
    for outcome in outcomes:
        counts[f"{outcome.fault.kind} {outcome.fault.when}"] += 1
        counts["noticed"] += bool(outcome.step)
        if outcome.wrong:
            wrong.append(outcome)
    return counts, wrong
