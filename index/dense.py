"""Nearest vectors in a generation: candidates found quickly, then scored in the one true way.

Whatever proposes candidates, float32 products say which of them rounding could put among the k
best, and only these few are scored in float64 (index/scoring.py). All queries of a call go
through each step together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.generation import Generation, Part
from index.scoring import dot, rounding_error_max
from index.settings import StoreSettings
from index.vectors import (
    VectorIndex,
    inner_products,
    inner_products_at,
    inner_products_of_each,
    threads_for,
)

GATHER_SHARE = 4  # comparing one in so many vectors costs as much as comparing all in a row
SCORED_VECTORS = 2_048  # scored at once in float64: 6 MiB at 384 values
COMPARED_MAX = 1 << 22  # products held at once when every vector is compared: 16 MiB

Ranked = tuple[NDArray[np.int64], NDArray[np.float64]]  # rows and scores, best first
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Near:
    """Vectors of one part that may be among the k nearest: pairs of a query and a position.

    scores: their float32 products
    """

    part: Part
    queries: NDArray[np.int64]
    positions: NDArray[np.int64]
    scores: NDArray[np.float32]

    def where(self, kept: NDArray[np.bool_]) -> Near:
        return Near(self.part, self.queries[kept], self.positions[kept], self.scores[kept])


@dataclass(slots=True)
class Proposal:
    """What an index says: for each query its likely nearest; positions of -1 are no proposals.

    scores, positions: (queries, candidates); the scores are those of compressed vectors
    lost: (queries,), who got fewer than k because a graph lost its way among the dead
    """

    part: Part
    index: VectorIndex
    scores: Vectors
    positions: NDArray[np.int64]
    lost: NDArray[np.bool_]


def nearest(generation: Generation, query: Vectors, k: int, settings: StoreSettings) -> Ranked:
    """The likely k nearest rows; all of them when fewer than k live."""
    return nearest_to_each(generation, query[np.newaxis], k, settings)[0]


def nearest_to_each(
    generation: Generation, queries: Vectors, k: int, settings: StoreSettings
) -> list[Ranked]:
    """`nearest` for each of (n, width) queries."""
    near: list[Near] = []
    proposals = []
    for part in generation.live_parts:
        if part.index is None or part.live <= k:
            near += _compared(part, queries, k, None)
        else:
            proposals.append(_proposal(part, part.index, queries, k, settings))
    scans = [proposal for proposal in proposals if proposal.index.kind == "scan"]
    _keep_best(scans, settings.scan_candidates(k))
    for proposal in proposals:
        near += _checked(proposal, queries, k, threads_for(len(queries), settings))
    return _ranked(near, queries, k)


def nearest_exactly(
    generation: Generation,
    query: Vectors,
    k: int,
    allowed: NDArray[np.int64] | None = None,
) -> Ranked:
    """The true k nearest rows, among the rising `allowed` ones if they are given."""
    queries = query[np.newaxis]
    near = [
        found for part in generation.live_parts for found in _compared(part, queries, k, allowed)
    ]
    return _ranked(near, queries, k)[0]


def _proposal(
    part: Part, index: VectorIndex, queries: Vectors, k: int, settings: StoreSettings
) -> Proposal:
    wanted = settings.candidates(k) if index.kind == "graph" else settings.scan_candidates(k)
    count = wanted + (wanted * part.dead) // part.live
    scores, positions = index.candidates(queries, count, part.alive if part.dead else None)
    if part.dead:
        positions = np.where(part.alive[positions], positions, -1)
    lost = np.count_nonzero(positions >= 0, axis=1) < k
    return Proposal(part, index, scores, positions, lost)


def _keep_best(proposals: Sequence[Proposal], wanted: int) -> None:
    """Of each query's proposals from all parts keep the `wanted` best: the true nearest are
    among them as they would be in one part of all vectors."""
    if len(proposals) < 2:
        return
    scores = [np.where(found.positions >= 0, found.scores, -np.inf) for found in proposals]
    together = np.concatenate(scores, axis=1)
    if together.shape[1] <= wanted:
        return
    last = together.shape[1] - wanted
    thresholds = np.partition(together, last, axis=1)[:, last, np.newaxis]
    for found, own in zip(proposals, scores, strict=True):
        found.positions = np.where(own >= thresholds, found.positions, -1)


def _checked(proposal: Proposal, queries: Vectors, k: int, threads: int) -> Iterator[Near]:
    """Of what is proposed, or for the lost of all, what is among each query's k nearest."""
    part, positions = proposal.part, proposal.positions
    if proposal.lost.any():
        positions = np.where(proposal.lost[:, np.newaxis], -1, positions)
    scores = inner_products_of_each(part.vectors, queries, positions, threads)
    yield _best(part, scores, positions, k, _error_max(part, queries))
    for row in np.flatnonzero(proposal.lost).tolist():
        for near in _compared(part, queries[row : row + 1], k, None):
            yield Near(part, near.queries + row, near.positions, near.scores)


