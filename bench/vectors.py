"""Vectors to measure with: real ones, and as many more as are wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
NEIGHBOURS = 64  # how far apart, in the order of the text, the parents of a mixture stand
NOISE = 0.25  # of a mixture's length: what a sentence has beside what its neighbours say
QUERIES = 256
SEED = 11


def corpus_and_queries(real: Path, count: int) -> tuple[Vectors, Vectors, str]:
    """`count` vectors, QUERIES real ones that are not among them, and where they came from.

    real: a .npy file of (n, width) vectors of length 1, in the order of their texts, as
          bench/service.py keeps it
    What is missing to `count` is mixed: two real vectors from nearby sentences, in a random
    proportion, plus noise with the real vectors' covariance. Such vectors lie where real ones
    lie, denser; drawing them at random would make search easier or harder than it is.
    """
    known: Vectors = np.load(real, mmap_mode="r")
    queries = np.array(known[-QUERIES:])
    base = np.array(known[:-QUERIES][:count])
    missing = count - len(base)
    if missing <= 0:
        return base, queries, f"{count:,} real vectors"
    corpus = np.empty((count, base.shape[1]), np.float32)
    corpus[: len(base)] = base
    chance = np.random.default_rng(SEED)
    spread = np.linalg.cholesky(np.cov(base, rowvar=False) + 1e-6 * np.eye(base.shape[1]))
    for start in range(len(base), count, 50_000):
        stop = min(start + 50_000, count)
        corpus[start:stop] = _mixed(base, stop - start, spread.astype(np.float32), chance)
    return corpus, queries, f"{len(base):,} real vectors and {missing:,} mixed of them"


def _mixed(base: Vectors, count: int, spread: Vectors, chance: np.random.Generator) -> Vectors:
    first = chance.integers(0, len(base), count)
    second = (first + chance.integers(1, NEIGHBOURS, count)) % len(base)
    share = chance.random((count, 1), np.float32)
    mixture = share * base[first] + (1 - share) * base[second]
    noise = chance.standard_normal((count, base.shape[1]), np.float32) @ spread.T
    noise *= NOISE / np.linalg.norm(noise, axis=1, keepdims=True)
    vectors = mixture / np.linalg.norm(mixture, axis=1, keepdims=True) + noise
    result: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return result


def truth(
    corpus: Vectors, queries: Vectors, k: int, allowed: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """(queries, k) positions of the true nearest, among `allowed` ones if given."""
    best = np.full((len(queries), k), -np.inf, np.float32)
    where = np.full((len(queries), k), -1, np.int64)
    for start in range(0, len(corpus), 50_000):
        scores = queries @ corpus[start : start + 50_000].T
        if allowed is not None:
            scores[:, ~allowed[start : start + 50_000]] = -np.inf
        positions = np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)
        scores = np.concatenate([best, scores], axis=1)
        positions = np.concatenate([where, positions], axis=1)
        chosen = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        best = np.take_along_axis(scores, chosen, axis=1)
        where = np.take_along_axis(positions, chosen, axis=1)
    return where


def recall(found: list[list[int]], true: NDArray[np.int64]) -> float:
    """The share of the true nearest that was found."""
    pairs = zip(found, true.tolist(), strict=True)
    return float(np.mean([len(set(got) & set(want)) / len(want) for got, want in pairs]))
