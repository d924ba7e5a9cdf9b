"""Words as SQLite's FTS5 sees them: for queries, and for highlights.

FTS5's tokenizer `unicode61 remove_diacritics 2` takes runs of letters, digits and marks, folds
case, and drops diacritics. `terms` does the same here, where positions are needed.
"""

from __future__ import annotations

import functools
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

TOKENIZER = "unicode61 remove_diacritics 2"
MERGED_PAGES = 500  # of 4 kB, in one step: tens of milliseconds


@dataclass(frozen=True, slots=True)
class Term:
    """A folded word and where it stands: code points, half open."""

    word: str
    start: int
    end: int


class _Folding:
    """How FTS5 folds a character, asked of FTS5: its tables are irregular and its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False
        )
        self._connection.execute(f"CREATE VIRTUAL TABLE t USING fts5 (x, tokenize = '{TOKENIZER}')")
        self._connection.execute("CREATE VIRTUAL TABLE v USING fts5vocab (t, instance)")

    def of(self, character: str) -> str | None:
        """What becomes of it inside a word: another character, nothing (""), or the word's end
        (None)."""
        with self._lock:
            self._connection.execute("DELETE FROM t")
            self._connection.execute("INSERT INTO t VALUES (?)", (f"a{character}a",))
            words = self._connection.execute("SELECT term FROM v ORDER BY offset").fetchall()
        return words[0][0][1:-1] if len(words) == 1 else None


_folding = _Folding()


@functools.lru_cache(maxsize=65_536)  # characters; more than any corpus has
def _fold(character: str) -> str | None:
    if character.isascii():
        return character.lower() if character.isalnum() else None
    return _folding.of(character)


def terms(text: str) -> Iterator[Term]:
    """The words of `text`, in order."""
    word, start = "", -1
    for position, character in enumerate(text):
        folded = _fold(character)
        if folded is None or (start < 0 and not folded):  # a mark begins no word
            if start >= 0:
                yield Term(word, start, position)
            word, start = "", -1
        else:
            start = position if start < 0 else start
            word += folded
    if start >= 0:
        yield Term(word, start, len(text))


def query_words(text: str, words_max: int) -> list[str]:
    """The different words of a query, folded, in order; what is beyond `words_max` is dropped."""
    return list(islice(dict.fromkeys(term.word for term in terms(text)), words_max))


def highlights(query: str, text: str) -> list[tuple[int, int]]:
    """Where words of `query` stand in `text`: code points, half open, in order."""
    wanted = {term.word for term in terms(query)}
    return [(term.start, term.end) for term in terms(text) if term.word in wanted]


def merge_words(connection: sqlite3.Connection, *, first: bool) -> bool:
    """One step towards one segment of FTS5's own; False when there was nothing left to do.

    Together the steps are what 'optimize' does at once (sqlite.org/fts5.html, 6.8 and 6.9).
    """
    before = connection.total_changes
    pages = -MERGED_PAGES if first else MERGED_PAGES
    connection.execute("INSERT INTO lexical (lexical, rank) VALUES ('merge', ?)", (pages,))
    return connection.total_changes - before >= 2
