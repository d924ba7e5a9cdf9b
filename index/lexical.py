"""Words as SQLite's FTS5 sees them: for queries that cannot be malformed, and for highlights.

FTS5's tokenizer `unicode61 remove_diacritics 2` takes runs of letters, digits and marks, folds
case, and drops diacritics. `terms` does the same in Python; a test compares the two.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

TOKENIZER = "unicode61 remove_diacritics 2"


@dataclass(frozen=True, slots=True)
class Term:
    """A folded word and where it stands: code points, half open."""

    word: str
    start: int
    end: int


def terms(text: str) -> Iterator[Term]:
    """The words of `text`, in order."""
    start = -1
    for position, character in enumerate(text):
        if _is_word(character, inside=start >= 0):
            if start < 0:
                start = position
        elif start >= 0:
            yield Term(_fold(text[start:position]), start, position)
            start = -1
    if start >= 0:
        yield Term(_fold(text[start:]), start, len(text))


def _is_word(character: str, *, inside: bool) -> bool:
    if character.isascii():
        return character.isalnum()
    category = unicodedata.category(character)
    return category[0] in "LN" or category == "Co" or (inside and category == "Mn")


def _fold(word: str) -> str:
    if word.isascii():
        return word.lower()
    decomposed = unicodedata.normalize("NFD", word.lower())
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")


def match_expression(text: str, terms_max: int) -> str:
    """An FTS5 query for any word of `text`; empty if it has none.

    Each word is quoted, so nothing in `text` can be taken for an operator.
    """
    words = dict.fromkeys(term.word for term in terms(text) if term.word)
    return " OR ".join(f'"{word}"' for word in list(words)[:terms_max])


def highlights(query: str, text: str) -> list[tuple[int, int]]:
    """Where words of `query` stand in `text`: code points, half open, in order."""
    wanted = {term.word for term in terms(query)}
    return [(term.start, term.end) for term in terms(text) if term.word in wanted]
