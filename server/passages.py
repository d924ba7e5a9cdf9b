"""Cuts a text into passages that can be shown by themselves: sentences, clauses, runs of words.

Pure functions. The rule for sentences is a small one: a terminator, closing quotes, white space;
unless the full stop belongs to a well-known abbreviation or an initial. That is wrong now and
then in every language ("etc. Then"), and good enough to show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import regex

from encoder.words import Span, words

SENTENCE_WORDS_MAX = 40  # a longer sentence is shown by its clauses
CLAUSE_WORDS_MAX = 8  # a longer clause of a short text is shown by its runs of words
RUN_WORDS = 6

_CLOSING = r"""["'”’»)\]\p{Pf}]*"""
# Scripts with spaces need one after the terminator (3.14 is no end); Chinese and Japanese have
# none. A line break always ends a sentence: headings and lists carry no full stop.
_SENTENCE_END = regex.compile(
    rf"(?:[.!?…؟۔।॥]+{_CLOSING}\s+|[。！？｡]+[」』）”’]*\s*|\s*\n\s*)", regex.VERSION1
)
_CLAUSE_END = regex.compile(r"(?:[,;:،؛]\s+|[、，；：]\s*|\s+[–—-]\s+|—)", regex.VERSION1)
_ABBREVIATION = regex.compile(
    r"(?:^|[^\p{L}\p{N}])"
    r"(?:\p{Lu}|(?:\p{L}\.)+\p{L}"  # an initial; e.g. and U.S.
    r"|(?i:mr|mrs|ms|dr|prof|st|jr|sr|vs|etc|cf|ca|no|fig|vol|approx|inc|ltd|co|corp|gen|sen|rev))$",
    regex.VERSION1,
)
_ABBREVIATION_CHARACTERS = 16  # so far back the word before a full stop is looked for
_GRAPHEME = regex.compile(r"\X")


def passages(text: str) -> list[Span]:
    """The parts of `text`, in order, apart, without the white space around them.

    They cover everything but white space, and no grapheme cluster is cut. A text of one sentence
    is given by its clauses, so that a short text too has a place that fits best.
    """
    cuts = _cuts(text, _sentence_ends(text))
    parts = list(pairwise(cuts))
    if len(parts) == 1:
        pieces = _pieces_of_one(text)
    else:
        pieces = [piece for start, end in parts for piece in _shortened(text, start, end)]
    return _spans(text, pieces)


def _pieces_of_one(text: str) -> list[tuple[int, int]]:
    clauses = list(pairwise(_cuts(text, _ends(_CLAUSE_END, text, 0, len(text)))))
    return [run for start, end in clauses for run in _runs(text, start, end)]


def _shortened(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The sentence itself, or its clauses if it is long."""
    if len(words(text[start:end])) <= SENTENCE_WORDS_MAX:
        return [(start, end)]
    inner = [cut for cut in _ends(_CLAUSE_END, text, start, end) if _is_edge(text, cut)]
    clauses = pairwise(sorted({start, end, *inner}))
    return [run for a, b in clauses for run in _runs(text, a, b)]


def _runs(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The clause itself, or runs of its words if it is long."""
    found = words(text[start:end])
    if len(found) <= CLAUSE_WORDS_MAX:
        return [(start, end)]
    # The last run takes the rest, so that no run is a lonely word.
    firsts = found[RUN_WORDS : len(found) - RUN_WORDS // 2 : RUN_WORDS]
    return list(pairwise([start, *(start + word.start for word in firsts), end]))


def _sentence_ends(text: str) -> Iterator[int]:
    for match in _SENTENCE_END.finditer(text):
        if not _goes_on(text, match.start(), match.end()):
            yield match.end()


def _goes_on(text: str, start: int, end: int) -> bool:
    """Whether the terminator at `start` to `end` does not end its sentence."""
    if text[start] != "." or "\n" in text[start:end]:
        return False
    before = text[max(0, start - _ABBREVIATION_CHARACTERS) : start]
    return text[start + 1].isspace() and _ABBREVIATION.search(before) is not None


def _ends(pattern: regex.Pattern[str], text: str, start: int, end: int) -> Iterator[int]:
    return (match.end() for match in pattern.finditer(text, start, end))


def _cuts(text: str, ends: Iterator[int]) -> Sequence[int]:
    """Where `text` is cut: its ends, and those of `ends` where a grapheme begins."""
    return sorted({0, len(text)} | {end for end in ends if _is_edge(text, end)})


def _is_edge(text: str, cut: int) -> bool:
    """Whether a grapheme cluster begins at `cut`.

    White space or punctuation stands on one side of a cut, and what can join such a character to
    a neighbour stands right beside it; so one code point of context is enough.
    """
    return 0 < cut < len(text) and _cluster_end(text, cut - 1) == cut


def _cluster_end(text: str, start: int) -> int:
    cluster = _GRAPHEME.match(text, start)
    assert cluster is not None, "every code point begins or continues a cluster"
    return cluster.end()


def _spans(text: str, pieces: Sequence[tuple[int, int]]) -> list[Span]:
    """The pieces without white space around them, as spans; empty ones are left out."""
    spans = []
    at = byte_at = 0
    for start, end in pieces:
        start, end = _stripped(text, start, end)  # noqa: PLW2901
        if start == end:
            continue
        byte_start = byte_at + len(text[at:start].encode())
        byte_at = byte_start + len(text[start:end].encode())
        at = end
        spans.append(Span(start, end, byte_start, byte_at))
    return spans


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """Without white space around it; white space that is part of a larger cluster stays."""
    while start < end and text[start : (cluster_end := _cluster_end(text, start))].isspace():
        start = cluster_end
    while start < end and text[end - 1].isspace():
        width = 2 if text[start:end].endswith("\r\n") else 1
        if end - width > start and not _is_edge(text, end - width):
            break
        end -= width
    return start, end
