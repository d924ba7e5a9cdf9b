"""The scorers: from predictions to one number. Each names the tool whose numbers it equals."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

RRF_K = 60  # Cormack, Clarke and Buettcher 2009: one first place must not outweigh everything
NDCG_RANKS = 10


def ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """The rank of each value, from 1, equal values sharing their mean rank (scipy's rankdata)."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], dtype=np.float64)


def spearman(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Spearman's rank correlation, -1 to 1 (scipy.stats.spearmanr).

    Raises ValueError for fewer than two pairs or when one side is constant: it has no ranking.
    """
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"{first.shape} and {second.shape} are not two lists of equal length")
    if len(first) < 2:
        raise ValueError(f"a rank correlation needs two pairs; there are {len(first)}")
    a, b = ranks(first), ranks(second)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    if not scale:
        raise ValueError("one side is constant: it has no ranking")
    return float(a @ b) / scale


def accuracy(gold: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """The share that is right, 0 to 1. Raises ValueError if there is nothing to judge."""
    if not len(gold):
        raise ValueError("there is nothing to judge")
    return float(np.mean(gold == predicted))


def macro_f1(gold: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """The mean over classes of F1, 0 to 1 (scikit-learn's f1_score, average="macro").

    A class counts if it occurs in either list, however rare it is.
    """
    classes = np.union1d(gold, predicted)
    if not len(classes):
        raise ValueError("there is nothing to judge")
    scores = []
    for label in classes:
        right = np.sum((gold == label) & (predicted == label))
        claimed_or_true = np.sum(gold == label) + np.sum(predicted == label)
        scores.append(2 * right / claimed_or_true)
    return float(np.mean(scores))


def recall(cosines: NDArray[np.floating], right: NDArray[np.int64], ranks: int) -> float:
    """How many find their one right document among the first `ranks`, 0 to 1.

    cosines: (queries, documents); right: (queries,) the right one's column
    Of documents that are equally near, the earlier comes first, as `retrieval.best` has it.
    """
    own = np.take_along_axis(cosines, right[:, np.newaxis], axis=1)
    earlier = np.arange(cosines.shape[1]) < right[:, np.newaxis]
    better = np.sum((cosines > own) | ((cosines == own) & earlier), axis=1)
    return float(np.mean(better < ranks))


def mining_f1(chosen: NDArray[np.int64]) -> float:
    """MTEB's score for bitext mining, 0 to 1; line i of each side translates line i of the other.

    chosen: (n,) for each source the target it chose
    It is scikit-learn's weighted F1 with the line numbers as classes: a target that several
    sources chose is worth less to the one that is right. At most the accuracy.
    """
    times_chosen = np.bincount(chosen, minlength=len(chosen))
    right = chosen == np.arange(len(chosen))
    return float(np.mean(np.where(right, 2 / (1 + times_chosen), 0.0)))


def ndcg(
    ranking: Sequence[str], relevance: Mapping[str, int], ranks_max: int = NDCG_RANKS
) -> float:
    """Normalised discounted cumulative gain of the first `ranks_max`, 0 to 1 (trec_eval, BEIR).

    The gain of a document is its grade itself, not 2**grade - 1; grades below 1 gain nothing.
    Raises ValueError if nothing is relevant: the score does not exist.
    """
    ideal = sorted((grade for grade in relevance.values() if grade > 0), reverse=True)
    if not ideal:
        raise ValueError("no document is relevant")
    gained = _discounted([max(0, relevance.get(id, 0)) for id in ranking[:ranks_max]])
    return gained / _discounted(ideal[:ranks_max])


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def fuse(rankings: Sequence[Sequence[str]], k: int = RRF_K) -> list[str]:
    """Reciprocal-rank fusion: ids by the sum of 1 / (k + rank), best first.

    Equal sums keep the order in which the rankings, first to last, name them.
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, id in enumerate(ranking, start=1):
            scores[id] = scores.get(id, 0.0) + 1 / (k + rank)
    return sorted(scores, key=lambda id: -scores[id])


def fuse_scores(
    dense: Sequence[tuple[str, float]], lexical: Sequence[tuple[str, float]], share: float
) -> list[str]:
    """As the server fuses: ids by `share` of the similarity and the rest of BM25, best first, ties
    by id.

    dense, lexical: ids with scores, best first. The last similarity of the list counts as 0 and
    the first as 1; BM25 as a share of the best; absent as 0.
    """
    scores: dict[str, float] = {}
    if dense:
        best, last = dense[0][1], dense[-1][1]
        for id, score in dense:
            scores[id] = share * ((score - last) / (best - last) if best > last else 1.0)
    for id, score in lexical:
        scores[id] = scores.get(id, 0.0) + (1 - share) * score / lexical[0][1]
    return sorted(scores, key=lambda id: (-scores[id], id))
