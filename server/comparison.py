"""How one kind of vector sees several sentences that share a word. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.runtime import normalize

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class View:
    """Cosines and ranks, (sentences, sentences), and what they say of the labelled senses.

    None where there is no pair, or no sentence, to take the mean of.
    """

    similarities: Floats
    ranks: Floats
    same_sense_mean: float | None
    other_sense_mean: float | None
    nearest_same_sense: float | None

    @property
    def margin(self) -> float | None:
        """Above 0, the vectors tell the senses apart."""
        if self.same_sense_mean is None or self.other_sense_mean is None:
            return None
        return self.same_sense_mean - self.other_sense_mean


def view_of(vectors: Floats, senses: Sequence[str]) -> View:
    """vectors: (sentences, width); senses: a label a sentence, empty for none"""
    unit = normalize(vectors)
    similarities = np.clip(unit @ unit.T, -1, 1).astype(np.float32)
    same, other = _pairs(senses)
    return View(
        similarities,
        ranks_of(similarities),
        _mean(similarities[same]),
        _mean(similarities[other]),
        nearest_same_sense(similarities, senses),
    )


def ranks_of(similarities: Floats) -> Floats:
    """Row i: the place of each sentence in sentence i's order of similarity.

    0 for itself, 1 for the nearest; of equals the earlier sentence is nearer.
    """
    others = similarities.astype(np.float64)
    np.fill_diagonal(others, np.inf)
    order = np.argsort(-others, axis=1, kind="stable")
    ranks = np.empty_like(similarities)
    places = np.arange(len(similarities), dtype=similarities.dtype)
    np.put_along_axis(ranks, order, np.broadcast_to(places, order.shape), axis=1)
    return ranks


def nearest_same_sense(similarities: Floats, senses: Sequence[str]) -> float | None:
    """The share of labelled sentences whose nearest labelled neighbour has the same sense.

    A sentence that is alone with its sense can have no such neighbour and is left out.
    """
    right = []
    for row, sense in enumerate(senses):
        others = [i for i, label in enumerate(senses) if label and i != row]
        if not sense or sense not in (senses[i] for i in others):
            continue
        nearest = max(others, key=lambda i: similarities[row, i])
        right.append(senses[nearest] == sense)
    return sum(right) / len(right) if right else None


def _pairs(senses: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks (sentences, sentences) of the pairs above the diagonal: same sense, other sense."""
    labels = np.array(senses, dtype=object)
    labelled = np.array([bool(sense) for sense in senses])
    both = np.triu(labelled[:, np.newaxis] & labelled, k=1)
    equal = (labels[:, np.newaxis] == labels).astype(bool)
    return both & equal, both & ~equal


def _mean(values: Floats) -> float | None:
    return float(values.mean(dtype=np.float64)) if values.size else None
