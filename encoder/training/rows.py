"""Cuts token streams into full rows, in an order that is a pure function of the seed.

No state needs saving: which rows step 7,000 reads follows from the recipe alone, so a run that
was killed goes on with the very rows it would have read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Successive multiples of this, modulo 1, are spread as evenly as can be (Kronecker's sequence),
# so that each source gets its share in any thousand rows.
GOLDEN = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class RowSource:
    """One stream to cut rows from.

    ids:    (tokens,)
    starts: (pairs,) where rows may begin, or None where they may begin anywhere
    share:  of all rows
    """

    ids: NDArray[np.uint16]
    starts: NDArray[np.int64] | None
    share: float


def cut_windows(starts: NDArray[np.int64], tokens: int, length: int) -> NDArray[np.int64]:
    """Where rows of `length` tokens begin in a stream of pairs: (rows,).

    Every row begins with a pair. The pair that a row's end cuts begins the next row, unless it
    is longer than a row: then its tail is lost.
    """
    begins = []
    place = 0
    while place < len(starts) and starts[place] + length <= tokens:
        begins.append(starts[place])
        following = int(np.searchsorted(starts, starts[place] + length, side="right")) - 1
        place = max(following, place + 1)
    return np.array(begins, dtype=np.int64)


class Rows:
    """The rows of one stage: each is [CLS] and `row_tokens - 1` consecutive tokens of a source.

    A row may cross the end of a document, which [SEP] marks, and attention may look across it:
    RoBERTa lost 0.2 to 0.3 points of GLUE and SQuAD by that (Liu et al. 2019, table 2) and it
    lets attention run without a mask, a third faster on a CPU.
    Raises ValueError if no source is long enough for a row.
    """

    def __init__(
        self, sources: Sequence[RowSource], row_tokens: int, begin_id: int, seed: Sequence[int]
    ) -> None:
        self._length = row_tokens - 1
        self._begin_id = begin_id
        self._seed = tuple(seed)
        self._sources = [source for source in sources if len(source.ids) >= 2 * self._length]
        self._windows = [
            None if s.starts is None else cut_windows(s.starts, len(s.ids), self._length)
            for s in self._sources
        ]
        shares = np.array([source.share for source in self._sources])
        if not shares.sum():
            raise ValueError(f"no source has the tokens for two rows of {row_tokens}")
        self._cumulative = np.cumsum(shares / shares.sum())
        self._drawn = np.zeros(len(self._sources), dtype=np.int64)  # by rows before `_next`
        self._next = 0
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}

    def read(self, first: int, count: int) -> NDArray[np.int64]:
        """Rows `first` to `first + count`: (count, row_tokens).

        Reading onwards is fast; going back or skipping costs the time of counting from the
        stage's beginning (0.1 s a million rows).
        """
        if first != self._next:
            chosen = self._choose(0, first)
            self._drawn = np.bincount(chosen, minlength=len(self._sources)).astype(np.int64)
        rows = np.empty((count, self._length + 1), dtype=np.int64)
        rows[:, 0] = self._begin_id
        for index, source in enumerate(self._choose(first, count)):
            rows[index, 1:] = self._row(int(source), int(self._drawn[source]))
            self._drawn[source] += 1
        self._next = first + count
        return rows

    def _choose(self, first: int, count: int) -> NDArray[np.int64]:
        points = (np.arange(first, first + count) * GOLDEN) % 1.0
        chosen = np.searchsorted(self._cumulative, points, side="right")
        return np.minimum(chosen, len(self._sources) - 1)

    def _row(self, source: int, number: int) -> NDArray[np.uint16]:
        epoch, place = divmod(number, self._size(source))
        order = self._order(source, epoch)
        begin = int(order[place])
        return self._sources[source].ids[begin : begin + self._length]

    def _size(self, source: int) -> int:
        windows = self._windows[source]
        return (
            len(self._sources[source].ids) // self._length - 1 if windows is None else len(windows)
        )

    def _order(self, source: int, epoch: int) -> NDArray[np.int64]:
        """Where the rows of an epoch begin: every row once, shuffled, cut elsewhere each epoch."""
        if (source, epoch) not in self._orders:
            random = np.random.default_rng([*self._seed, source, epoch])
            windows = self._windows[source]
            if windows is None:
                phase = int(random.integers(self._length))
                windows = phase + self._length * np.arange(self._size(source), dtype=np.int64)
            self._orders.pop((source, epoch - 1), None)
            self._orders[source, epoch] = random.permutation(windows)
        return self._orders[source, epoch]
