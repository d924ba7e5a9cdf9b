"""After a restart: everything is read, and compared with what must be there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from server.torture.api import Api, filter_of
from server.torture.model import (
    Kind,
    Seen,
    Violation,
    blemishes,
    disorder,
    lane_of,
    sequence_faults,
)
from server.torture.traffic import RESTORED, SCORE_MIN, Worker
from server.torture.workload import BUCKETS, content_of

FOUND_IDS = 4  # of each collection, looked for by their own content


async def survey(api: Api, workers: Sequence[Worker], *, thorough: bool) -> list[Violation]:
    """Everything that is wrong; nobody may be writing.

    thorough: the server checks its own files as well
    """
    found: list[Violation] = []
    states = await api.states()
    names = sorted({worker.plan.collection for worker in workers})
    found += list(_states(states, names))
    if RESTORED in states:
        found += await _half_restored(api, workers)
    for name in names:
        if not states.get(name, "missing"):
            found += await _collection(api, name, [w for w in workers if w.plan.collection == name])
            if thorough:
                told = await api.check(name)
                found += [Violation(Kind.CONTENT, f"{name}: {problem}") for problem in told]
    return found


def _states(states: dict[str, str], names: Sequence[str]) -> Iterator[Violation]:
    for name, problem in states.items():
        if problem:
            yield Violation(Kind.COLLECTION, f"{name}: {problem}")
        if name not in (*names, RESTORED):
            yield Violation(Kind.COLLECTION, f"{name} was never made")
    for name in names:
        if name not in states:
            yield Violation(Kind.COLLECTION, f"{name} is missing")


async def _half_restored(api: Api, workers: Sequence[Worker]) -> list[Violation]:
    """The server died while a snapshot was tried out: the collection is whole, or not there."""
    documents = await api.all(RESTORED)
    await api.delete(RESTORED)
    state = {seen.id: seen.version for seen in documents}
    if any(state == saved for worker in workers for _, saved in worker.snapshots):
        return []
    return [Violation(Kind.SNAPSHOT, f"{RESTORED} holds no snapshot's documents")]


async def _collection(api: Api, name: str, workers: Sequence[Worker]) -> list[Violation]:
    documents = await api.all(name)
    found = list(disorder([seen.id for seen in documents]))
    for seen in documents:
        found += blemishes(seen, own_vector=not workers[0].plan.texts)
    found += await _counts(api, name, documents, workers)
    _, sequence = await api.count(name)
    found += sequence_faults([worker.lane for worker in workers], documents, sequence)
    found += settled(documents, workers, sequence)
    found += await _searches(api, name, workers, sequence)
    return found


def settled(documents: Sequence[Seen], workers: Sequence[Worker], sequence: int) -> list[Violation]:
    """Each lane's documents against its past; a document of no lane is a phantom."""
    by_lane: dict[str, dict[str, int]] = {worker.plan.lane: {} for worker in workers}
    found = []
    for seen in documents:
        if lane_of(seen.id) in by_lane:
            by_lane[lane_of(seen.id)][seen.id] = seen.version
        else:
            found.append(Violation(Kind.PHANTOM, f"{seen.id} belongs to nobody"))
    for worker in workers:
        found += worker.lane.settle(by_lane[worker.plan.lane], sequence)
    return found


async def _counts(
    api: Api, name: str, documents: Sequence[Seen], workers: Sequence[Worker]
) -> list[Violation]:
    """The index's count, the filters' counts and the scan agree."""
    counted, _ = await api.count(name)
    found = []
    if counted != len(documents):
        found.append(Violation(Kind.COUNT, f"{name}: {counted}, listed {len(documents)}"))
    for lane in (worker.plan.lane for worker in workers):
        for bucket in range(BUCKETS):
            filtered, _ = await api.count(name, filter_of(lane, bucket))
            listed = sum(lane_of(d.id) == lane and d.bucket == bucket for d in documents)
            if filtered != listed:
                told = f"{name}: filter finds {filtered}, the scan {listed}"
                found.append(Violation(Kind.COUNT, told))
    return found


async def _searches(
    api: Api, name: str, workers: Sequence[Worker], sequence: int
) -> list[Violation]:
    found = []
    for worker in workers:
        for i, (id, version) in enumerate(sorted(worker.lane.state.items())[:FOUND_IDS]):
            content = content_of(id, version)
            wanted = content.text if worker.plan.texts else content.vector
            best, score = await api.nearest(name, wanted, exact=i % 2 == 0, sequence=sequence)
            if best != id or score < SCORE_MIN:
                told = f"{id} is not found by its own content, but {best!r} ({score:.4f})"
                found.append(Violation(Kind.SEARCH, told))
    return found
