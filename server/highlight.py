"""Where a hit's text matches: words of the query, and the passages nearest to it in meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
import regex
from numpy.typing import NDArray

from encoder.runs import runs_of
from encoder.tokenizer import Truncation
from encoder.words import Span, SubwordPooling
from index import lexical
from server.embedder import Embedder, Lane, Timings
from server.errors import naming
from server.passages import passages

# Of a hit's text; what stands further back is not looked at. About 1,000 tokens of English, so
# that ten hits cost the model less than 10,000.
TEXT_CODE_POINTS_MAX = 4_000
SPECIAL_TOKENS_MAX = 4  # around a text, of any tokenizer that we know
SEMANTIC_MAX = 3  # passages shown of one hit
LEXICAL_MAX = 16  # words shown of one hit

_GRAPHEME = regex.compile(r"\X")


class HighlightKind(Enum):
    LEXICAL = auto()
    SEMANTIC = auto()


@dataclass(frozen=True, slots=True)
class Highlight:
    """A place in a text. `score`: the cosine of passage and query for SEMANTIC, else 0."""

    span: Span
    kind: HighlightKind
    score: float = 0.0


def lexical_highlights(query: str, text: str) -> list[Highlight]:
    """The first words of `text` that are words of `query` too, in the order of the text."""
    found = lexical.highlights(query, _head(text))[:LEXICAL_MAX]
    spans = []
    at = byte_at = 0
    for start, end in found:
        byte_start = byte_at + len(text[at:start].encode())
        byte_at = byte_start + len(text[start:end].encode())
        at = end
        spans.append(Span(start, end, byte_start, byte_at))
    return [Highlight(span, HighlightKind.LEXICAL) for span in spans]


async def semantic_highlights(
    embedder: Embedder, texts: Sequence[str], query: NDArray[np.float32], lane: Lane
) -> tuple[list[list[Highlight]], Timings]:
    """For each text its passages nearest to `query`, best first, at most three.

    query: (dimensions,), made by the loaded model from whole texts
    A passage's vector is the mean of the last layer's states of its tokens, in the context of
    the whole text; what a mean-pooling model would say of it if it could see no more than it.
    """
    heads = [_head(text) for text in texts]
    found: list[list[Highlight]] = []
    timings = Timings()
    # The hits were found: what is too much for one call of the model is not refused, but divided.
    for run in runs_of([tokens_at_most(text) for text in heads], embedder.call_tokens_max):
        with naming(lambda _: "options.highlight", "options.highlight"):
            embedded = await embedder.words(
                [(text, passages(text)) for text in heads[run]],
                layers=(embedder.encoder.layers,),
                subword_pooling=SubwordPooling.MEAN,
                normalized=False,
                truncation=Truncation.WINDOWS,
                lane=lane,
            )
        timings += embedded.timing
        found += [
            nearest([(word.span, word.vector) for word in words if word is not None], query)
            for words in embedded.words
        ]
    return found, timings


def tokens_at_most(text: str) -> int:
    """No token is shorter than a byte, and some more are special."""
    return len(text.encode()) + SPECIAL_TOKENS_MAX


def nearest(
    read: Sequence[tuple[Span, NDArray[np.float32]]], query: NDArray[np.float32]
) -> list[Highlight]:
    """The passages whose vectors have the largest cosine with `query`, best first.

    read: passages with their vectors, (width,) each
    query: (dimensions,); where it is shorter (Matryoshka) the vectors' first values count
    """
    found = []
    for span, vector in read:
        lengths = float(np.linalg.norm(vector[: len(query)]) * np.linalg.norm(query))
        if lengths > 0:
            cosine = float(vector[: len(query)] @ query) / lengths
            found.append(Highlight(span, HighlightKind.SEMANTIC, cosine))
    found.sort(key=lambda highlight: (-highlight.score, highlight.span.start))
    return found[:SEMANTIC_MAX]


def _head(text: str) -> str:
    """The part of `text` that is looked at, without a cluster that the limit would cut in two."""
    if len(text) <= TEXT_CODE_POINTS_MAX:
        return text
    *_, last = _GRAPHEME.finditer(text, 0, TEXT_CODE_POINTS_MAX)
    return text[: last.start()]
