"""What is written, read and looked for: the same for the same seed, whatever the server does."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 16
BUCKETS = 7
WORDS = ("apple", "bank", "spring", "crane", "bat", "seal", "light", "match", "ring", "bolt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Documents `ids`, all of `version`, written all or none."""

    ids: tuple[str, ...]
    version: int
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    ids: tuple[str, ...]
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Purge:
    """Remove the lane's documents of one bucket."""

    bucket: int
    request_id: str = ""


Change: TypeAlias = Put | Remove | Purge


@dataclass(frozen=True, slots=True)
class Write:
    """One change; with `timeout_s` it is asked for so briefly that it must be asked for again."""

    change: Change
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Bulk:
    """Changes through one WriteStream."""

    puts: tuple[Put, ...]


@dataclass(frozen=True, slots=True)
class Again:
    """Ask once more for one of the acknowledged changes; `which` counts back from the newest."""

    which: int


@dataclass(frozen=True, slots=True)
class Read:
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Find:
    """Search for a document by its own vector."""

    id: str
    exact: bool


@dataclass(frozen=True, slots=True)
class Compact:
    pass


@dataclass(frozen=True, slots=True)
class Save:
    """Take a snapshot."""


@dataclass(frozen=True, slots=True)
class Restore:
    """Make a collection of one of the snapshots, compare it, remove it."""

    which: int


Step: TypeAlias = Write | Bulk | Again | Read | Find | Compact | Save | Restore


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one lane does. Lanes never touch each other's documents.

    texts: the server embeds its documents; else they bring vectors
    """

    lane: str
    collection: str
    keys: int  # different ids
    batch_max: int  # documents in one write
    texts: bool = False
    bulk: bool = False
    keeper: bool = False  # takes snapshots too


PLANS = (
    Plan(lane="a", collection="own", keys=200, batch_max=12),
    Plan(lane="b", collection="own", keys=60, batch_max=40),
    Plan(lane="c", collection="own", keys=900, batch_max=60, bulk=True),
    Plan(lane="k", collection="kept", keys=80, batch_max=20, keeper=True),
    Plan(lane="t", collection="texts", keys=40, batch_max=3, texts=True),
)


@dataclass(frozen=True, slots=True)
class Content:
    """What a document holds in one version."""

    text: str
    bucket: int
    vector: NDArray[np.float32]  # (DIMENSIONS,), length 1


def bucket_of(id: str) -> int:
    return zlib.crc32(id.encode()) % BUCKETS


def content_of(id: str, version: int) -> Content:
    """All of a document follows from its name and version, so nothing need be remembered."""
    rng = np.random.default_rng([zlib.crc32(id.encode()), version])
    vector = rng.normal(size=DIMENSIONS).astype(np.float32)
    words = " ".join(WORDS[i] for i in rng.integers(len(WORDS), size=6))
    text = f"{id} {version}: {words}"
    return Content(text, bucket_of(id), vector / np.linalg.norm(vector))


def steps(seed: int, plan: Plan) -> Iterator[Step]:
    """Without end."""
    rng = random.Random(f"{seed} {plan.lane}")
    version = 0
    while True:
        version += 1
        request_id = f"{plan.lane}-{seed}-{version}" if rng.random() < 0.7 else ""
        if plan.keeper and rng.random() < 0.15:
            yield _keeping(rng)
        elif plan.bulk and rng.random() < 0.7:
            puts = [_put(rng, plan, version + i) for i in range(rng.randint(1, 8))]
            yield Bulk(tuple(replace(p, request_id=f"c-{seed}-{p.version}") for p in puts))
            version += len(puts)
        else:
            yield _plain(rng, plan, version, request_id)


def _keeping(rng: random.Random) -> Step:
    kind = rng.random()
    if kind < 0.4:
        return Save()
    return Restore(rng.randrange(3)) if kind < 0.7 else Compact()


def _plain(rng: random.Random, plan: Plan, version: int, request_id: str) -> Step:
    kind = rng.random()
    if kind < 0.70:
        change = _change(rng, plan, version, request_id)
        brief = bool(request_id) and not isinstance(change, Purge) and rng.random() < 0.1
        # Only what can be repeated safely may be given up.
        return Write(change, rng.uniform(0.001, 0.03) if brief else None)
    if kind < 0.80:
        return Again(rng.randrange(20))
    if kind < 0.88:
        return Read(_ids(rng, plan))
    if kind < 0.98:
        return Find(_ids(rng, plan)[0], exact=rng.random() < 0.5)
    return Compact()


def _change(rng: random.Random, plan: Plan, version: int, request_id: str) -> Change:
    kind = rng.random()
    if kind < 0.79:
        return replace(_put(rng, plan, version), request_id=request_id)
    if kind < 0.96:
        return Remove(ids=_ids(rng, plan), request_id=request_id)
    return Purge(bucket=rng.randrange(BUCKETS), request_id=request_id)


def _put(rng: random.Random, plan: Plan, version: int) -> Put:
    return Put(ids=_ids(rng, plan), version=version)


def _ids(rng: random.Random, plan: Plan) -> tuple[str, ...]:
    numbers = rng.sample(range(plan.keys), rng.randint(1, plan.batch_max))
    return tuple(f"{plan.lane}-{number:04}" for number in numbers)
