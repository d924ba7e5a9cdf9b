"""Word senses judged on CoarseWSD-20: a closed-form classifier on one word's vectors, word by word.

What is chosen (the mix of layers, the whitening) is chosen on other words than it is scored on,
and on their training sentences alone: the words, in alphabetic order, fall in turn into two
folds, and each fold is scored with what the other one chose. No test sentence decides anything.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.discriminant import Matrix, discriminant, unit
from encoder.evaluation.classifier import Rule, draw, fit
from encoder.evaluation.features import WHITENED_PARTS, Examples, Features, Mix, Part, Word
from encoder.evaluation.scores import accuracy, macro_f1
from encoder.sense_space import SenseSpace
from encoder.whitening import Whitening

FOLDS = 2
HELD_OUT_EVERY = 5  # of a choosing word's training sentences, each fifth judges a mix
CHOICE_SHOTS = 3  # examples a sense, for the mix of whitened vectors
CHOICE_SEEDS = 3


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


def seen_in(space: SenseSpace, words: Sequence[Word]) -> list[Seen]:
    """The words as the service sees them, in the model's own sense space."""

    def matrix(examples: Examples) -> Matrix:
        vectors = examples.vectors
        return space.joined(vectors.layers[list(space.layers)].mean(axis=0), vectors.sentence)

    return [
        Seen(word.word, matrix(word.train), word.train.senses, matrix(word.test), word.test.senses)
        for word in words
    ]


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


def mixes(layers: int) -> list[Mix]:
    """The mixes that compete: the last four, three and two layers, all, and each by itself."""
    tails = [tuple(range(max(1, layers - size + 1), layers + 1)) for size in (4, 3, 2)]
    return list(dict.fromkeys([*tails, tuple(range(1, layers + 1)), *_single(layers)]))


def _single(layers: int) -> Iterator[Mix]:
    return ((layer,) for layer in range(layers, 0, -1))


def choose(words: Sequence[Word], layers: int) -> Choice:
    """The best mixes on `words`, by their training sentences alone; the first of equals.

    Four fifths of a word's training sentences teach, each fifth one judges, by macro-F1; words
    with fewer than five have no say. Plain vectors are judged with all of the examples, by both
    classifiers; whitened ones, which are for when examples are few, with CHOICE_SHOTS a sense, by
    LDA.
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
