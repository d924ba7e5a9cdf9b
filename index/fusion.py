"""Reciprocal-rank fusion (Cormack, Clarke and Büttcher 2009)."""

from __future__ import annotations

from collections.abc import Sequence

RRF_K = 60  # the paper's constant; it keeps a first place from outweighing everything


def reciprocal_rank_fusion(rankings: Sequence[Sequence[str]]) -> dict[str, float]:
    """The score of each id: the sum over rankings of 1 / (60 + rank), ranks from 1."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, id in enumerate(ranking, start=1):
            scores[id] = scores.get(id, 0.0) + 1 / (RRF_K + rank)
    return scores
