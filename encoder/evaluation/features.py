"""What a sense classifier sees: which vectors of a word, of which layers, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from encoder.discriminant import Matrix, unit
from encoder.evaluation.data import LabelledSentences, SenseWord
from encoder.evaluation.vectors import Subject, WordVectors, counting, embed_words

SHOTS = (1, 3, 10, 30)  # examples a sense
SHOT_SEEDS = 5

Mix: TypeAlias = tuple[int, ...]  # layers whose mean is the word's vector


class Part(StrEnum):
    """A vector that a sense classifier may see."""

    ALONE = "alone"  # the word's static vector: the same in every sentence
    AVERAGE = "average"  # the mean of the sentence's static vectors
    WORD = "word"  # the word in its context, by the mix of layers
    SENTENCE = "sentence"  # the pooled last layer


# Not the sentence: it comes from training that evened its directions out already (whitened, it
# cost MiniLM 5 points at one example a sense).
WHITENED_PARTS = (Part.WORD, Part.AVERAGE)


@dataclass(frozen=True, slots=True)
class Features:
    """What a classifier sees: parts, each of length 1, side by side."""

    name: str
    parts: tuple[Part, ...]
    whitened: bool = False  # the parts of WHITENED_PARTS

    @property
    def key(self) -> str:
        """The name as it stands in the keys of scores."""
        return self.name.replace(" + ", "+").replace(", ", "-").replace(" ", "-")


STATIC = Features("static, averaged", (Part.AVERAGE,))
STATIC_WHITENED = Features("static, averaged, whitened", (Part.AVERAGE,), whitened=True)
WORD = Features("contextual", (Part.WORD,))
WORD_WHITENED = Features("contextual, whitened", (Part.WORD,), whitened=True)
BOTH = Features("contextual + sentence", (Part.WORD, Part.SENTENCE))
BOTH_WHITENED = Features("contextual, whitened + sentence", BOTH.parts, whitened=True)
ALONE = Features("static, the word alone", (Part.ALONE,))  # the most frequent sense, then
# In the model's own sense space: whatever its file says, no fold's choice.
SERVED = Features("as served for senses", BOTH.parts)
FEATURES = (ALONE, STATIC, STATIC_WHITENED, WORD, WORD_WHITENED, BOTH, BOTH_WHITENED)
FEW_SHOT_FEATURES = (STATIC, STATIC_WHITENED, WORD, WORD_WHITENED, BOTH, BOTH_WHITENED)


@dataclass(frozen=True, slots=True)
class Examples:
    """One split of one word: what the model gives, and the senses."""

    vectors: WordVectors
    senses: NDArray[np.int64]

    def part(self, part: Part, mix: Mix) -> Matrix:
        """(n, width), rows of length 1."""
        match part:
            case Part.WORD:
                rows = self.vectors.layers[list(mix)].mean(axis=0)
            case Part.SENTENCE:
                rows = self.vectors.sentence
            case Part.AVERAGE:
                rows = self.vectors.average
            case Part.ALONE:
                rows = self.vectors.alone
        return unit(rows.astype(np.float64))


@dataclass(frozen=True, slots=True)
class Word:
    """One word with the vectors of both splits."""

    word: str
    train: Examples
    test: Examples


def read_vectors(subject: Subject, words: Sequence[SenseWord], column: str) -> list[Word]:
    """Run the model over both splits of every word.

    Holds all layers of all words: 360 MB for six layers of 384 values and CoarseWSD-20.
    """
    total = sum(len(word.train.sentences) + len(word.test.sentences) for word in words)
    with counting(f"CoarseWSD-20 sentences, {column}", total) as advance:

        def examples(split: LabelledSentences) -> Examples:
            vectors = embed_words(subject, split.sentences, split.spans, advance)
            return Examples(vectors, split.senses)

        return [Word(word.word, examples(word.train), examples(word.test)) for word in words]


def thinned(words: Sequence[SenseWord], limit: int | None) -> list[SenseWord]:
    """At most `limit` sentences a split of each word, evenly spread over it."""
    if limit is None:
        return list(words)
    return [SenseWord(w.word, _thin(w.train, limit), _thin(w.test, limit)) for w in words]


def _thin(split: LabelledSentences, limit: int) -> LabelledSentences:
    size = len(split.sentences)
    rows = np.unique(np.linspace(0, size - 1, min(limit, size)).round().astype(int))
    return LabelledSentences(
        [split.sentences[row] for row in rows],
        [split.spans[row] for row in rows],
        split.senses[rows],
    )
