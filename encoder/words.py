"""Words in a text as spans, and the vectors of words from the vectors of tokens. Pure functions."""

from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise

import numpy as np
import regex
from numpy.typing import NDArray

from encoder.tokenizer import Window

# Default word boundaries of Unicode Standard Annex 29; `(?w)` is what makes `\b` mean them.
_BOUNDARY = regex.compile(r"(?w)\b")
_GRAPHEME = regex.compile(r"\X")
# A segment is a word when it holds something one could ask the meaning of: not space or dots.
_WORDLIKE = regex.compile(r"[\p{L}\p{N}\p{Extended_Pictographic}\p{Regional_Indicator}]")


class WordNotFound(ValueError):
    """The text does not hold that many whole-word occurrences of the word."""

    def __init__(self, word: str, occurrence: int, occurrences: int) -> None:
        super().__init__(
            f"occurrence {occurrence} of {word!r} asked for (counting from 0); "
            f"the text has {occurrences}"
        )
        self.word = word
        self.occurrence = occurrence
        self.occurrences = occurrences


class WordNotInWindow(ValueError):
    """None of a window's tokens overlaps the span: it was truncated away, or has no tokens."""


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open part of a text, in code points (Python, Rust's chars) and UTF-8 bytes (Go)."""

    start: int
    end: int
    byte_start: int
    byte_end: int


class SubwordPooling(StrEnum):
    """How the vectors of a word's tokens become one."""

    MEAN = "mean"
    FIRST = "first"
    LAST = "last"


def words(text: str) -> list[Span]:
    """The words of `text`, in order: UAX 29 segments that hold a letter, number or emoji.

    A grapheme cluster (a letter with its marks, a family emoji) is never cut. Scripts written
    without spaces are cut finer than a dictionary would: Chinese and Thai by character.
    """
    spans = []
    byte = 0
    for start, end in _segments(text):
        size = len(text[start:end].encode("utf-8"))
        if _WORDLIKE.search(text, start, end):
            spans.append(Span(start, end, byte, byte + size))
        byte += size
    return spans


class WordFinder:
    """Finds words in one text by their spelling.

    Where words begin and end, and where a word stands, is worked out once, however many are looked
    for: cutting 64 KiB takes tens of milliseconds.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._found: dict[str, list[int]] = {}

    def find(self, word: str, occurrence: int = 0) -> Span:
        """The `occurrence`-th (from 0) place where `word` stands with boundaries around it.

        Spelling must agree to the code point. `word` may hold spaces. Raises WordNotFound.
        """
        if not word or occurrence < 0:
            raise WordNotFound(word, occurrence, 0)
        if word not in self._found:
            self._found[word] = self._starts(word)
        starts = self._found[word]
        if occurrence >= len(starts):
            raise WordNotFound(word, occurrence, len(starts))
        return span_at(self.text, starts[occurrence], starts[occurrence] + len(word))

    def _starts(self, word: str) -> list[int]:
        starts = []
        at = self.text.find(word)
        while at >= 0:
            edge = self._edge_from(at)
            if edge > at:  # on to the next place where a word may begin
                at = self.text.find(word, edge)
                continue
            end = at + len(word)
            whole = self._edge_from(end) == end
            if whole:
                starts.append(at)
            at = self.text.find(word, end if whole else at + 1)
        return starts

    def _edge_from(self, at: int) -> int:
        return self._edges[bisect_left(self._edges, at)]

    @cached_property
    def _edges(self) -> list[int]:
        return [0, *(end for _, end in _segments(self.text))]


def find_word(text: str, word: str, occurrence: int = 0) -> Span:
    """As WordFinder.find, for one word of a text."""
    return WordFinder(text).find(word, occurrence)


def find_any_case(text: str, words: Collection[str]) -> Span | None:
    """The first place where one of `words` stands in `text` as a whole word, case ignored.

    The first of all places, whichever word it is; of two that begin there, the longer. None for
    no words.
    """
    wanted = [word for word in words if word]
    if not wanted:
        return None
    # w: word boundaries of Unicode; f: full case folding, so that STRASSE finds Straße.
    match = regex.search(r"(?wif)\b\L<words>\b", text, words=wanted)
    return None if match is None else span_at(text, match.start(), match.end())


def span_at(text: str, start: int, end: int) -> Span:
    """The span of code points `start` to `end`. Raises ValueError if empty or outside."""
    if not 0 <= start < end <= len(text):
        raise ValueError(
            f"span {start} to {end} is empty or outside the text of {len(text)} code points"
        )
    byte_start = len(text[:start].encode("utf-8"))
    return Span(start, end, byte_start, byte_start + len(text[start:end].encode("utf-8")))


def span_from_bytes(text: str, byte_start: int, byte_end: int) -> Span:
    """The span of UTF-8 bytes `byte_start` to `byte_end`.

    Raises ValueError if it is empty, outside the text, or cuts a character in two.
    """
    encoded = text.encode("utf-8")
    if not 0 <= byte_start < byte_end <= len(encoded):
        raise ValueError(
            f"span of bytes {byte_start} to {byte_end} is empty or outside "
            f"the text of {len(encoded)} bytes"
        )
    try:
        start = len(encoded[:byte_start].decode("utf-8"))
        end = start + len(encoded[byte_start:byte_end].decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError(
            f"span of bytes {byte_start} to {byte_end} cuts a character in two"
        ) from None
    return Span(start, end, byte_start, byte_end)


def tokens_of(window: Window, span: Span) -> slice:
    """The run of a window's tokens that overlap `span`. Raises WordNotInWindow if none does."""
    overlapping = np.flatnonzero((window.starts < span.end) & (window.ends > span.start))
    if not len(overlapping):
        raise WordNotInWindow(
            f"no token of this window covers code points {span.start} to {span.end}"
        )
    return slice(int(overlapping[0]), int(overlapping[-1]) + 1)


def word_vector(
    states: NDArray[np.float32], tokens: slice, pooling: SubwordPooling
) -> NDArray[np.float32]:
    """The vector of the word at `tokens`: the mean of the layers, then of its sub-words.

    states: (layers, tokens, width), the layers to be mixed
    returns (width,), not normalised
    """
    pieces = states[:, tokens].mean(axis=0)
    match pooling:
        case SubwordPooling.MEAN:
            vector = pieces.mean(axis=0)
        case SubwordPooling.FIRST:
            vector = pieces[0]
        case SubwordPooling.LAST:
            vector = pieces[-1]
    return np.ascontiguousarray(vector, dtype=np.float32)


def _segments(text: str) -> Iterator[tuple[int, int]]:
    """Every UAX 29 segment of `text`, in order, without a gap."""
    graphemes = {match.start() for match in _GRAPHEME.finditer(text)}
    edges = [match.start() for match in _BOUNDARY.finditer(text)]
    cuts = sorted({0, len(text)} | {edge for edge in edges if edge in graphemes})
    return pairwise(cuts)
