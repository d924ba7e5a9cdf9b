"""The texts that sentence vectors are learnt from: pairs of three kinds."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from encoder.training.cleaning import CleanFile, clean
from encoder.training.corpus import CorpusInvalid, find_sources, read_lines
from encoder.training.recipe import Recipe, Sentences
from encoder.training.rows import GOLDEN
from encoder.training.streams import plain

ENGLISH = "en"  # what the teacher reads
TRANSLATIONS = "translations"
# Between sentences: after a mark that ends one, before what may begin one.
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")
SEED_PAIRS = 4

Pairs: TypeAlias = Sequence[tuple[str, str]]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Kind:
    """Pairs of one kind. The first text is English; `same` where the second says the same, so
    that the teacher's vector of the first is right for both; else the second is English too.

    repeats: how often a pair is read in one reading of all; empty for once each
    """

    name: str
    pairs: Pairs
    held_out: Pairs
    same: bool
    share: float  # of the steps
    repeats: Sequence[int] = ()

    @property
    def english(self) -> bool:
        """Whether the second text is English too: the teacher's words are then the same."""
        return self.name != TRANSLATIONS

    def taught(self) -> Iterator[str]:
        """The texts whose vectors the teacher must give, of pairs and held-out ones."""
        for pairs in (self.pairs, self.held_out):
            for first, second in pairs:
                yield first
                if not self.same:
                    yield second


@dataclass(frozen=True, slots=True)
class Chosen:
    """The pairs of one step, by their places in their kind's."""

    kind: int
    pairs: NDArray[np.int64]


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
        _kind(TRANSLATIONS, folder, translations, rules, rules.translation_share),
        _line_kind(folder, lines, rules),
    ]
    if rules.pairs:
        alone = complete.model_copy(update={"sources": (), "aligned": (), "pairs": rules.pairs})
        folder, files = clean(root, alone, cache)
        kinds.append(_kind("pairs", folder, files, rules, rules.pair_share))
    found = [kind for kind in kinds if len(kind.pairs) >= rules.step_pairs and kind.share > 0]
    if not found:
        raise CorpusInvalid(
            f"{root} has no {rules.step_pairs} English lines and no such number of pairs whose "
            "language the recipe gives as en-de, fr-en or the like"
        )
    return found


def _kind(
    name: str, folder: Path, files: Sequence[CleanFile], rules: Sentences, share: float
) -> Kind:
    trained: list[tuple[str, str]] = []
    repeats: list[int] = []
    for file in files:
        most = max(1, round(rules.file_pairs_max * min(1.0, file.weight)))
        pairs = _spread(list(_pairs(folder, file)), most)
        trained += pairs
        repeats += [max(1, round(file.weight))] * len(pairs)
    held_out = [pair for file in files for pair in _pairs(folder, file, held_out=True)]
    return Kind(name, trained, held_out, name == TRANSLATIONS, share, repeats)


def _pairs(folder: Path, file: CleanFile, *, held_out: bool = False) -> Iterator[tuple[str, str]]:
    turned = file.language.partition("-")[0] != ENGLISH
    for line in read_lines(folder / (file.held_out_name if held_out else file.name)):
        first, _, second = line.partition("\t")
        if first and second:
            yield (second, first) if turned else (first, second)


def _line_kind(folder: Path, files: Sequence[CleanFile], rules: Sentences) -> Kind:
    found = [list(_lines(folder / file.name, rules)) for file in files]
    quotas = quota([len(part) for part in found], [f.weight for f in files], rules.lines_max)
    trained = [
        line for part, most in zip(found, quotas, strict=True) for line in _spread(part, most)
    ]
    held_out = [line for file in files for line in _lines(folder / file.held_out_name, rules)]
    return Kind(
        "lines",
        [(line, plain(line)) for line in trained],
        [(line, plain(line)) for line in held_out],
        same=True,
        share=1 - rules.translation_share - rules.pair_share,
    )


def _lines(path: Path, rules: Sentences) -> Iterator[str]:
    """The lines of a file, some cut down to one sentence, that are neither short nor long."""
    low, high = rules.line_characters
    for line in read_lines(path):
        text = one_sentence(line, rules.sentence_share) if line else line
        if low <= len(text) <= high:
            yield text


def one_sentence(line: str, share: float) -> str:
    """`line`, or in `share` of all lines one sentence of it: decided by the line itself."""
    digest = hashlib.blake2b(line.encode(), digest_size=8, person=b"sentence").digest()
    if int.from_bytes(digest[:4], "big") >= share * 2**32:
        return line
    sentences = SENTENCE_END.split(line)
    return sentences[int.from_bytes(digest[4:], "big") % len(sentences)]


def quota(sizes: Sequence[int], weights: Sequence[float], total: int) -> list[int]:
    """How many each of several files gives to `total`: by weight, and no more than it has.

    What small files cannot give is shared among the others.
    """
    quotas = [0] * len(sizes)
    left, weight_left = total, sum(weights)
    for index in sorted(range(len(sizes)), key=lambda index: sizes[index] / weights[index]):
        quotas[index] = min(sizes[index], int(left * weights[index] / weight_left))
        left -= quotas[index]
        weight_left -= weights[index]
    return quotas


def _spread(items: list[Item], count: int) -> list[Item]:
    """At most `count` of `items`, as far apart as can be."""
    if count >= len(items):
        return items
    return [items[i * len(items) // count] for i in range(count)]


class PairOrder:
    """Which pairs each step learns from: a function of the seed and the step's number.

    A step has pairs of one kind: translations are no negatives for questions. A kind's pairs
    are read in rounds, each in another order and each pair in a round as often as it repeats.
    """

    def __init__(self, kinds: Sequence[Kind], counts: Sequence[int], seed: int) -> None:
        """counts: of each kind, the pairs of a step"""
        self._counts = counts
        self._seed = seed
        shares = np.array([kind.share for kind in kinds])
        self._cumulative = np.cumsum(shares / shares.sum())
        self._places = [
            np.repeat(np.arange(len(kind.pairs)), kind.repeats or 1).astype(np.int64)
            for kind in kinds
        ]
        self._next = 0
        self._steps = np.zeros(len(kinds), dtype=np.int64)  # of each kind, before `_next`
        self._rounds: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def read(self, step: int) -> Chosen:
        """The pairs of `step`. Reading onwards is fast; going elsewhere counts anew."""
        if step != self._next:
            self._steps = np.bincount(
                self._choose(np.arange(step)), minlength=len(self._counts)
            ).astype(np.int64)
        kind = int(self._choose(np.array([step]))[0])
        earlier = int(self._steps[kind])
        self._steps[kind] += 1
        self._next = step + 1
        return Chosen(kind, self._pick(kind, earlier))

    def _choose(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        points = (steps * GOLDEN) % 1.0
        found = np.searchsorted(self._cumulative, points, side="right")
        return np.minimum(found, len(self._counts) - 1)

    def _pick(self, kind: int, earlier: int) -> NDArray[np.int64]:
        """The pairs of the kind's step number `earlier`."""
        count = self._counts[kind]
        number, place = divmod(earlier, len(self._places[kind]) // count)
        if kind not in self._rounds or self._rounds[kind][0] != number:
            random = np.random.default_rng([self._seed, SEED_PAIRS, kind, number])
            self._rounds[kind] = (number, random.permutation(self._places[kind]))
        return self._rounds[kind][1][place * count : (place + 1) * count]
