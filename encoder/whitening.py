"""Evening out the directions in which words vary: one linear map for all words. Numpy alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encoder.discriminant import Matrix, shrinkage


@dataclass(frozen=True, slots=True)
class Whitening:
    """One linear map for every word, which evens out the directions in which words vary."""

    mean: Matrix  # (width,)
    matrix: Matrix  # (width, width), symmetric

    @classmethod
    def fit(cls, groups: Sequence[Matrix], *, strength: float = 1.0) -> "Whitening":
        """Fit on vectors in groups (n of the group, width), without a label.

        A group is a word, or a word in one document. Each is centred on its own mean, because
        what tells groups apart must not count as noise, and weighs the same however large it is.
        The matrix is the inverse root of the shrunk covariance (ZCA).

        strength: 1 makes all directions vary alike; 0.5 goes half the way, by the fourth root
        Raises ValueError if there are no vectors.
        """
        groups = [group for group in groups if len(group)]
        if not groups:
            raise ValueError("a whitening needs vectors to be fitted on")
        rows_per_group = sum(len(group) for group in groups) / len(groups)
        centred = np.concatenate(
            [
                (group - group.mean(axis=0)) * np.sqrt(rows_per_group / len(group))
                for group in groups
            ]
        )
        share, scale = shrinkage(centred)
        covariance = (1 - share) * (centred.T @ centred) / len(centred)
        covariance[np.diag_indices_from(covariance)] += share * scale
        variances, directions = np.linalg.eigh(covariance)
        mean = np.mean([group.mean(axis=0) for group in groups], axis=0)
        return cls(mean, (directions * variances ** (-strength / 2)) @ directions.T)

    def apply(self, vectors: Matrix) -> Matrix:
        """Whitened vectors, (n, width)."""
        return np.asarray((vectors - self.mean) @ self.matrix)
