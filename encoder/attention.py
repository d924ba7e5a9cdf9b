"""What is made of attention once the model has given it. Pure functions.

Letters: L layers, H heads, T tokens, R the rows that are kept. Every row of a head sums to one.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def head_mean(attention: Floats) -> Floats:
    """The mean of the heads, (L, T, T), of (L, H, T, T); its rows sum to one too."""
    return np.asarray(attention.mean(axis=1), dtype=np.float32)


def rollout(attention: Floats) -> Floats:
    """How much of each input token has come to each token by each layer, (L, T, T).

    attention: (L, H, T, T), all layers from the first on

    Abnar and Zuidema 2020: the product of the layers, each the mean of its heads. The residual
    connection is half of what a token takes on, its attention the other half (their 0.5 A +
    0.5 I); what norms and feed-forward layers do to the shares is left out, as it is there.
    """
    means = head_mean(attention).astype(np.float64)
    mixed = 0.5 * means + 0.5 * np.eye(means.shape[-1])
    rolled = [mixed[0]] if len(mixed) else []
    for layer in mixed[1:]:
        rolled.append(layer @ rolled[-1])
    return np.asarray(rolled, dtype=np.float32).reshape(means.shape)


def strongest(shares: Floats, count: int) -> list[tuple[int, int, float]]:
    """The `count` largest of each row of (R, T), as (row, column, share).

    Row after row, and in a row the largest first; of equal ones the earlier column.
    """
    order = np.argsort(-shares, axis=1, kind="stable")[:, :count]
    return [
        (row, column, float(shares[row, column]))
        for row, columns in enumerate(order.tolist())
        for column in columns
    ]
