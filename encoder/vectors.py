"""From a text's token states to its vector, and a vector's finishing touches. Pure functions."""

import numpy as np
from numpy.typing import NDArray

from encoder.config import Pooling


def pool(states: NDArray[np.float32], pooling: Pooling) -> NDArray[np.float32]:
    """One vector (width,) of a window's token states (tokens, width)."""
    match pooling:
        case Pooling.MEAN:
            vector = states.mean(axis=0)
        case Pooling.CLS:
            vector = states[0]
        case Pooling.MAX:
            vector = states.max(axis=0)
    return np.ascontiguousarray(vector, dtype=np.float32)


def normalize(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row to length 1; a row of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def finish(vectors: NDArray[np.float32], dimensions: int, normalized: bool) -> NDArray[np.float32]:
    """The first `dimensions` values of each row (Matryoshka), scaled to length 1 if `normalized`.

    Raises ValueError if the rows are shorter than that.
    """
    if not 1 <= dimensions <= vectors.shape[-1]:
        raise ValueError(f"dimensions {dimensions} is not in 1 to {vectors.shape[-1]}")
    cut = np.ascontiguousarray(vectors[..., :dimensions])
    return normalize(cut) if normalized else cut
