"""Every file of a data directory with flipped bits and cut ends, opened, asked, checked, repaired.

An answer must be right or an error that says what is damaged; the collection beside it must not
suffer; repair must leave a sound collection of documents that were there, and name the others.
Damage can make native code crash or hang, so it happens in processes that may.
"""

from __future__ import annotations

import logging
import multiprocessing
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from index.spec import CollectionSpec
from index.store import Store
from index.torture.history import SETTINGS, WIDTH, document
from index.torture.judging import Truth, Verdict, judge
from index.torture.place import temporary_home

HANG_S = 300.0  # for one variant, which takes a tenth of a second of CPU time
DOCUMENTS = 60
DATABASE_SHARE = 0.5  # of the variants: SQLite's files, whose pages have no checksums


@dataclass(frozen=True, slots=True)
class Variant:
    """What is done to one file of a base directory. `place` is a share of the file's length."""

    seed: int
    base: str  # "closed", or "killed" with its write-ahead log
    file: str
    kind: str  # flip, flips, zeros, cut, empty


BASES = ("closed", "killed")
KINDS = ("flip", "flip", "flips", "zeros", "cut", "empty")


def make_bases(home: Path) -> None:
    """home/closed and home/killed: the same data, the second as a killed server leaves it."""
    data = home / "closed" / "data"
    store = Store.open(data, SETTINGS)
    fruit = store.create(CollectionSpec(name="fruit", dimensions=WIDTH, description="pears"))
    other = store.create(CollectionSpec(name="other", dimensions=WIDTH))
    other.upsert([document(number, 1) for number in range(5)])
    fruit.upsert([document(number, 1) for number in range(DOCUMENTS)], request_id="r1")
    fruit.wait_for_builds()
    fruit.compact()
    fruit.snapshot(home / "closed" / "snapshots" / "first")
    for number in range(4):
        fruit.upsert([document(number, 2)], request_id=f"late{number}")
    fruit.delete(["d05"])
    shutil.copytree(home / "closed", home / "killed")
    store.close()


def files_of(base: Path) -> list[str]:
    """What can be damaged: all but the log's shared memory, which is void, and empty files."""
    return [
        path.relative_to(base).as_posix()
        for path in sorted(base.rglob("*"))
        if path.is_file() and path.stat().st_size and not path.name.endswith("-shm")
    ]


def variants(home: Path, seed: int, count: int, bases: Sequence[str] = BASES) -> Iterator[Variant]:
    """The same for the same seed."""
    rng = random.Random(seed)
    files = {base: files_of(home / base) for base in bases}
    for number in range(count):
        base = rng.choice(bases)
        inside = [name for name in files[base] if "fruit/documents.sqlite3" in name]
        chosen = inside if rng.random() < DATABASE_SHARE else files[base]
        yield Variant(seed * 1_000_000 + number, base, rng.choice(chosen), rng.choice(KINDS))


def inflict(variant: Variant, path: Path) -> str:
    """Damage the file; tells where."""
    rng = random.Random(variant.seed)
    data = bytearray(path.read_bytes())
    where = rng.randrange(len(data))
    match variant.kind:
        case "flip":
            data[where] ^= 1 << rng.randrange(8)
        case "flips":
            for _ in range(rng.randint(2, 30)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case "zeros":
            end = min(len(data), where + rng.choice((4, 512, 4096)))
            data[where:end] = bytes(end - where)
        case "cut":
            del data[where:]
        case "empty":
            data.clear()
    path.write_bytes(data)
    return f"byte {where}"


@dataclass(slots=True)
class Batch:
    """A process that judges variants until it dies."""

    home: Path
    process: BaseProcess | None = None
    pipe: Connection | None = None

    def judge(self, variant: Variant) -> Verdict:
        if self.process is None:
            self._start()
        assert self.process is not None
        assert self.pipe is not None
        try:
            self.pipe.send(variant)
            if self.pipe.poll(HANG_S):
                verdict: Verdict = self.pipe.recv()
                return verdict
            told = f"it hangs for {HANG_S:g} s"
        except (EOFError, OSError):
            self.process.join()
            told = f"the process died with {self.process.exitcode}"
        self.end()
        return Verdict(str(variant), [told])

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        process = context.Process(target=_judge_all, args=(self.home, there), daemon=True)
        process.start()
        self.process = process
        there.close()

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
        self.process = None


def _judge_all(home: Path, pipe: Connection) -> None:
    """What the process does."""
    logging.disable(logging.CRITICAL)
    truths = truths_of(home)
    while True:
        try:
            variant: Variant = pipe.recv()
        except EOFError:
            return
        pipe.send(judged(home, variant, truths[variant.base]))


def truths_of(home: Path) -> dict[str, Truth]:
    """What each base answers, undamaged."""
    truths = {}
    for base in BASES:
        with temporary_home() as whole:
            shutil.copytree(home / base, whole, dirs_exist_ok=True)
            truths[base] = Truth.of(whole)
    return truths


def judged(home: Path, variant: Variant, truth: Truth) -> Verdict:
    with temporary_home() as damaged:
        shutil.copytree(home / variant.base, damaged, dirs_exist_ok=True)
        where = inflict(variant, damaged / variant.file)
        verdict = Verdict(f"{variant} at {where}")
        try:
            judge(damaged, truth, verdict)
        except Exception as error:  # noqa: BLE001  whatever it is, it is the verdict
            verdict.wrong.append(f"{type(error).__name__}: {error}")
        return verdict


def run(seed: int, count: int, bases: Sequence[str] = BASES) -> Iterator[Verdict]:
    with temporary_home() as home:
        make_bases(home)
        batch = Batch(home)
        try:
            for variant in variants(home, seed, count, bases):
                yield batch.judge(variant)
        finally:
            batch.end()
