"""What must hold: each lane's documents as its acknowledged changes left them.

A lane asks for one change after another. What was asked for and not answered when the server
died may or may not have happened, but in order and each change whole: with n such changes there
are n + 1 states that a restarted server may show, and no others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.torture.workload import Change, Purge, Put, Remove, bucket_of, content_of

State: TypeAlias = Mapping[str, int]  # the version of each document that there is

VECTOR_ERROR_MAX = 1e-5
ACKNOWLEDGED_KEPT = 200  # of each lane, to be asked for again


class Kind(StrEnum):
    LOST = "lost"  # acknowledged, and not there
    STALE = "stale"  # an older version than was acknowledged
    RESURRECTED = "resurrected"  # removed, acknowledged, and back
    PHANTOM = "phantom"  # never asked for
    TORN = "torn"  # a part of a change without the rest
    CONTENT = "content"  # another text, metadata or vector than was written
    DUPLICATE = "duplicate"
    COUNT = "count"
    SEARCH = "search"
    SEQUENCE = "sequence"
    REPLAY = "replay"  # a retry was not recognised, or answered otherwise
    SNAPSHOT = "snapshot"
    COLLECTION = "collection"  # one is missing, damaged or too many
    STATUS = "status"  # an answer that no caller should get
    CRASH = "crash"  # it ended without having been asked to, or did not come back


@dataclass(frozen=True, slots=True)
class Violation:
    kind: Kind
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a change was answered."""

    sequence: int  # of the change itself; of a bulk load's message, or a later one
    changed: int  # documents
    replayed: bool
    bulk: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A document as the server shows it."""

    id: str
    version: int
    text: str
    bucket: int
    sequence: int
    vector: NDArray[np.float32]


def after(state: State, change: Change) -> State:
    match change:
        case Put(ids=ids, version=version):
            return {**state, **dict.fromkeys(ids, version)}
        case Remove(ids=ids):
            return {id: version for id, version in state.items() if id not in set(ids)}
        case Purge(bucket=bucket):
            return {id: version for id, version in state.items() if bucket_of(id) != bucket}


@dataclass(slots=True)
class Lane:
    """One lane's past and what may have become of it."""

    name: str
    state: State = field(default_factory=dict)  # after all that was acknowledged
    pending: list[Change] = field(default_factory=list)
    happened: list[Change] = field(default_factory=list)  # unanswered, but there after all
    acknowledged: list[tuple[Change, Answer]] = field(default_factory=list)  # with a request id
    sequences: dict[int, int] = field(default_factory=dict)  # by version, of acknowledged puts
    sequence: int = 0  # the highest acknowledged, or seen after a restart
    sent: set[tuple[str, int]] = field(default_factory=set)

    def begin(self, change: Change) -> None:
        self.pending.append(change)
        if isinstance(change, Put):
            self.sent.update((id, change.version) for id in change.ids)

    def acknowledge(self, answer: Answer, *, first: bool = True) -> Iterator[Violation]:
        """The oldest pending change was answered.

        first: whether the change cannot have been made by an earlier try
        """
        change = self.pending.pop(0)
        changed = _changed(self.state, change)
        if first and answer.replayed:
            yield Violation(Kind.REPLAY, f"{_named(change)} was new and is called a retry")
        if not answer.replayed and answer.changed != changed:
            told = f"{answer.changed} documents changed instead of {changed}"
            yield Violation(Kind.COUNT, f"{_named(change)}: {told}")
        if changed and answer.sequence <= self.sequence:
            told = f"{answer.sequence} after {self.sequence}"
            yield Violation(Kind.SEQUENCE, f"{_named(change)}: {told}")
        self.state = after(self.state, change)
        self.sequence = max(self.sequence, answer.sequence)
        if isinstance(change, Put) and not answer.bulk:
            self.sequences[change.version] = answer.sequence
        if change.request_id:
            self.acknowledged.append((change, answer))
            del self.acknowledged[:-ACKNOWLEDGED_KEPT]

    def repeated(self, change: Change, before: Answer, now: Answer) -> Iterator[Violation]:
        """An acknowledged change was asked for again: nothing may have happened."""
        same = now.changed == before.changed and (before.bulk or now.sequence == before.sequence)
        if not (now.replayed and same):
            told = f"first {before}, then {now}"
            yield Violation(Kind.REPLAY, f"{_named(change)}: {told}")

    def outcomes(self) -> list[State]:
        """The states that may be seen now: any number of pending changes happened, in order."""
        states = [self.state]
        for change in self.pending:
            states.append(after(states[-1], change))
        return states

    def settle(self, observed: State, sequence: int) -> list[Violation]:
        """Compare with what a restarted server shows. What happened moves out of `pending`."""
        self.sequence = max(self.sequence, sequence)
        outcomes = self.outcomes()
        # From the end: of changes that changed nothing it cannot be told whether they happened.
        for happened in range(len(outcomes) - 1, -1, -1):
            if outcomes[happened] == observed:
                self.state = outcomes[happened]
                self.happened = self.pending[:happened]
                del self.pending[:happened]
                return []
        return list(self._differences(observed, outcomes))

    def _differences(self, observed: State, outcomes: Sequence[State]) -> Iterator[Violation]:
        found = False
        for id in sorted(observed.keys() | {id for state in outcomes for id in state}):
            allowed = [state.get(id) for state in outcomes]
            version = observed.get(id)
            if version in allowed:
                continue
            found = True
            told = f"{id} is {version}, may be {sorted(set(map(str, allowed)))}"
            yield Violation(self._kind(id, version, allowed), told)
        if not found:
            names = ", ".join(_named(change) for change in self.pending)
            yield Violation(Kind.TORN, f"lane {self.name}: not a prefix of {names}")

    def _kind(self, id: str, version: int | None, allowed: Sequence[int | None]) -> Kind:
        if version is None:
            return Kind.LOST
        if (id, version) not in self.sent:
            return Kind.PHANTOM
        return Kind.RESURRECTED if set(allowed) == {None} else Kind.STALE


