"""What goes into the embedder beside texts, and what comes out of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.runtime import Fingerprint, Pooling
from encoder.tokenizer import TokenizedText, Truncation, Window
from encoder.words import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedPlan:
    """How texts become vectors. `pooling` None is the model's own."""

    pooling: Pooling | None
    dimensions: int
    normalized: bool
    prompt: str
    truncation: Truncation


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """How the tokenizer saw one text."""

    total: int
    used: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a call's time went, in seconds."""

    queue_s: float = 0.0
    tokenize_s: float = 0.0
    compute_s: float = 0.0
    search_s: float = 0.0

    def __add__(self, other: "Timings") -> "Timings":
        return Timings(
            self.queue_s + other.queue_s,
            self.tokenize_s + other.tokenize_s,
            self.compute_s + other.compute_s,
            self.search_s + other.search_s,
        )


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Several texts as the model will read them."""

    texts: list[TokenizedText]
    tokenize_s: float

    @property
    def counts(self) -> list[TokenCounts]:
        return [TokenCounts(t.tokens_total, t.tokens_used, t.truncated) for t in self.texts]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of several texts, (texts, dimensions)."""

    vectors: NDArray[np.float32]
    counts: list[TokenCounts]
    fingerprint: Fingerprint
    timing: Timings


@dataclass(frozen=True, slots=True)
class EmbeddedWord:
    """A word in its context: `vector` (width,), made of `tokens` sub-word tokens."""

    span: Span
    vector: NDArray[np.float32]
    tokens: int


@dataclass(frozen=True, slots=True)
class EmbeddedWords:
    """For each text its words, in the order they were asked for; None where it was not read."""

    words: list[list[EmbeddedWord | None]]
    counts: list[TokenCounts]
    layers: tuple[int, ...]
    fingerprint: Fingerprint
    timing: Timings


@dataclass(frozen=True, slots=True)
class EmbeddedStates:
    """For each text its only window, and `states` (tokens, width), the mean of the layers."""

    windows: list[Window]
    states: list[NDArray[np.float32]]
    counts: list[TokenCounts]
    fingerprint: Fingerprint
    timing: Timings
