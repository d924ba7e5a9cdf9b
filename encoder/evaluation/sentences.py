"""Sentence vectors judged: graded similarity (STS-B) and finding translations (Tatoeba)."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder.evaluation.data import present, read_graded_pairs, read_translations
from encoder.evaluation.result import Score, TaskResult
from encoder.evaluation.scores import accuracy, mining_f1, spearman
from encoder.evaluation.vectors import Subject, embed
from encoder.runtime import normalize

_LASER_CODES = {"de": "deu", "fr": "fra"}


def graded_file(data: Path, language: str) -> Path:
    """Where STS-B's test set of a language is."""
    return data / "sts" / "stsb" / f"stsb-{language}-test.tsv"


def translation_files(data: Path) -> dict[str, Path]:
    """Where LASER's Tatoeba pairs are, by language."""
    folder = data / "parallel" / "tatoeba-laser-v1"
    return {language: folder / f"test.{code}-eng.tsv" for language, code in _LASER_CODES.items()}


def similarity(subject: Subject, data: Path, *, column: str, limit: int | None) -> TaskResult:
    """Spearman's correlation of cosine and people's grades on the STS-B test set.

    English must be there; German and French (DeepL's translations of it) are scored if present,
    and all of them at every length that a vector may be cut to. Raises DataMissing, DataMalformed.
    """
    scores, notes = [], []
    shorter = sorted((c for c in subject.dimensions_choices if c < subject.width), reverse=True)
    for language in ("en", "de", "fr"):
        file = graded_file(data, language)
        if language != "en" and not present(file):
            notes.append(f"STS-B {language}: not scored, {file.name} is not there")
            continue
        pairs = read_graded_pairs(file)
        first, second = pairs.first[:limit], pairs.second[:limit]
        label = f"STS-B {language}, {column}"
        vectors = embed(subject, [*first, *second], label=label)
        for length in (subject.width, *shorter):
            value = 100 * _correlation(vectors[:, :length], pairs.grades[:limit])
            key = f"sts.{language}" if length == subject.width else f"sts.{language}.{length}"
            scores.append(Score(key, _graded_label(language, length, subject.width), value))
    return TaskResult(scores, notes)


def _correlation(vectors: NDArray[np.float32], grades: NDArray[np.float64]) -> float:
    """Of grades and the cosines of vectors (2 pairs, length), firsts and then seconds."""
    first, second = np.split(normalize(vectors), 2)
    return spearman(np.sum(first * second, axis=1), grades)


def _graded_label(language: str, length: int, width: int) -> str:
    cut = f", first {length} values" if length < width else ""
    return f"STS-B test {language}, Spearman of cosine{cut}"


def translations(subject: Subject, data: Path, *, column: str, limit: int | None) -> TaskResult:
    """How often the nearest sentence of the other side is the translation, on LASER's Tatoeba.

    1000 pairs a language, accuracy in both directions; and MTEB's F1 from the foreign side,
    which is what published tables show. Raises DataMissing, DataMalformed.
    """
    scores = []
    for language, file in translation_files(data).items():
        foreign, english = (side[:limit] for side in read_translations(file))
        vectors = embed(subject, [*foreign, *english], label=f"Tatoeba {language}-en, {column}")
        cosines = vectors[: len(foreign)] @ vectors[len(foreign) :].T  # (foreign, english)
        right = np.arange(len(foreign))
        forth, back = cosines.argmax(axis=1), cosines.argmax(axis=0)
        there, here = f"{language}-en", f"en-{language}"
        scores += [
            Score(f"tatoeba.{there}", f"Tatoeba {there}, accuracy", 100 * accuracy(right, forth)),
            Score(f"tatoeba.{here}", f"Tatoeba {here}, accuracy", 100 * accuracy(right, back)),
            Score(f"tatoeba.{there}.f1", f"Tatoeba {there}, MTEB's F1", 100 * mining_f1(forth)),
        ]
    return TaskResult(scores)