def blemishes(seen: Seen, *, own_vector: bool) -> Iterator[Violation]:
    """What is wrong within one document."""
    expected = content_of(seen.id, seen.version)
    if seen.text != expected.text or seen.bucket != expected.bucket:
        told = f"{seen.text!r} in bucket {seen.bucket}"
        yield Violation(Kind.CONTENT, f"{seen.id} of version {seen.version} holds {told}")
    length = float(np.linalg.norm(seen.vector))
    if not abs(length - 1) < 1e-3:
        yield Violation(Kind.CONTENT, f"{seen.id}: its vector has length {length:g}")
    elif own_vector and not np.allclose(seen.vector, expected.vector, atol=VECTOR_ERROR_MAX):
        yield Violation(Kind.CONTENT, f"{seen.id}: another vector than was written")


def disorder(ids: Sequence[str]) -> Iterator[Violation]:
    """A listing names each document once, by rising id."""
    for before, now in itertools.pairwise(ids):
        if before == now:
            yield Violation(Kind.DUPLICATE, f"{now} is listed twice")
        elif before > now:
            yield Violation(Kind.DUPLICATE, f"{now} is listed after {before}")


def sequence_faults(lanes: Sequence[Lane], documents: Sequence[Seen], now: int) -> list[Violation]:
    """What a restarted collection says of its sequence, against what was acknowledged.

    Each change takes at most one number, so unanswered ones cannot have moved it far.
    """
    least = max((lane.sequence for lane in lanes), default=0)
    most = least + sum(len(lane.pending) for lane in lanes)
    found = []
    if not least <= now <= most:
        found.append(Violation(Kind.SEQUENCE, f"{now} is not from {least} to {most}"))
    by_lane = {lane.name: lane for lane in lanes}
    for seen in documents:
        lane = by_lane.get(lane_of(seen.id))
        expected = lane.sequences.get(seen.version, seen.sequence) if lane else seen.sequence
        if seen.sequence != expected or seen.sequence > now:
            told = f"{seen.sequence}, acknowledged {expected}, the collection's {now}"
            found.append(Violation(Kind.SEQUENCE, f"{seen.id}: {told}"))
    return found


def lane_of(id: str) -> str:
    return id.partition("-")[0]


def _changed(state: State, change: Change) -> int:
    if isinstance(change, Put):
        return len(change.ids)
    return len(state) - len(after(state, change))


def _named(change: Change) -> str:
    name = type(change).__name__.lower()
    return f"{name} {change.request_id or 'without request id'}"
