"""Word senses judged on CoarseWSD-20: a closed-form classifier on one word's vectors, word by word.

What is chosen (the mix of layers, the whitening) is chosen on other words than it is scored on,
and on their training sentences alone: the words, in alphabetic order, fall in turn into two
folds, and each fold is scored with what the other one chose. No test sentence decides anything.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from encoder.evaluation.classifier import (
    Matrix,
    SenseClassifier,
    Whitening,
    discriminant,
    nearest_centroid,
    unit,
)
from encoder.evaluation.data import LabelledSentences, SenseWord
from encoder.evaluation.scores import accuracy, macro_f1
from encoder.evaluation.vectors import Subject, WordVectors, counting, embed_words

FOLDS = 2
SHOTS = (1, 3, 10, 30)  # examples a sense
SHOT_SEEDS = 5
HELD_OUT_EVERY = 5  # of a development word's training sentences, each fifth judges a mix

CHOICE_SHOTS = 3
CHOICE_SEEDS = 3

Mix: TypeAlias = tuple[int, ...]  # layers whose mean is the word's vector


class Rule(StrEnum):
    """The two classifiers."""

    NEAREST = "1NN"
    DISCRIMINANT = "LDA"


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
ALONE = Features("static, the word alone", (Part.ALONE,))
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


@dataclass(frozen=True, slots=True)
class Choice:
    """The mixes of layers that words have chosen for other words."""

    plain: Mix
    whitened: Mix


@dataclass(frozen=True, slots=True)
class Fold:
    """Words to score, with the mixes and the whitenings that other words chose."""

    words: list[Word]
    choice: Choice
    whitenings: Mapping[Part, Whitening]

    def seen(self, features: Features) -> list["Seen"]:
        """What a classifier sees of each word."""
        return [
            Seen(
                word.word,
                self._matrix(word.train, features),
                word.train.senses,
                self._matrix(word.test, features),
                word.test.senses,
            )
            for word in self.words
        ]

    def _matrix(self, examples: Examples, features: Features) -> Matrix:
        return np.concatenate([self._part(examples, features, p) for p in features.parts], axis=1)

    def _part(self, examples: Examples, features: Features, part: Part) -> Matrix:
        if not features.whitened:
            return examples.part(part, self.choice.plain)
        rows = examples.part(part, self.choice.whitened)
        return unit(self.whitenings[part].apply(rows)) if part in self.whitenings else rows


@dataclass(frozen=True, slots=True)
class Seen:
    """One word as a classifier sees it: matrices (n, width of all parts), senses (n,)."""

    word: str
    train: Matrix
    train_senses: NDArray[np.int64]
    test: Matrix
    test_senses: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Judgement:
    """A classifier's answers for one word's test sentences."""

    word: str
    gold: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """0 to 1."""
        return accuracy(self.gold, self.predicted)

    @property
    def macro_f1(self) -> float:
        """0 to 1."""
        return macro_f1(self.gold, self.predicted)


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


def mixes(layers: int) -> list[Mix]:
    """The mixes that compete: the last four, three and two layers, all, and each by itself."""
    tails = [tuple(range(max(1, layers - size + 1), layers + 1)) for size in (4, 3, 2)]
    return list(dict.fromkeys([*tails, tuple(range(1, layers + 1)), *_single(layers)]))


def _single(layers: int) -> Iterator[Mix]:
    return ((layer,) for layer in range(layers, 0, -1))


def choose(words: Sequence[Word], layers: int) -> Choice:
    """The best mixes on `words`, by their training sentences alone; the first of equals.

    Four fifths of a word's training sentences teach, each fifth one judges, by macro-F1; words
    with fewer than five have no say. Plain
    vectors are judged with all of the examples, by both classifiers; whitened ones, which are for
    when examples are few, with CHOICE_SHOTS a sense, by LDA.
    """
    candidates = mixes(layers)
    words = [word for word in words if len(word.train.senses) >= HELD_OUT_EVERY]
    if not words:
        return Choice(candidates[0], candidates[0])
    return Choice(
        plain=max(candidates, key=lambda mix: plain_score(words, mix)),
        whitened=max(candidates, key=lambda mix: whitened_score(words, mix)),
    )


def plain_score(words: Sequence[Word], mix: Mix) -> float:
    """What the plain mix maximises, 0 to 1."""
    scores = []
    for word in words:
        rows, senses = word.train.part(Part.WORD, mix), word.train.senses
        judging = _judging(len(rows))
        for rule in Rule:
            classifier = fit(rule, rows[~judging], senses[~judging])
            scores.append(macro_f1(senses[judging], classifier.predict(rows[judging])))
    return float(np.mean(scores))


def whitened_score(words: Sequence[Word], mix: Mix) -> float:
    """What the whitened mix maximises, 0 to 1; the whitening is fitted on the same words."""
    parts = [word.train.part(Part.WORD, mix) for word in words]
    whitening = Whitening.fit(parts)
    scores = []
    for word, part in zip(words, parts, strict=True):
        rows, senses = unit(whitening.apply(part)), word.train.senses
        judging = _judging(len(rows))
        teaching = np.flatnonzero(~judging)
        for seed in range(CHOICE_SEEDS):
            random = np.random.default_rng([seed, CHOICE_SHOTS])
            few = teaching[draw(senses[teaching], CHOICE_SHOTS, random)]
            classifier = discriminant(rows[few], senses[few], even_priors=True)
            scores.append(macro_f1(senses[judging], classifier.predict(rows[judging])))
    return float(np.mean(scores))


def _judging(examples: int) -> NDArray[np.bool_]:
    return np.asarray(np.arange(examples) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1)


def folds(words: Sequence[Word], layers: int, chosen: Sequence[Choice] | None = None) -> list[Fold]:
    """Split `words`, and let each half choose for the other.

    chosen: what the folds chose in an earlier run (fp32), to be used here too
    """
    halves = [list(words[start::FOLDS]) for start in range(FOLDS)]
    made = []
    for number, half in enumerate(halves):
        others = [word for other in halves if other is not half for word in other] or half
        choice = chosen[number] if chosen else choose(others, layers)
        whitenings = {
            part: Whitening.fit([word.train.part(part, choice.whitened) for word in others])
            for part in WHITENED_PARTS
        }
        made.append(Fold(half, choice, whitenings))
    return made


def judge(seen: Sequence[Seen], rule: Rule) -> list[Judgement]:
    """Train on all training sentences of each word, answer for all its test sentences."""
    return [
        Judgement(
            word.word,
            word.test_senses,
            fit(rule, word.train, word.train_senses).predict(word.test),
        )
        for word in seen
    ]


def judge_few(seen: Sequence[Seen], rule: Rule, shots: int, seed: int) -> list[Judgement]:
    """The same with `shots` training sentences a sense, drawn by `seed`; fewer of a rarer sense."""
    judgements = []
    for word in seen:
        rows = draw(word.train_senses, shots, np.random.default_rng([seed, shots]))
        classifier = fit(rule, word.train[rows], word.train_senses[rows], even_priors=True)
        judgements.append(Judgement(word.word, word.test_senses, classifier.predict(word.test)))
    return judgements


def draw(senses: NDArray[np.int64], shots: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Rows of `shots` examples of each sense, or of all where there are fewer."""
    return np.concatenate(
        [random.permutation(np.flatnonzero(senses == s))[:shots] for s in np.unique(senses)]
    )


def fit(
    rule: Rule, vectors: Matrix, senses: NDArray[np.int64], *, even_priors: bool = False
) -> SenseClassifier:
    """Train one of the two classifiers."""
    match rule:
        case Rule.NEAREST:
            return nearest_centroid(vectors, senses)
        case Rule.DISCRIMINANT:
            return discriminant(vectors, senses, even_priors=even_priors)


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
