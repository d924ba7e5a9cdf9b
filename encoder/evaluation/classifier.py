"""Telling senses apart in closed form: nothing here is trained by steps, all of it by algebra.

Three parts, each without a setting to tune: the nearest sense centroid, linear discriminant
analysis with a shrunk covariance, and a whitening that is fitted without labels on other words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Matrix: TypeAlias = NDArray[np.float64]

_ROUNDING = 1e-9


class Rule(StrEnum):
    """The two classifiers."""

    NEAREST = "1NN"
    DISCRIMINANT = "LDA"


@dataclass(frozen=True, slots=True)
class SenseClassifier:
    """A linear rule: the sense whose score, vectors @ weights.T + bias, is highest."""

    senses: NDArray[np.int64]  # (senses,)
    weights: Matrix  # (senses, width)
    bias: Matrix  # (senses,)

    def scores(self, vectors: Matrix) -> Matrix:
        """(n, senses) for vectors (n, width); only their order within a row means anything."""
        return np.asarray(vectors @ self.weights.T + self.bias)

    def predict(self, vectors: Matrix) -> NDArray[np.int64]:
        """The sense of each of n vectors; of equal scores the lower sense."""
        return np.asarray(self.senses[self.scores(vectors).argmax(axis=1)])


def nearest_centroid(vectors: Matrix, senses: NDArray[np.int64]) -> SenseClassifier:
    """The nearest sense by cosine, a sense being the mean of its training vectors of length 1.

    It is what the CoarseWSD-20 paper calls 1NN (Loureiro et al. 2021): the one nearest sense
    vector, not the one nearest sentence.
    """
    classes, centroids, _ = _centroids(unit(vectors), senses)
    return SenseClassifier(classes, unit(centroids), np.zeros(len(classes)))


def discriminant(
    vectors: Matrix, senses: NDArray[np.int64], *, even_priors: bool = False
) -> SenseClassifier:
    """Linear discriminant analysis: Gaussian senses that share one covariance (Fisher 1936).

    The covariance is that of the vectors around their own sense's mean, shrunk towards a
    multiple of the identity by the share of Ledoit and Wolf 2004. With one example a sense
    there is no scatter, and the rule is the nearest centroid by distance.

    even_priors: hold all senses for equally frequent, as when so many of each were picked
    """
    classes, centroids, counts = _centroids(vectors, senses)
    scatter = vectors - centroids[np.searchsorted(classes, senses)]
    if np.abs(scatter).max() <= _ROUNDING * np.abs(vectors).max():
        scatter = np.zeros_like(scatter)  # what is left is rounding, and not to be inverted
    share, scale = shrinkage(scatter)
    weights = _solve(scatter, share, scale, centroids)
    priors = np.full(len(classes), 1 / len(classes)) if even_priors else counts / counts.sum()
    return SenseClassifier(
        classes, weights, np.log(priors) - np.sum(weights * centroids, axis=1) / 2
    )


def shrinkage(centred: Matrix) -> tuple[float, float]:
    """Ledoit and Wolf's share of the identity (0 to 1), and the identity's scale.

    centred: (n, width), of mean zero. The estimate of the covariance S = centred.T @ centred / n
    is (1 - share) * S + share * scale * I. Vectors that never differ give (1, 1).
    """
    n, width = centred.shape
    squares = np.sum(centred**2, axis=1)  # (n,)
    scale = float(squares.sum()) / n / width
    if scale <= np.finfo(np.float64).tiny:
        return 1.0, 1.0
    gram = centred @ centred.T if n < width else centred.T @ centred
    norm = float(np.sum(gram**2)) / n**2  # of S, squared; the same from either side
    distance = norm - width * scale**2
    error = (float(np.sum(squares**2)) / n - norm) / n
    return (min(error / distance, 1.0) if distance > 0 else 1.0), scale


def fit(
    rule: Rule, vectors: Matrix, senses: NDArray[np.int64], *, even_priors: bool = False
) -> SenseClassifier:
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


@dataclass(frozen=True, slots=True)
class Whitening:
    """One linear map for every word, which evens out the directions in which words vary."""

    mean: Matrix  # (width,)
    matrix: Matrix  # (width, width), symmetric

    @classmethod
    def fit(cls, words: Sequence[Matrix]) -> "Whitening":
        """Fit on words' vectors (n of the word, width), without a label.

        Each word is centred on its own mean, because what tells words apart must not count as
        noise, and weighs the same however frequent it is. The matrix is the inverse root of
        the shrunk covariance (ZCA). Raises ValueError if there are no vectors.
        """
        words = [word for word in words if len(word)]
        if not words:
            raise ValueError("a whitening needs vectors to be fitted on")
        rows_per_word = sum(len(word) for word in words) / len(words)
        centred = np.concatenate(
            [(word - word.mean(axis=0)) * np.sqrt(rows_per_word / len(word)) for word in words]
        )
        share, scale = shrinkage(centred)
        covariance = (1 - share) * (centred.T @ centred) / len(centred)
        covariance[np.diag_indices_from(covariance)] += share * scale
        variances, directions = np.linalg.eigh(covariance)
        mean = np.mean([word.mean(axis=0) for word in words], axis=0)
        return cls(mean, (directions / np.sqrt(variances)) @ directions.T)

    def apply(self, vectors: Matrix) -> Matrix:
        """Whitened vectors, (n, width)."""
        return np.asarray((vectors - self.mean) @ self.matrix)


def unit(vectors: Matrix) -> Matrix:
    """Each row at length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1))


def _centroids(
    vectors: Matrix, senses: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Matrix, NDArray[np.int64]]:
    if not len(vectors):
        raise ValueError("a sense classifier needs examples")
    classes, counts = np.unique(senses, return_counts=True)
    centroids = np.stack([vectors[senses == sense].mean(axis=0) for sense in classes])
    return classes, centroids, counts


def _solve(scatter: Matrix, share: float, scale: float, centroids: Matrix) -> Matrix:
    """Rows of inverse covariance times centroid, (senses, width)."""
    n, width = scatter.shape
    identity = share * scale
    if n >= width or identity == 0:
        covariance = (1 - share) * (scatter.T @ scatter) / n
        covariance[np.diag_indices(width)] += identity
        return np.asarray(np.linalg.solve(covariance, centroids.T).T)
    # Woodbury: a few examples need an (n, n) system, not a (width, width) one.
    system = (1 - share) * (scatter @ scatter.T)
    system[np.diag_indices(n)] += n * identity
    inner = np.linalg.solve(system, (1 - share) * (scatter @ centroids.T))
    return np.asarray((centroids - (scatter.T @ inner).T) / identity)
