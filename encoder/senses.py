"""Sense inventories: which senses a word has, learnt from a few sentences, and told by algebra.

A word's senses are fitted on vectors of labelled uses (`encoder.sense_space`) by linear
discriminant analysis; of one example each they are the nearest centroid. What comes out is small:
a row of weights a sense, which whoever fitted it keeps. Pure functions.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.discriminant import (
    CHECKED_MIN,
    Matrix,
    fitted_discriminant,
    fitted_temperature,
    log_softmax,
)

SENSES_MIN = 2  # with one there is nothing to tell apart
# Left out, one of two or three examples is judged by too little: on CoarseWSD-20 with MiniLM 70 %
# of three were told right, and 84 % of the test sentences; of ten, 90 % and 91 %.
CHECKED_OF_SENSE_MIN = 4


class SensesInvalid(ValueError):
    """These examples teach no senses, or these senses cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Sense:
    """A sense, by the name its teacher gave it."""

    name: str
    examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WordSenses:
    """The senses of one word.

    weights:     (senses, width), and
    bias:        (senses,): a sense's score is weights @ vector + bias
    temperature: what scores are divided by before their softmax
    checked:     examples left out and classified by the others, of senses that have enough; 0: too
                 few to say how good the senses are, and probabilities are too modest then
    right:       how many of those got their own sense
    forms:       other spellings of the word, case folded
    """

    word: str
    senses: tuple[Sense, ...]
    weights: NDArray[np.float32]
    bias: NDArray[np.float64]
    temperature: float = 1.0
    checked: int = 0
    right: int = 0
    forms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises SensesInvalid."""
        names = Counter(sense.name for sense in self.senses)
        if len(self.senses) < SENSES_MIN:
            raise SensesInvalid(f"{self.word!r} has {_senses(self.senses)}; give two or more")
        if names.most_common(1)[0][1] > 1:
            raise SensesInvalid(f"sense {names.most_common(1)[0][0]!r} is there twice")
        if self.weights.ndim != 2 or len(self.weights) != len(self.senses):
            shape, count = self.weights.shape, len(self.senses)
            raise SensesInvalid(f"weights of shape {shape} do not fit {count} senses")
        if self.bias.shape != (len(self.senses),):
            raise SensesInvalid(f"{self.bias.size} biases do not fit {len(self.senses)} senses")
        if not (np.isfinite(self.weights).all() and np.isfinite(self.bias).all()):
            raise SensesInvalid("a weight or bias is not a finite number")
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise SensesInvalid(f"temperature {self.temperature} is not above 0")

    @property
    def width(self) -> int:
        """Length of the vectors that can be classified."""
        return int(self.weights.shape[1])

    @property
    def calibrated(self) -> bool:
        """Whether probabilities are meant as frequencies; otherwise they are too modest."""
        return self.checked > 0

    def probabilities(self, vectors: NDArray[np.floating]) -> Matrix:
        """(n, senses) for vectors (n, width); each row sums to one."""
        scores = vectors.astype(np.float64) @ self.weights.T.astype(np.float64) + self.bias
        return np.asarray(np.exp(log_softmax(scores / self.temperature)))


def fit(
    word: str,
    vectors: NDArray[np.floating],
    labels: Sequence[str],
    *,
    counted_priors: bool = False,
) -> WordSenses:
    """The senses of `word`, in the order of their names, learnt from uses with their labels.

    vectors:        (uses, width)
    labels:         the sense of each use
    counted_priors: hold senses for as frequent as their examples are; otherwise all alike
    Raises SensesInvalid for one sense alone, for vectors that are not finite, and for as many
    labels as there are not vectors.
    """
    if len(labels) != len(vectors):
        raise SensesInvalid(f"{len(labels)} labels for {len(vectors)} vectors")
    if not np.isfinite(vectors).all():
        raise SensesInvalid("a vector holds a number that is not finite")
    names, classes = np.unique(np.array(labels, dtype=object), return_inverse=True)
    senses = tuple(
        Sense(str(name), int(count))
        for name, count in zip(names, np.bincount(classes, minlength=len(names)), strict=True)
    )
    if len(senses) < SENSES_MIN:
        raise SensesInvalid(f"{word!r} has {_senses(senses)}; give two or more")
    fitted = fitted_discriminant(
        vectors.astype(np.float64), classes, even_priors=not counted_priors
    )
    temperature = 1.0
    if fitted.checked.sum() >= CHECKED_MIN:
        temperature = fitted_temperature(fitted.left_out[fitted.checked], classes[fitted.checked])
    counts = np.bincount(classes)
    checked = counts[classes] >= CHECKED_OF_SENSE_MIN
    right = checked & (fitted.left_out.argmax(axis=1) == classes)
    return WordSenses(
        word=word,
        senses=senses,
        weights=fitted.classifier.weights.astype(np.float32),
        bias=fitted.classifier.bias,
        temperature=temperature,
        checked=int(checked.sum()),
        right=int(right.sum()),
    )


def margin(probabilities: Matrix) -> Matrix:
    """How far the most probable sense is ahead of the next, 0 to 1: (n,) of (n, senses)."""
    ordered = np.sort(probabilities, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def _senses(senses: Sequence[Sense]) -> str:
    return f"one sense, {senses[0].name!r}" if senses else "no sense"
