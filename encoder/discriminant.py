"""Telling classes apart in closed form: nothing here is trained by steps, all of it by algebra.

The nearest centroid, linear discriminant analysis with a shrunk covariance, and how sure to be of
the latter's answers. Numpy alone; the service and the evaluation use the same code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Matrix: TypeAlias = NDArray[np.float64]
Classes: TypeAlias = NDArray[np.int64]

SHARE_MIN = 1e-6  # of the identity in a covariance
_ROUNDING = 1e-9
_SHARPNESS_MIN, _SHARPNESS_MAX = -7.0, 7.0  # of the logarithm of 1 / temperature
_SHARPNESS_STEPS = 32  # of a search that each time keeps 0.62 of what is left

SHARES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 1.0)  # of the identity, that are tried
CHECKED_MIN = 4  # examples that can be left out; fewer say nothing


@dataclass(frozen=True, slots=True)
class LinearClassifier:
    """A linear rule: the class whose score, vectors @ weights.T + bias, is highest."""

    classes: Classes  # (classes,)
    weights: Matrix  # (classes, width)
    bias: Matrix  # (classes,)

    def scores(self, vectors: Matrix) -> Matrix:
        """(n, classes) for vectors (n, width); only differences within a row mean anything."""
        return np.asarray(vectors @ self.weights.T + self.bias)

    def predict(self, vectors: Matrix) -> Classes:
        """The class of each of n vectors; of equal scores the lower class."""
        return np.asarray(self.classes[self.scores(vectors).argmax(axis=1)])


def nearest_centroid(vectors: Matrix, classes: Classes) -> LinearClassifier:
    """The nearest class by cosine, a class being the mean of its training vectors of length 1.

    It is what the CoarseWSD-20 paper calls 1NN (Loureiro et al. 2021): the one nearest sense
    vector, not the one nearest sentence.
    """
    examples = _Examples.of(unit(vectors), classes)
    return LinearClassifier(
        examples.classes, unit(examples.centroids), np.zeros(len(examples.classes))
    )


def discriminant(
    vectors: Matrix, classes: Classes, *, even_priors: bool = False
) -> LinearClassifier:
    """Linear discriminant analysis: Gaussian classes that share one covariance (Fisher 1936).

    even_priors: hold all classes for equally frequent, as when so many of each were picked
    See `fitted_discriminant`.
    """
    return fitted_discriminant(vectors, classes, even_priors=even_priors).classifier


@dataclass(frozen=True, slots=True)
class Fitted:
    """A classifier, and what it says of each of its examples when that one is left out.

    left_out: (n, classes) scores; a row means nothing where
    checked:  (n,) is False: the only example of its class cannot be left out
    rows:     (n,) the column of each example's own class
    share:    of the identity in the covariance, 0 to 1
    """

    classifier: LinearClassifier
    left_out: Matrix
    checked: NDArray[np.bool_]
    rows: Classes
    share: float


def fitted_discriminant(vectors: Matrix, classes: Classes, *, even_priors: bool = False) -> Fitted:
    """As `discriminant`, with the scores of examples left out.

    The covariance is that of the vectors around their own class's mean, shrunk towards a multiple
    of the identity. Of SHARES and the share of Ledoit and Wolf 2004 that one is taken by which
    examples left out are told best, by cross-entropy; theirs where too few can be left out. With
    one example a class there is no scatter, and the rule is the nearest centroid by distance.
    """
    examples = _Examples.of(vectors, classes)
    checked = np.asarray(examples.counts[examples.rows] > 1)
    share, scale = shrinkage(examples.scatter)
    priors = examples.priors(even_priors)
    candidates = [share]
    if checked.sum() >= CHECKED_MIN and share < 1:
        candidates += [other for other in SHARES if other != share]
    tried = [_Covariance(examples.scatter, each, scale) for each in candidates]
    scores = [left_out_scores(examples, covariance, priors) for covariance in tried]
    best = 0
    if len(tried) > 1:
        own = examples.rows[checked]
        best = int(np.argmin([_loss_of(each[checked], own) for each in scores]))
    weights = tried[best].solve(examples.centroids)
    offsets = np.sum(weights * examples.centroids, axis=1) / 2
    classifier = LinearClassifier(examples.classes, weights, priors - offsets)
    return Fitted(classifier, scores[best], checked, examples.rows, tried[best].share)


def left_out_scores(examples: "_Examples", covariance: "_Covariance", priors: Matrix) -> Matrix:
    """The scores (n, classes) of each example by the discriminant of all others.

    The priors and the covariance's shrinkage stay those of all examples, so that one inverse
    serves all rows, each a rank-one change of it (Sherman and Morrison 1950).
    """
    rows, counts = examples.rows, examples.counts[examples.rows]  # (n,)
    solved = covariance.solve(examples.scatter)  # (n, width)
    squared = np.sum(solved * examples.scatter, axis=1)  # of each example's way from its centroid
    # From an example to a centroid leads: first to its own centroid, then to that one.
    gram = covariance.solve(examples.centroids) @ examples.centroids.T
    norms = np.diag(gram)
    between = norms[rows, None] + norms - 2 * gram[rows]  # (n, classes)
    across = solved @ examples.centroids.T  # (n, classes)
    across = np.take_along_axis(across, rows[:, None], axis=1) - across
    distances = squared[:, None] + 2 * across + between
    toward = squared[:, None] + across
    own = (np.arange(len(rows)), rows)
    away = counts / np.maximum(counts - 1, 1)  # a centroid without the example is so much farther
    distances[own], toward[own] = squared * away**2, squared * away
    removed = (1 - covariance.share) * away / len(rows)
    distances += removed[:, None] * toward**2 / (1 - removed * squared)[:, None]
    return np.asarray(priors - distances / 2)


def fitted_temperature(scores: Matrix, right: Classes) -> float:
    """What to divide scores (n, classes) by so that their softmax is as sure as it is right.

    right: (n,) the column of each row's class
    Minimises the cross-entropy (Guo et al. 2017) against targets that leave the wrong classes a
    share of 1 / (n + 2) (Platt 1999): a few examples, all right, are no proof of certainty.
    """
    loss = _loss_at(scores, right)
    return float(np.exp(-_lowest(loss, _SHARPNESS_MIN, _SHARPNESS_MAX)))


def _loss_of(scores: Matrix, right: Classes) -> float:
    """The cross-entropy at the fitted temperature."""
    return _loss_at(scores, right)(-float(np.log(fitted_temperature(scores, right))))


def _loss_at(scores: Matrix, right: Classes) -> Callable[[float], float]:
    """The cross-entropy by the logarithm of 1 / temperature."""
    n, classes = scores.shape
    wrong_share = 1 / (n + 2)
    targets = np.full(scores.shape, wrong_share / max(classes - 1, 1))
    targets[np.arange(n), right] = 1 - wrong_share

    def loss(sharpness: float) -> float:
        return -float(np.sum(targets * log_softmax(scores * np.exp(sharpness))))

    return loss


def log_softmax(scores: Matrix) -> Matrix:
    """The logarithms of each row's probabilities."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def shrinkage(centred: Matrix) -> tuple[float, float]:
    """Ledoit and Wolf's share of the identity (0 to 1), and the identity's scale.

    centred: (n, width), of mean zero. The estimate of the covariance S = centred.T @ centred / n
    is (1 - share) * S + share * scale * I. Vectors that never differ give (1, 1). The share is
    never nothing: of vectors that all lie on one line S has no inverse.
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
    share = error / distance if distance > 0 else 1.0
    return min(max(share, SHARE_MIN), 1.0), scale


def unit(vectors: Matrix) -> Matrix:
    """Each row at length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1))


