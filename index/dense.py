"""Nearest vectors in a generation: candidates found quickly, then scored in the one true way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from index.generation import Generation, Part
from index.scoring import dot, rounding_error_max
from index.settings import StoreSettings
from index.vectors import inner_products, inner_products_at

GATHER_SHARE = 4  # comparing one in so many vectors costs as much as comparing all in a row
SCORED_VECTORS = 2_048  # scored at once in float64: 6 MiB at 384 values

Ranked = tuple[NDArray[np.int64], NDArray[np.float64]]  # rows and scores, best first


def nearest(
    generation: Generation, query: NDArray[np.float32], k: int, settings: StoreSettings
) -> Ranked:
    """The likely k nearest rows; all of them when fewer than k live."""
    return nearest_to_each(generation, query[np.newaxis], k, settings)[0]


def nearest_to_each(
    generation: Generation, queries: NDArray[np.float32], k: int, settings: StoreSettings
) -> list[Ranked]:
    """`nearest` for each of (n, width) queries."""
    found: list[list[Ranked]] = [[] for _ in queries]
    for part in generation.live_parts:
        proposals = _proposals(part, queries, k, settings)
        for answers, positions, query in zip(found, proposals, queries, strict=True):
            answers.append(_scored(part, positions, query))
    return [merged(answers, k) for answers in found]


def nearest_exactly(
    generation: Generation,
    query: NDArray[np.float32],
    k: int,
    allowed: NDArray[np.int64] | None = None,
) -> Ranked:
    """The true k nearest rows, among the rising `allowed` ones if they are given."""
    return merged(
        [_scored(part, _exact(part, query, k, allowed), query) for part in generation.live_parts], k
    )


def merged(answers: Sequence[Ranked], k: int) -> Ranked:
    """The k best of all, and whatever ties with the last of them; equal scores by row."""
    if not answers:
        return np.empty(0, np.int64), np.empty(0)
    rows = np.concatenate([rows for rows, _ in answers])
    scores = np.concatenate([scores for _, scores in answers])
    order = np.lexsort((rows, -scores))
    rows, scores = rows[order], scores[order]
    if len(rows) > k:
        end = int(np.searchsorted(-scores, -scores[k - 1], side="right"))
        rows, scores = rows[:end], scores[:end]
    return rows, scores


def _scored(part: Part, positions: NDArray[np.int64], query: NDArray[np.float32]) -> Ranked:
    scores = [
        dot(part.vectors[positions[start : start + SCORED_VECTORS]], query)
        for start in range(0, len(positions), SCORED_VECTORS)
    ]
    return part.rows[positions], np.concatenate([np.empty(0), *scores])


def _proposals(
    part: Part, queries: NDArray[np.float32], k: int, settings: StoreSettings
) -> list[NDArray[np.int64]]:
    """For each query, live positions that most likely hold its k nearest."""
    if part.index is None or part.live <= k:
        return [_exact(part, query, k, None) for query in queries]
    wanted = max(settings.candidates_min, settings.candidates_factor * k)
    count = wanted + (wanted * part.dead) // part.live
    alive = part.alive if part.dead else None
    proposed = part.index.candidates(queries, count, alive)
    lived = [row[(row >= 0) & part.alive[row]] for row in proposed]
    # A graph may lose its way among the dead; whoever got fewer than k is answered exactly.
    return [
        positions if len(positions) >= k else _exact(part, query, k, None)
        for positions, query in zip(lived, queries, strict=True)
    ]


def _exact(
    part: Part, query: NDArray[np.float32], k: int, allowed: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Live positions that hold the true k nearest: those that rounding could put among them."""
    chosen: NDArray[np.int64] = (
        np.flatnonzero(part.alive) if allowed is None else part.positions(allowed)
    )
    if len(chosen) <= k:
        return chosen
    if len(chosen) > len(part.rows) // GATHER_SHARE:
        scores = inner_products(part.vectors, query)[chosen]
    else:
        scores = inner_products_at(part.vectors, query, chosen)
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    norms = part.length_max * float(np.linalg.norm(query))
    near: NDArray[np.bool_] = scores >= threshold - 2 * rounding_error_max(len(query), norms)
    return chosen[near]
