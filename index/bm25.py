"""BM25 over FTS5's index: the scores of FTS5's own bm25(), to the bit, for many texts at once.

FTS5 looks at one match after the other, and for each at the length of its text: 1 µs. Here the
matches of a word are read as one array, which takes a quarter of that, and nothing if the word was
looked for before. The formula is FTS5's (sqlite.org/fts5.html, 5.1.1), its tables are in section 9.

FTS5 reads numbers as bytes, whatever type a row gives them, and so does its integrity check: what
is read here is cast, or a search would call damaged what `check` finds whole.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

from index.errors import DataDamaged
from index.records import Reader

K1, B = 1.2, 0.75
WEIGHT_MIN = 1e-6  # of a word that half of the texts have
TOKEN_BYTES_MAX = 32_768  # UTF-8; FTS5 cuts longer words
ROWS_KNOWN_MAX = 500_000  # of all words that a generation remembers: 8 MB
ROWS_OF_A_WORD = 32  # as much memory as what else is remembered of it
COUNTS_KNOWN_MAX = 10_000  # of words: about a MiB
PLACES_AT_ONCE = 4_000_000  # of a word: as text 32 MB. Each time those before are passed over.
POSTINGS_AT_ONCE = 2_000_000  # of several words, before their scores are added up: 100 MB
NUMBER_MAX = 2**63 - 1
ROWS_AT_ONCE = 10_000  # lengths that are read before they are packed
SPARE_ROWS = 10_000  # lengths of texts that are gone, at the least, before all are read anew

Rows = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Postings:
    """The rows of the texts that have a word, rising, and how often each has it."""

    rows: Rows
    counts: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Totals:
    """How many texts there are, and how many words all of them have."""

    texts: int
    words: int


def scored(words: Iterable[tuple[Postings, Scores]], totals: Totals) -> tuple[Rows, Scores]:
    """The rows, rising, of the texts that have any of the words; a higher score is better.

    words: each one's postings, and how many words its texts have; there is at least one
    """
    length_mean = totals.words / totals.texts
    parts: list[tuple[Rows, Scores]] = []
    size = 0
    for found, length in words:
        spread = found.counts + K1 * (1 - B + B * length / length_mean)
        score = _weight(len(found.rows), totals.texts) * (found.counts * (K1 + 1) / spread)
        parts.append((found.rows, score))
        size += len(found.rows)
        if size > POSTINGS_AT_ONCE:  # to the bit the same: what comes is added to these sums
            parts, size = [_summed(parts)], 0
    return _summed(parts)


def _summed(parts: Sequence[tuple[Rows, Scores]]) -> tuple[Rows, Scores]:
    if len(parts) == 1:
        return parts[0]
    every = np.concatenate([rows for rows, _ in parts])
    rows, places = np.unique(every, return_inverse=True)
    scores = np.concatenate([scores for _, scores in parts])
    sums = np.bincount(places, scores)  # adds in the order of the parts
    return rows, sums.astype(np.float64, copy=False)  # which they are, but numpy's stubs say int


def _weight(having: int, texts: int) -> float:
    odds = (texts - having + 0.5) / (having + 0.5)
    return math.log(odds) if odds > 1 else WEIGHT_MIN


class Lexicon:
    """What a generation, which never changes, remembers of the words that were looked for.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._postings: dict[str, Postings] = {}
        self._room = ROWS_KNOWN_MAX

    def count(self, reader: Reader, word: str) -> int:
        """How many texts have `word`. Of a common one FTS5 reads all places to say so."""
        if word in self._counts:
            return self._counts[word]
        sql = "SELECT doc FROM words WHERE term = ?"
        found = int((reader.connection.execute(sql, (word,)).fetchone() or (0,))[0])
        if len(self._counts) < COUNTS_KNOWN_MAX:
            self._counts[word] = found
        return found

    def postings(self, reader: Reader, word: str) -> Postings:
        known = self._postings.get(word)
        if known is None:
            known = _read_postings(reader, word)
            size = len(known.rows) + len(word) + ROWS_OF_A_WORD
            with self._lock:  # who reads the same word beside this takes no room again
                if size <= self._room and word not in self._postings:
                    self._room -= size
                    self._postings[word] = known
        return known


