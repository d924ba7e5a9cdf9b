"""How good sentence vectors are, while they are learnt: held-out pairs, and graded ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from encoder.evaluation.data import DataMissing, GradedPairs, read_graded_pairs
from encoder.evaluation.scores import spearman
from encoder.runtime import normalize
from encoder.training.sentence_pairs import Kind
from encoder.training.sentence_vectors import Vectors

EVALUATION_PAIRS_MAX = 500  # of each kind

Embed: TypeAlias = Callable[[Sequence[str]], NDArray[np.float32]]  # (texts, width), of length 1


@dataclass(frozen=True, slots=True)
class SentenceScores:
    """On held-out pairs of one kind.

    cosine: the mean of vector times teacher's vector, over second texts
    found:  the share of second texts that find their first as the nearest of all, in percent
    """

    cosine: float
    found: float


def held_out_pairs(kind: Kind) -> list[tuple[str, str]]:
    """At most EVALUATION_PAIRS_MAX, spread over all of the kind's."""
    return list(kind.held_out[:: max(1, -(-len(kind.held_out) // EVALUATION_PAIRS_MAX))])


def score_pairs(kind: Kind, vectors: Vectors, embed: Embed) -> SentenceScores:
    """Judge the vectors of a kind's held-out pairs, of which there must be one."""
    pairs = held_out_pairs(kind)
    both = embed([first for first, _ in pairs] + [second for _, second in pairs])
    firsts, seconds = both[: len(pairs)], both[len(pairs) :]
    read = [first if kind.same else second for first, second in pairs]
    target = vectors.read(vectors.rows(read))
    nearest = (seconds @ firsts.T).argmax(axis=1)
    right = float(np.mean(nearest == np.arange(len(pairs))))
    cosine = float((seconds * target).sum(axis=-1).mean())
    return SentenceScores(round(cosine, 4), round(100 * right, 1))


def load_graded(data: Path) -> dict[str, GradedPairs]:
    """The dev sets of STS-B that are in a folder of evaluation data, by language.

    Raises DataMissing if there is none, DataMalformed.
    """
    files = {
        language: data / "sts" / "stsb" / f"stsb-{language}-dev.tsv"
        for language in ("en", "de", "fr")
    }
    found: dict[str, GradedPairs] = {}
    for language, file in files.items():
        try:
            found[language] = read_graded_pairs(file)
        except DataMissing:
            continue
    if not found:
        raise DataMissing(files["en"])
    return found


def score_graded(graded: GradedPairs, embed: Embed, dimensions: Sequence[int]) -> dict[str, float]:
    """Spearman's correlation of cosine and grade, times 100, by how long the vectors are cut."""
    vectors = embed([*graded.first, *graded.second])
    scores = {}
    for cut in sorted({min(d, vectors.shape[1]) for d in dimensions}, reverse=True):
        short = normalize(vectors[:, :cut])
        first, second = short[: len(graded.first)], short[len(graded.first) :]
        scores[str(cut)] = round(100 * spearman((first * second).sum(axis=1), graded.grades), 2)
    return scores
