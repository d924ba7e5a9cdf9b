"""The texts that sentence vectors are learnt from: pairs of three kinds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np

from encoder.training.cleaning import CleanFile, clean
from encoder.training.corpus import CorpusInvalid, find_sources, read_lines
from encoder.training.recipe import Recipe
from encoder.training.rows import GOLDEN
from encoder.training.streams import plain

ENGLISH = "en"  # what the teacher reads
LINE_CHARACTERS = (20, 400)  # of a line that stands alone: neither a heading nor a chapter
LINES_MAX = 200_000

Pairs: TypeAlias = Sequence[tuple[str, str]]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Kind:
    """Pairs of one kind. The first text is English; `same` where the second says the same, so
    that the teacher's vector of the first is right for both; else the second is English too."""

    name: str
    pairs: Pairs
    held_out: Pairs
    same: bool
    share: float  # of the steps


@dataclass(frozen=True, slots=True)
class PairBatch:
    """The texts of one step."""

    firsts: list[str]
    seconds: list[str]
    same: bool


def load_kinds(root: Path, recipe: Recipe, cache: Path) -> list[Kind]:
    """Read and clean what the recipe's sentence stage learns from.

    Raises CorpusInvalid if there is neither a pair with English nor an English line.
    """
    rules = recipe.sentences
    complete = find_sources(root, recipe)
    folder, files = clean(root, complete, cache)
    translations = [file for file in files if file.pairs and ENGLISH in file.language.split("-")]
    lines = [file for file in files if not file.pairs and file.language in (ENGLISH, "")]
    kinds = [
        _kind("translations", folder, translations, rules.file_pairs_max, rules.translation_share),
        _line_kind(folder, lines, 1 - rules.translation_share - rules.pair_share),
    ]
    if rules.pairs:
        alone = complete.model_copy(update={"sources": (), "aligned": (), "pairs": rules.pairs})
        folder, files = clean(root, alone, cache)
        kinds.append(_kind("pairs", folder, files, rules.file_pairs_max, rules.pair_share))
    found = [kind for kind in kinds if len(kind.pairs) >= rules.step_pairs and kind.share > 0]
    if not found:
        raise CorpusInvalid(
            f"{root} has no {rules.step_pairs} English lines and no such number of pairs whose "
            "language the recipe gives as en-de, fr-en or the like"
        )
    return found


def _kind(
    name: str, folder: Path, files: Sequence[CleanFile], pairs_max: int, share: float
) -> Kind:
    trained = [pair for file in files for pair in _spread(list(_pairs(folder, file)), pairs_max)]
    held_out = [pair for file in files for pair in _pairs(folder, file, held_out=True)]
    return Kind(name, trained, held_out, name == "translations", share)


def _pairs(folder: Path, file: CleanFile, *, held_out: bool = False) -> Iterator[tuple[str, str]]:
    turned = file.language.partition("-")[0] != ENGLISH
    for line in read_lines(folder / (file.held_out_name if held_out else file.name)):
        first, _, second = line.partition("\t")
        if first and second:
            yield (second, first) if turned else (first, second)


def _line_kind(folder: Path, files: Sequence[CleanFile], share: float) -> Kind:
    def lines(name: str) -> Iterator[str]:
        low, high = LINE_CHARACTERS
        return (line for line in read_lines(folder / name) if low <= len(line) <= high)

    each = LINES_MAX // max(1, len(files))
    trained = [line for file in files for line in _spread(list(lines(file.name)), each)]
    held_out = [line for file in files for line in lines(file.held_out_name)]
    return Kind(
        "lines",
        [(line, plain(line)) for line in trained],
        [(line, plain(line)) for line in held_out],
        same=True,
        share=share,
    )


def _spread(items: list[Item], count: int) -> list[Item]:
    return items[:: max(1, -(-len(items) // count))]


class PairBatches:
    """Which pairs each step learns from: a function of the seed and the step's number."""

    def __init__(self, kinds: Sequence[Kind], step_pairs: int, seed: int) -> None:
        self._kinds = kinds
        self._step_pairs = step_pairs
        self._seed = seed
        shares = np.array([kind.share for kind in kinds])
        self._cumulative = np.cumsum(shares / shares.sum())

    def read(self, step: int) -> PairBatch:
        """The pairs of `step`, all of one kind: translations are no negatives for questions."""
        point = (step * GOLDEN) % 1.0
        index = min(
            int(np.searchsorted(self._cumulative, point, side="right")), len(self._kinds) - 1
        )
        kind = self._kinds[index]
        random = np.random.default_rng([self._seed, 4, step])
        chosen = random.choice(len(kind.pairs), self._step_pairs, replace=False)
        firsts, seconds = zip(*(kind.pairs[i] for i in chosen), strict=True)
        return PairBatch(list(firsts), list(seconds), kind.same)
