"""The two classifiers that the evaluation compares, and draws of few examples for them."""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from encoder.discriminant import LinearClassifier, Matrix, discriminant, nearest_centroid


class Rule(StrEnum):
    """The two classifiers."""

    NEAREST = "1NN"
    DISCRIMINANT = "LDA"


def fit(
    rule: Rule, vectors: Matrix, senses: NDArray[np.int64], *, even_priors: bool = False
) -> LinearClassifier:
    """Train one of the two classifiers."""
    match rule:
        case Rule.NEAREST:
            return nearest_centroid(vectors, senses)
        case Rule.DISCRIMINANT:
            return discriminant(vectors, senses, even_priors=even_priors)


def draw(senses: NDArray[np.int64], shots: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Rows of `shots` examples of each sense, or of all where there are fewer."""
    return np.concatenate(
        [random.permutation(np.flatnonzero(senses == s))[:shots] for s in np.unique(senses)]
    )
