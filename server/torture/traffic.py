"""The lanes at work: each asks for its steps one after another and compares what it is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import grpc
from grpc import StatusCode

from server.torture.api import PATIENCE_S, Api
from server.torture.model import Kind, Lane, Seen, State, Violation, blemishes
from server.torture.victim import Victim
from server.torture.workload import (
    Again,
    Bulk,
    Compact,
    Find,
    Plan,
    Put,
    Read,
    Restore,
    Save,
    Step,
    Write,
    content_of,
)

RESTORED = "restored"  # the collection that snapshots are tried out in
SNAPSHOTS_KEPT = 3
SCORE_MIN = 0.999  # of a document found by its own vector


@dataclass(slots=True)
class Worker:
    """One lane over all incarnations of the server."""

    plan: Plan
    steps: Iterator[Step]
    lane: Lane
    counts: Counter[str]
    snapshots: list[tuple[str, State]] = field(default_factory=list)
    found: list[Violation] = field(default_factory=list)

    async def work(self, api: Api, victim: Victim) -> None:
        """Until the server goes, or something is wrong."""
        try:
            while not victim.ending and not self.found:
                await self._step(api, next(self.steps))
        except grpc.aio.AioRpcError as error:
            if not victim.ending:
                self.found.append(Violation(Kind.STATUS, f"{error.code().name}: {error.details()}"))

    async def ask_again(self, api: Api) -> None:
        """After a restart: repeat what was not answered, whether it had happened or not."""
        for change in self.lane.happened:
            # Whether a change that changed nothing has happened cannot be seen.
            if change.request_id and isinstance(change, Put):
                answer = await api.write(self.plan, change)
                self.counts["retries"] += 1
                if not answer.replayed:
                    self._note(Kind.REPLAY, f"{change.request_id} was there, and was made again")
        self.lane.happened.clear()
        # What has no request id is not asked for again, and did not happen.
        self.lane.pending = [change for change in self.lane.pending if change.request_id]
        while self.lane.pending:
            answer = await api.write(self.plan, self.lane.pending[0])
            self.counts["retries"] += 1
            self._take(self.lane.acknowledge(answer, first=not self._may_be_empty()))

    def _may_be_empty(self) -> bool:
        return not isinstance(self.lane.pending[0], Put)

    async def _step(self, api: Api, step: Step) -> None:
        self.counts[type(step).__name__.lower()] += 1
        match step:
            case Write():
                await self._write(api, step)
            case Bulk():
                await self._bulk(api, step)
            case Again(which=which):
                await self._again(api, which)
            case Read(ids=ids):
                self._compare(ids, await api.get(self.plan, ids))
            case Find():
                await self._find(api, step)
            case Compact():
                await api.compact(self.plan.collection)
            case Save():
                name = await api.snapshot(self.plan.collection)
                self.snapshots = [*self.snapshots, (name, self.lane.state)][-SNAPSHOTS_KEPT:]
            case Restore(which=which):
                if self.snapshots:
                    await self._restore(api, *self.snapshots[which % len(self.snapshots)])

    async def _write(self, api: Api, step: Write) -> None:
        self.lane.begin(step.change)
        first = True
        try:
            answer = await api.write(self.plan, step.change, step.timeout_s or PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            if step.timeout_s is None or error.code() is not StatusCode.DEADLINE_EXCEEDED:
                raise
            self.counts["given up"] += 1
            first = False  # it may have happened, or be happening
            answer = await api.write(self.plan, step.change)
        self._acknowledged(answer.changed)
        self._take(self.lane.acknowledge(answer, first=first))

    async def _bulk(self, api: Api, step: Bulk) -> None:
        for put in step.puts:
            self.lane.begin(put)
        async for answer in api.bulk(self.plan, step.puts):
            self._acknowledged(answer.changed)
            self._take(self.lane.acknowledge(answer))
        if self.lane.pending:
            self._note(Kind.STATUS, "a bulk load ended without an answer for each message")

    async def _again(self, api: Api, which: int) -> None:
        if which < len(self.lane.acknowledged):
            change, before = self.lane.acknowledged[-1 - which]
            now = await api.write(self.plan, change)
            self._take(self.lane.repeated(change, before, now))

    async def _find(self, api: Api, step: Find) -> None:
        """A document is found by its own vector; one that is not there is not."""
        version = self.lane.state.get(step.id)
        content = content_of(step.id, version or 1)
        id, score = await api.nearest(
            self.plan.collection,
            content.text if self.plan.texts else content.vector,
            exact=step.exact,
            sequence=self.lane.sequence,
        )
        if version is None and id == step.id:
            self._note(Kind.SEARCH, f"{step.id} was removed, and is found")
        if version is not None and (id != step.id or score < SCORE_MIN):
            told = f"{step.id} is not found by its vector, but {id or 'nothing'} ({score:.4f})"
            self._note(Kind.SEARCH, told)

    async def _restore(self, api: Api, snapshot: str, state: State) -> None:
        await api.restore(snapshot, RESTORED)
        documents = await api.all(RESTORED)
        await api.delete(RESTORED)
        self.compare_snapshot(snapshot, state, documents)

    def compare_snapshot(self, name: str, state: State, documents: Iterable[Seen]) -> None:
        documents = list(documents)
        if {seen.id: seen.version for seen in documents} != state:
            self._note(Kind.SNAPSHOT, f"{name} does not hold what was there")
        for seen in documents:
            self._take(blemishes(seen, own_vector=True))

    def _compare(self, ids: Iterable[str], documents: Iterable[Seen]) -> None:
        """Nobody else writes to the lane's documents, so what it reads is known."""
        documents = list(documents)
        got = {seen.id: seen.version for seen in documents}
        for id in ids:
            if got.get(id) != self.lane.state.get(id):
                told = f"{id} reads as {got.get(id)}, not {self.lane.state.get(id)}"
                self._note(Kind.STALE, told)
        for seen in documents:
            self._take(blemishes(seen, own_vector=not self.plan.texts))

    def _acknowledged(self, documents: int) -> None:
        self.counts["acknowledged changes"] += 1
        self.counts["acknowledged documents"] += documents

    def _note(self, kind: Kind, what: str) -> None:
        self.found.append(Violation(kind, f"lane {self.plan.lane}: {what}"))

    def _take(self, violations: Iterable[Violation]) -> None:
        for violation in violations:
            self._note(violation.kind, violation.what)
