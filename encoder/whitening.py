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