def _compared(
    part: Part, queries: Vectors, k: int, allowed: NDArray[np.int64] | None
) -> Iterator[Near]:
    """The true k nearest of `part`, or of its `allowed` rows, by comparing every vector."""
    chosen: NDArray[np.int64] = (
        np.flatnonzero(part.alive) if allowed is None else part.positions(allowed)
    )
    if not len(chosen):
        return
    step = max(1, COMPARED_MAX // len(part.rows))
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        scores = _products(part, block, chosen)
        positions = np.broadcast_to(chosen, scores.shape)
        near = _best(part, scores, positions, k, _error_max(part, block))
        yield Near(part, near.queries + start, near.positions, near.scores)


def _products(part: Part, queries: Vectors, chosen: NDArray[np.int64]) -> Vectors:
    """(queries, chosen): of each query with each chosen vector."""
    if len(queries) > 1:
        # A matrix product reads the vectors once for all queries.
        vectors = part.vectors if len(chosen) == len(part.rows) else part.vectors[chosen]
        return queries @ vectors.T
    if len(chosen) > len(part.rows) // GATHER_SHARE:
        scores = inner_products(part.vectors, queries[0])
        return (scores if len(chosen) == len(scores) else scores[chosen])[np.newaxis]
    return inner_products_at(part.vectors, queries[0], chosen)[np.newaxis]


def _best(
    part: Part, scores: Vectors, positions: NDArray[np.int64], k: int, error_max: float
) -> Near:
    """Of each row of `scores`, what rounding could put among the k best.

    scores, positions: (queries, candidates); a position of -1 has the score minus infinity
    """
    kept = scores > -np.inf
    if scores.shape[1] > k:
        last = scores.shape[1] - k
        thresholds = np.partition(scores, last, axis=1)[:, last, np.newaxis]
        kept &= scores >= thresholds - 2 * error_max
    rows, columns = np.nonzero(kept)
    return Near(part, rows, positions[rows, columns], scores[rows, columns])


def _error_max(part: Part, queries: Vectors) -> float:
    """How far a float32 product of these queries with a vector of `part` can be off."""
    longest = float(np.sqrt(np.einsum("ij,ij->i", queries, queries).max(initial=0.0)))
    return rounding_error_max(queries.shape[1], part.length_max * longest * 1.001)


def _ranked(near: Sequence[Near], queries: Vectors, k: int) -> list[Ranked]:
    """For each query the k best of all parts, and whatever ties with the last of them; equal
    scores by row."""
    near = _best_of_all(near, queries, k)
    if not near:
        return [(np.empty(0, np.int64), np.empty(0)) for _ in queries]
    asker = np.concatenate([found.queries for found in near])
    rows = np.concatenate([found.part.rows[found.positions] for found in near])
    scores = np.concatenate([_scored(found, queries) for found in near])
    order = np.lexsort((rows, -scores, asker))
    rows, scores = rows[order], scores[order]
    ends = np.cumsum(np.bincount(asker, minlength=len(queries))).tolist()
    starts = [0, *ends[:-1]]
    return [
        _first(rows[start:end], scores[start:end], k)
        for start, end in zip(starts, ends, strict=True)
    ]


def _first(rows: NDArray[np.int64], scores: NDArray[np.float64], k: int) -> Ranked:
    if len(rows) > k and scores[k - 1] > scores[k]:
        return rows[:k], scores[:k]
    if len(rows) > k:
        end = int(np.searchsorted(-scores, -scores[k - 1], side="right"))
        return rows[:end], scores[:end]
    return rows, scores


def _best_of_all(near: Sequence[Near], queries: Vectors, k: int) -> Sequence[Near]:
    """What is among each query's k best of all parts, no longer only of its own part."""
    if len(near) < 2:
        return near
    asker = np.concatenate([found.queries for found in near])
    scores = np.concatenate([found.scores for found in near])
    order = np.lexsort((-scores, asker))
    counts = np.bincount(asker, minlength=len(queries))
    last = np.cumsum(counts) - counts + np.minimum(counts, k) - 1
    thresholds = np.full(len(queries), -np.inf)
    asked = counts > 0
    thresholds[asked] = scores[order[last[asked]]]
    margin = 2 * max(_error_max(found.part, queries) for found in near)
    return [found.where(found.scores >= thresholds[found.queries] - margin) for found in near]


def _scored(near: Near, queries: Vectors) -> NDArray[np.float64]:
    blocks = [
        dot(
            near.part.vectors[near.positions[start : start + SCORED_VECTORS]],
            queries[near.queries[start : start + SCORED_VECTORS]],
        )
        for start in range(0, len(near.positions), SCORED_VECTORS)
    ]
    return np.concatenate([np.empty(0), *blocks])
