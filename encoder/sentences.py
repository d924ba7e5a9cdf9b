"""Texts cut into sentences for translation, with nothing lost between them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from html import unescape
from itertools import pairwise

import regex
import sentencex  # type: ignore[import-untyped]  # it has no types

from encoder.tokenizer import Window

# Line breaks as str.splitlines has them would be too many: a form feed ends no sentence.
_LINES = regex.compile(r"[^\r\n]+")
_PARAGRAPHS = regex.compile(r"(?:(?!\r?\n[^\S\r\n]*\r?\n).)+", regex.DOTALL)
_SPACE = regex.compile(r"\s+")
# White space at the edges of a sentence, whether typed or as an HTML entity, and the tags in it.
# Other entities stay: `&Eacute;` begins a word, and `&quot;` is a sign like any other.
_TAG = r"<[/!?]?[A-Za-z][^<>]*>"
_BLANK = (
    r"&(?:nbsp|ensp|emsp|thinsp|hairsp|numsp|puncsp"
    r"|#0*(?:160|819[4-9]|820[0-2]|8239)|#[xX]0*(?:[aA]0|200[2-9aA]|202[fF]));"
)
_BEFORE = regex.compile(rf"(?:\s|{_TAG}|{_BLANK})*")
_AFTER = regex.compile(rf"(?:\s|{_TAG}|{_BLANK})*", regex.REVERSE)
_SPACES_MAX = 8  # that are looked past, for the end of a clause
_CLAUSE_ENDS = frozenset(',;:.!?)–—…»“”"')
_LETTER = regex.compile(r"\p{L}")
_TAGS = regex.compile(_TAG)


class Splitting(StrEnum):
    """Where a text is cut into the pieces that are translated one by one."""

    SENTENCES_AND_LINES = "sentences_and_lines"
    SENTENCES = "sentences"  # and at blank lines; a line may end within a sentence
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text, in code points. What lies between pieces is kept as it is.

    translatable: whether there is something in it to translate, see `is_translatable`
    """

    start: int
    end: int
    translatable: bool

    def of(self, text: str) -> str:
        """The piece itself."""
        return text[self.start : self.end]


def pieces(text: str, language: str, splitting: Splitting) -> list[Piece]:
    """The sentences of a text in `language`, in order, without the space and tags around them.

    Sentences end where sentencex, by Wikimedia, finds that they do. Pieces do not overlap, and
    nothing but white space and tags lies between them; `&nbsp;` is white space.
    """
    found = []
    for start, end in _spans(text, language, splitting):
        inner = trimmed(text, start, end)
        if inner is not None:
            found.append(inner)
    return found


def trimmed(text: str, start: int, end: int) -> Piece | None:
    """A part of a text without the white space and the tags at its edges; None if that is all."""
    before = _BEFORE.match(text, start, end)
    first = before.end() if before else start
    if first == end:
        return None
    after = _AFTER.match(text, first, end)
    last = after.start() if after else end
    return Piece(first, last, is_translatable(text[first:last]))


def is_translatable(text: str) -> bool:
    """Whether there is a letter in it outside of tags; `&amp;` has none, `&eacute;` is one."""
    return _LETTER.search(unescape(_TAGS.sub("", text))) is not None


def fitted(piece: Piece, text: str, window: Window, tokens_max: int) -> list[Piece]:
    """A piece that is too long for the model, cut at clauses, at white space, or where it must be.

    window:     the whole piece as tokens, however long, its offsets counted from the piece's start
    tokens_max: of a part, special tokens included; parts are of about one length
    """
    special = int((window.starts < 0).sum())
    room = tokens_max - special
    inside = [(int(s), int(e)) for s, e in zip(window.starts, window.ends, strict=True) if s >= 0]
    if len(inside) <= room:
        return [piece]
    cuts = _cuts(piece.of(text), inside, room)
    edges = [piece.start, *(piece.start + cut for cut in cuts), piece.end]
    parts = (trimmed(text, a, b) for a, b in pairwise(edges))
    return [part for part in parts if part is not None]


def _spans(text: str, language: str, splitting: Splitting) -> Iterator[tuple[int, int]]:
    if splitting is Splitting.NONE:
        yield 0, len(text)
        return
    blocks = _LINES if splitting is Splitting.SENTENCES_AND_LINES else _PARAGRAPHS
    for block in blocks.finditer(text):
        if _SPACE.fullmatch(block.group()):
            continue
        for found in sentencex.get_sentence_boundaries(language, block.group()):
            yield block.start() + found["start_index"], block.start() + found["end_index"]


def _cuts(text: str, tokens: Sequence[tuple[int, int]], room: int) -> list[int]:
    """Where to cut `text` so that at most `room` tokens lie between: after a clause if one ends
    well, else at white space, else before any token; each time as near to an even share of what
    is left as can be."""
    cuts = []
    first = 0
    while (left := len(tokens) - first) > room:
        even = first + -(-left // -(-left // room))
        ahead = range(first + 1, first + room + 1)
        spaced = [i for i in ahead if text[tokens[i][0] - 1 : tokens[i][0]].isspace()]
        # A part much smaller than the others would be read without its context.
        clauses = [i for i in spaced if 2 * (i - first) >= room and _ends_clause(text, tokens[i])]
        first = min(clauses or spaced or [even], key=lambda i: abs(i - even))
        cuts.append(tokens[first][0])
    return cuts


def _ends_clause(text: str, token: tuple[int, int]) -> bool:
    """Whether a clause ends before this token and the white space in front of it."""
    before = text[max(0, token[0] - _SPACES_MAX) : token[0]].rstrip()
    return before[-1:] in _CLAUSE_ENDS and before != ""
