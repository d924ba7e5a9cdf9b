"""Fits how a model makes the vectors that senses are told by, on plain text: layers and whitening.

Two uses of a word in one document nearly always have one sense (see `uses`). So a mix of layers is
good if a use's mate comes nearer to it than the same word in other documents; and what still varies
between two mates is what a classifier of senses had better not heed. No sense inventory is looked
at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder.discriminant import Matrix, unit
from encoder.evaluation.senses import mixes
from encoder.evaluation.vectors import WordVectors, counting, embed_words
from encoder.manifest import Precision, read_manifest, write_manifest
from encoder.runtime import Encoder
from encoder.sense_space import LOWER_CASED, YES, beside, lowered, write_space
from encoder.training.uses import Uses, find_uses, text_files
from encoder.whitening import Whitening

NAMES_MAX = 8  # of files, in the record


@dataclass(frozen=True, slots=True)
class Judged:
    """A mix of layers, and how often a use's mate is nearer to it than the word in another
    document, 0 to 1, by the word's own vectors."""

    layers: tuple[int, ...]
    nearer: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was chosen among, the best first, and how much it was learnt from."""

    judged: list[Judged]
    words: int
    uses: int


def fit_senses(
    directory: Path,
    text: Path,
    *,
    words_max: int,
    pairs_max: int,
    strength: float,
    seed: int,
    precision: Precision,
    lower_cased: bool = True,
) -> Fitted:
    """Choose layers and fit a whitening on the text below `text`, and write both into the model.

    strength:    of the whitening, 0 to 1
    lower_cased: read texts in lower case, now and whenever senses are told
    An earlier file is replaced. Raises ModelNotFound, ModelDamaged, PrecisionMissing and
    CorpusInvalid.
    """
    encoder = Encoder.load(directory, precision=precision, senses=False)
    uses = find_uses(text, words_max=words_max, pairs_max=pairs_max, seed=seed)
    vectors = _vectors(encoder, uses, lower_cased)
    judged = judge(vectors, groups_of(uses), mixes(encoder.layers))
    rows = beside(_mixed(vectors, judged[0].layers), vectors.sentence)
    origin = {
        "text": _names(text_files(text)),
        "words": str(len(uses)),
        "uses": str(len(rows)),
        "strength": f"{strength:g}",
        "seed": str(seed),
        "precision": str(precision),
        LOWER_CASED: YES if lower_cased else "no",
        "nearer_in_document": f"{judged[0].nearer:.4f}",
    }
    whitening = whitening_of(rows, groups_of(uses), strength)
    write_space(directory, judged[0].layers, whitening, origin)
    write_manifest(directory, read_manifest(directory))
    return Fitted(judged, len(uses), len(rows))


def judge(
    vectors: WordVectors, groups: Sequence[slice], candidates: Sequence[tuple[int, ...]]
) -> list[Judged]:
    """The mixes of layers, the best first; of equals the earlier.

    groups: the uses of each word
    """
    judged = []
    for mix in candidates:
        rows = unit(_mixed(vectors, mix).astype(np.float64))
        nearer = float(np.mean([nearer_in_document(rows[group]) for group in groups]))
        judged.append(Judged(mix, nearer))
    return sorted(judged, key=lambda each: -each.nearer)


def nearer_in_document(rows: Matrix) -> float:
    """How often a use's mate is nearer to it than a use in another document, 0 to 1.

    rows: (2 * pairs, width) of length 1, mates side by side, two pairs or more; 0.5 is chance
    """
    cosines = rows @ rows.T
    places = np.arange(len(rows))
    mates = cosines[places, places ^ 1][:, None]
    others = places[:, None] // 2 != places // 2
    nearer = (mates > cosines) + (mates == cosines) / 2
    return float(nearer[others].mean())


def whitening_of(rows: Matrix, groups: Sequence[slice], strength: float) -> Whitening:
    """Evens out what varies between two uses of a word in one document; words centred on zero."""
    starts = [start for group in groups for start in range(group.start, group.stop, 2)]
    whitening = Whitening.fit([rows[start : start + 2] for start in starts], strength=strength)
    mean = np.mean([rows[group].mean(axis=0) for group in groups], axis=0)
    return Whitening(mean, whitening.matrix)


def groups_of(uses: Sequence[Uses]) -> list[slice]:
    """The rows of each word."""
    ends = np.cumsum([len(word.sentences) for word in uses]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _vectors(encoder: Encoder, uses: Sequence[Uses], lower_cased: bool) -> WordVectors:
    sentences = [sentence for word in uses for sentence in word.sentences]
    if lower_cased:
        sentences = [lowered(sentence) for sentence in sentences]
    spans = [span for word in uses for span in word.spans]
    with counting("uses of words", len(sentences)) as advance:
        return embed_words(encoder, sentences, spans, advance)


def _mixed(vectors: WordVectors, mix: Sequence[int]) -> NDArray[np.float32]:
    return np.asarray(vectors.layers[list(mix)].mean(axis=0))


def _names(files: Sequence[Path]) -> str:
    more = len(files) - NAMES_MAX
    names = ", ".join(file.name for file in files[:NAMES_MAX])
    return f"{names} and {more} more" if more > 0 else names
