"""Scores that do not depend on how a document was found.

BLAS and FAISS add in an order that depends on shapes, threads and the processor, so one pair of
vectors can get scores that differ in the last bits. Whatever finds the candidates, the score that
counts is computed here: products of float32 values are exact in float64, and they are added by
halving, in one order on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from index.spec import Metric

# A vector this near to length 1 is kept as it came, so that its bytes come back unchanged.
UNIT_TOLERANCE = 1e-6


def dot(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, width) and (width,) or (n, width) → (n,), always the same bits for the same pair."""
    sums = vectors.astype(np.float64) * query.astype(np.float64)
    while (width := sums.shape[1]) > 1:
        half = width // 2
        folded = sums[:, :half] + sums[:, half : 2 * half]
        if width % 2:
            folded[:, 0] += sums[:, -1]
        sums = folded
    return sums[:, 0]


def rounding_error_max(width: int, norms_product: float) -> float:
    """How far a float32 inner product, added in any order, can be from the true one.

    Higham, Accuracy and Stability of Numerical Algorithms, 3.1: width * 2**-24 * |x||y|, here
    doubled for the terms of higher order.
    """
    return 2 * (width + 1) * 2.0**-24 * norms_product


def prepared(vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    """(n, width) as it is stored and searched: of length 1 where the metric is COSINE.

    The caller has checked that no row is of length 0.
    """
    if metric is Metric.DOT:
        return vectors
    lengths = np.sqrt(dot(vectors, vectors))
    off = np.abs(lengths - 1) > UNIT_TOLERANCE
    if not off.any():
        return vectors
    result = vectors.copy()
    result[off] = (vectors[off] / lengths[off, np.newaxis]).astype(np.float32)
    return result
