"""What a search sees: all vectors as they were after one write, never changed afterwards.

A generation is parts: segments (immutable files with an approximate index) and the buffer (the
newest vectors, in memory). A write makes the next generation and shares what it can with the
last: vectors are only ever appended behind what older generations look at, and `alive` is copied.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from index.bm25 import Lexicon
from index.vectors import VectorIndex

CAPACITY_MIN = 1024  # vectors; it doubles when it is full


@dataclass(frozen=True)
class Part:
    """Some vectors by rising row number.

    rows: (n,) int64; vectors: (n, width) float32; alive: (n,), False where the row was deleted.
    """

    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    alive: NDArray[np.bool_]
    length_max: float  # no vector is longer
    index: VectorIndex | None = None  # None: every vector is compared
    name: str = ""  # the segment's; empty for the buffer

    @cached_property
    def live(self) -> int:
        return int(np.count_nonzero(self.alive))

    @property
    def dead(self) -> int:
        return len(self.rows) - self.live

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where those of the rising `rows` stand that are here and alive."""
        found = np.searchsorted(self.rows, rows)
        inside = found < len(self.rows)
        candidates = found[inside]
        here = (self.rows[candidates] == rows[inside]) & self.alive[candidates]
        positions: NDArray[np.int64] = candidates[here]
        return positions

    def without(self, rows: NDArray[np.int64]) -> Part:
        """Itself if it has none of `rows`, else a copy in which they are dead."""
        positions = self.positions(rows)
        if not len(positions):
            return self
        alive = self.alive.copy()
        alive[positions] = False
        return replace(self, alive=alive)


def length_max(vectors: NDArray[np.float32]) -> float:
    """The length of the longest of (n, width) vectors, rounded up; 0 when there is none."""
    squares = np.einsum("ij,ij->i", vectors, vectors)
    return 1.001 * float(np.sqrt(squares.max(initial=0.0)))


@dataclass(frozen=True)
class Storage:
    """Memory that buffers share: what is behind a buffer's own count belongs to the writer."""

    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]

    @classmethod
    def with_room(cls, count: int, width: int) -> Storage:
        return cls(np.empty(count, np.int64), np.empty((count, width), np.float32))


@dataclass(frozen=True)
class Generation:
    """All vectors after the write `sequence`.

    lexicon: what is known of the words that were looked for so far
    """

    sequence: int
    segments: tuple[Part, ...]
    buffer: Part
    storage: Storage
    lexicon: Lexicon = field(default_factory=Lexicon, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        sequence: int,
        segments: Iterable[Part],
        rows: NDArray[np.int64],
        vectors: NDArray[np.float32],
    ) -> Generation:
        """A generation whose buffer holds `rows` (rising) and `vectors`."""
        return cls.of_blocks(sequence, segments, rows, [vectors], vectors.shape[1])

    @classmethod
    def of_blocks(
        cls,
        sequence: int,
        segments: Iterable[Part],
        rows: NDArray[np.int64],
        blocks: Iterable[NDArray[np.float32]],
        width: int,
    ) -> Generation:
        """The same, where the vectors come in blocks, so that they are in memory only once."""
        storage = Storage.with_room(max(CAPACITY_MIN, 2 * len(rows)), width)
        storage.rows[: len(rows)] = rows
        filled = 0
        for block in blocks:
            storage.vectors[filled : filled + len(block)] = block
            filled += len(block)
        assert filled == len(rows)
        vectors, alive = storage.vectors[:filled], np.ones(filled, np.bool_)
        buffer = Part(storage.rows[:filled], vectors, alive, length_max(vectors))
        return cls(sequence, tuple(segments), buffer, storage)

    @property
    def parts(self) -> tuple[Part, ...]:
        return (*self.segments, self.buffer)

    @cached_property
    def live_parts(self) -> tuple[Part, ...]:
        """Those that hold anything."""
        return tuple(part for part in self.parts if part.live)

    @cached_property
    def live(self) -> int:
        return sum(part.live for part in self.parts)

    def living(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the rising `rows` that are documents."""
        found = [part.rows[part.positions(rows)] for part in self.live_parts]
        return np.sort(np.concatenate([np.empty(0, np.int64), *found]))

    def after(
        self,
        sequence: int,
        removed: NDArray[np.int64],
        rows: NDArray[np.int64],
        vectors: NDArray[np.float32],
    ) -> Generation:
        """The next generation. removed: rising; rows: rising, above every row before.

        A row may be in both: it was added and removed by one write.
        """
        start = len(self.buffer.rows)
        end = start + len(rows)
        storage = self._room_for(end)
        storage.rows[start:end] = rows
        storage.vectors[start:end] = vectors
        alive = np.concatenate([self.buffer.alive, np.ones(len(rows), np.bool_)])
        longest = max(self.buffer.length_max, length_max(vectors))
        buffer = Part(storage.rows[:end], storage.vectors[:end], alive, longest).without(removed)
        segments = tuple(part.without(removed) for part in self.segments)
        return Generation(sequence, segments, buffer, storage)

    def _room_for(self, count: int) -> Storage:
        if count <= len(self.storage.rows):
            return self.storage
        grown = Storage.with_room(2 * count, self.storage.vectors.shape[1])
        used = len(self.buffer.rows)
        grown.rows[:used] = self.buffer.rows
        grown.vectors[:used] = self.buffer.vectors
        return grown

    def with_segments(
        self, fresh: Iterable[Part], replaced: frozenset[str], through_row: int
    ) -> Generation:
        """The same vectors, where `fresh` segments hold what the `replaced` ones and the buffer's
        rows up to `through_row` held. What died while they were built is dead in them too."""
        buffer = self.buffer
        used = int(np.searchsorted(buffer.rows, through_row, side="right"))
        kept = [part for part in self.segments if part.name not in replaced]
        gone = [part.rows[part.alive] for part in self.segments if part.name in replaced]
        alive = np.concatenate([*gone, buffer.rows[:used][buffer.alive[:used]]])
        segments = [replace(part, alive=np.isin(part.rows, alive)) for part in fresh]
        result = Generation.of(
            self.sequence, (*kept, *segments), buffer.rows[used:], buffer.vectors[used:]
        )
        rest = replace(result.buffer, alive=buffer.alive[used:].copy())
        return replace(result, buffer=rest, lexicon=self.lexicon)  # the documents are the same