@dataclass(frozen=True, slots=True)
class _Examples:
    """Training vectors by class."""

    classes: Classes  # (classes,), rising
    rows: Classes  # (n,) the place of each example's class among them
    counts: Classes  # (classes,)
    centroids: Matrix  # (classes, width)
    scatter: Matrix  # (n, width) each example seen from its centroid

    @classmethod
    def of(cls, vectors: Matrix, classes: Classes) -> "_Examples":
        if not len(vectors):
            raise ValueError("a sense classifier needs examples")
        known, rows, counts = np.unique(classes, return_inverse=True, return_counts=True)
        centroids = np.stack([vectors[rows == row].mean(axis=0) for row in range(len(known))])
        scatter = vectors - centroids[rows]
        if np.abs(scatter).max() <= _ROUNDING * np.abs(vectors).max():
            scatter = np.zeros_like(scatter)  # what is left is rounding, and not to be inverted
        return cls(known, rows, counts, centroids, scatter)

    def priors(self, even: bool) -> Matrix:
        """Logarithms of the classes' frequencies."""
        size = len(self.classes)
        return np.asarray(
            np.log(np.full(size, 1 / size) if even else self.counts / self.counts.sum())
        )


@dataclass(frozen=True, slots=True)
class _Covariance:
    """(1 - share) * scatter.T @ scatter / n + share * scale * I; not written out if n is small."""

    scatter: Matrix
    share: float
    scale: float

    def solve(self, vectors: Matrix) -> Matrix:
        """Rows of the inverse times each of `vectors`, (m, width)."""
        n, width = self.scatter.shape
        identity = self.share * self.scale
        if n >= width or identity == 0:
            covariance = (1 - self.share) * (self.scatter.T @ self.scatter) / n
            covariance[np.diag_indices(width)] += identity
            return np.asarray(np.linalg.solve(covariance, vectors.T).T)
        # Woodbury: a few examples need an (n, n) system, not a (width, width) one.
        system = (1 - self.share) * (self.scatter @ self.scatter.T)
        system[np.diag_indices(n)] += n * identity
        inner = np.linalg.solve(system, (1 - self.share) * (self.scatter @ vectors.T))
        return np.asarray((vectors - (self.scatter.T @ inner).T) / identity)


def _lowest(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley between `low` and `high` is lowest (golden section)."""
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(_SHARPNESS_STEPS):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if function(left) <= function(right):
            high = right
        else:
            low = left
    return (low + high) / 2