def _read_postings(reader: Reader, word: str) -> Postings:
    term = word.encode()[:TOKEN_BYTES_MAX]
    parts = []
    for start in count(0, PLACES_AT_ONCE):
        places = reader.numbers(
            "SELECT doc AS n FROM places WHERE term = CAST(? AS TEXT) LIMIT ? OFFSET ?",
            (term, PLACES_AT_ONCE, start),
        )
        parts.append(np.unique(places, return_counts=True))
        if len(places) < PLACES_AT_ONCE:
            break
    if len(parts) == 1:
        return Postings(*parts[0])
    every = np.concatenate([rows for rows, _ in parts])
    rows, numbers = np.unique(every, return_inverse=True)
    counts = np.bincount(numbers, np.concatenate([counts for _, counts in parts]))
    return Postings(rows, counts.astype(np.int64))


@dataclass(frozen=True, slots=True)
class _Known:
    """rows: rising; lengths: of each"""

    rows: Rows = field(default_factory=lambda: np.empty(0, np.int64))
    lengths: Scores = field(default_factory=lambda: np.empty(0))


class Lengths:
    """How many words texts have. Thread-safe.

    All are read once, then those of new rows alone: a row number is never used twice, and new ones
    are above the old, so what is known stays true, in memory 16 bytes a text.
    """

    def __init__(self) -> None:
        self._known = _Known()
        self._lock = threading.Lock()

    def of(self, reader: Reader, rows: Rows, texts: int) -> Scores:
        """Of the rising `rows`, of a state with so many texts. Raises DataDamaged."""
        known = self._known
        if len(rows) and not (len(known.rows) and rows[-1] <= known.rows[-1]):
            known = self._read_on(reader, texts)
        lengths, here = _looked_up(known, rows)
        if not here.all():  # of texts that an older state has, and that were gone when all was read
            lengths[~here] = [_read_length(reader, row) for row in rows[~here].tolist()]
        return lengths

    def _read_on(self, reader: Reader, texts: int) -> _Known:
        with self._lock:
            known = self._known
            if len(known.rows) > 2 * texts + SPARE_ROWS:
                known = _Known()
            last = int(known.rows[-1]) if len(known.rows) else -1
            read = list(_read_lengths(reader, last))
            self._known = _Known(
                np.concatenate([known.rows, *(rows for rows, _ in read)]),
                np.concatenate([known.lengths, *(lengths for _, lengths in read)]),
            )
            return self._known


def _looked_up(known: _Known, rows: Rows) -> tuple[Scores, NDArray[np.bool_]]:
    """Lengths, and which of them are known."""
    if not len(known.rows):
        return np.empty(len(rows)), np.zeros(len(rows), np.bool_)
    places = np.minimum(np.searchsorted(known.rows, rows), len(known.rows) - 1)
    return known.lengths[places], known.rows[places] == rows


def _read_lengths(reader: Reader, after: int) -> Iterator[tuple[Rows, Scores]]:
    cursor = reader.connection.execute(
        "SELECT id, CAST(sz AS BLOB) FROM lexical_docsize WHERE id > ? ORDER BY id", (after,)
    )
    while found := cursor.fetchmany(ROWS_AT_ONCE):
        rows = np.array([row for row, _ in found], np.int64)
        yield rows, np.array([_numbers(size, reader)[0] for _, size in found], np.float64)


def _read_length(reader: Reader, row: int) -> int:
    sql = "SELECT CAST(sz AS BLOB) FROM lexical_docsize WHERE id = ?"
    return _numbers((reader.connection.execute(sql, (row,)).fetchone() or (b"",))[0], reader)[0]


def read_totals(reader: Reader) -> Totals:
    """Raises DataDamaged where there are none."""
    sql = "SELECT CAST(block AS BLOB) FROM lexical_data WHERE id = 1"
    block = (reader.connection.execute(sql).fetchone() or (b"",))[0]
    texts, words, *_ = (*_numbers(block, reader), 0)
    if not texts or not words:
        raise DataDamaged(reader.path, "its texts have words, but the number of words is 0")
    return Totals(texts, words)


def _numbers(block: object, reader: Reader) -> list[int]:
    """SQLite's varints: seven bits a byte, the highest first. Raises DataDamaged for none."""
    numbers = []
    number = 0
    for byte in block if isinstance(block, bytes) else b"":
        number = (number << 7 | byte & 0x7F) & NUMBER_MAX
        if byte < 0x80:
            numbers.append(number)
            number = 0
    if not numbers:
        raise DataDamaged(reader.path, "a number of words is missing")
    return numbers
