"""Readers: pooled connections, each in a transaction that sees what its generation sees."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from index.bm25 import Lengths
from index.database import connect, translated
from index.errors import Closed, SequenceNotReached, StorageFailed
from index.generation import Generation
from index.records import Reader

GENERATIONS_KEPT = 4  # for readers whose transaction began just before a publication
PUBLICATION_S_MAX = 30.0  # between a commit and its publication; microseconds unless reloading


@dataclass(frozen=True, slots=True)
class View:
    """One state of the collection: its documents and its vectors."""

    reader: Reader
    generation: Generation
    lengths: Lengths


class Generations:
    """The current generation and a few before it."""

    def __init__(self, first: Generation) -> None:
        self._kept = deque([first], maxlen=GENERATIONS_KEPT)
        self._changed = threading.Condition()

    @property
    def current(self) -> Generation:
        return self._kept[-1]

    def publish(self, generation: Generation) -> None:
        with self._changed:
            if generation is self.current:
                return
            if self._kept[-1].sequence == generation.sequence:
                # A swap: the older ones would keep segments in memory that are replaced. Readers
                # who still wanted one begin again.
                # In one step: `current` takes no lock.
                self._kept = deque([generation], maxlen=GENERATIONS_KEPT)
            else:
                self._kept.append(generation)
            self._changed.notify_all()

    def wait(self, sequence: int, timeout_s: float) -> None:
        """Raises SequenceNotReached unless the current one reaches `sequence` in time."""
        if self.current.sequence >= sequence:
            return
        with self._changed:
            if not self._changed.wait_for(lambda: self.current.sequence >= sequence, timeout_s):
                raise SequenceNotReached(sequence, self.current.sequence)

    def of(self, sequence: int) -> Generation | None:
        """The one of exactly this write; None if it is no longer kept."""
        with self._changed:
            return next((g for g in reversed(self._kept) if g.sequence == sequence), None)


class Readers:
    """A pool of read-only connections to one database. Thread-safe."""

    def __init__(self, path: Path, dimensions: int, readers_max: int) -> None:
        self._path = path
        self._dimensions = dimensions
        self._known_ids: dict[int, str] = {}
        self._lengths = Lengths()
        self._free: list[Reader] = []
        self._slots = threading.BoundedSemaphore(readers_max)
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def view(self, generations: Generations) -> Iterator[View]:
        """A view of the newest state; it ends with the context."""
        with self._slots, translated(self._path):
            reader = self._take()
            try:
                yield View(reader, self._begin(reader, generations), self._lengths)
            finally:
                self._give_back(reader)

    def close(self) -> None:
        """Free connections now, the others when their readers are done."""
        with self._lock:
            self._closed = True
            while self._free:
                self._free.pop().connection.close()

    def _begin(self, reader: Reader, generations: Generations) -> Generation:
        """A transaction and the generation of the same sequence.

        A write is committed an instant before it is published. So: wait for the publication, and
        when several writes went by meanwhile, begin again.
        """
        deadline = time.monotonic() + PUBLICATION_S_MAX
        while time.monotonic() < deadline:
            reader.connection.execute("BEGIN")
            sequence = reader.sequence()
            generations.wait(sequence, PUBLICATION_S_MAX)
            generation = generations.of(sequence)
            if generation is not None:
                return generation
            reader.connection.execute("ROLLBACK")
        raise StorageFailed(self._path, "no generation matches what is on the disk")

    def _take(self) -> Reader:
        with self._lock:
            if self._closed:
                raise Closed(self._path.parent.name)
            if self._free:
                return self._free.pop()
            # Under the lock, so that who closes sees by its write-ahead log that somebody reads.
            connection = connect(self._path, writer=False)
            return Reader(connection, self._path, self._dimensions, self._known_ids)

    def _give_back(self, reader: Reader) -> None:
        try:
            if reader.connection.in_transaction:
                reader.connection.execute("ROLLBACK")
        except sqlite3.Error:
            reader.connection.close()
            raise
        with self._lock:
            if not self._closed:
                self._free.append(reader)
                return
        reader.connection.close()
