"""Which pairs each step of a translator's training sees, and as which ids.

Everything follows from recipe, text and the step's number: a run that goes on sees what it would
have seen.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.training.merges import Encode, padded
from encoder.training.recipe import RecipeInvalid, Translation
from encoder.training.translation_pairs import PairFile
from encoder.translation_config import TranslationConfig

# Of a recipe's seed, so that no two uses draw the same numbers (batches.py has the first ones).
SEED_ORDER, SEED_POOL, SEED_MERGES = 21, 22, 23
POOL_PAIRS = 16_384  # sorted by length together: more waste less padding, and mix less


@dataclass(frozen=True, slots=True)
class Place:
    """Where a step is in its run."""

    number: int  # from 0
    stage_index: int
    in_stage: int  # from 0


@dataclass(frozen=True, slots=True)
class Sentences:
    """Pairs to be translated: texts with their languages, source first."""

    sources: list[str]
    targets: list[str]
    languages: list[str]  # of the targets


@dataclass(frozen=True, slots=True)
class IdBatch:
    """Padded ids.

    source: (B, T); mask: (B, T), true where there is a token
    given:  (B, U): the language's token, then the target
    wanted: (B, U): the target, then the end token; IGNORED in padding
    """

    source: NDArray[np.int64]
    mask: NDArray[np.bool_]
    given: NDArray[np.int64]
    wanted: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        """Of sources and targets, without padding."""
        return int(self.mask.sum() + (self.wanted != IGNORED).sum())


IGNORED = -100  # what torch's cross-entropy leaves out


@dataclass(frozen=True, slots=True)
class Marks:
    """The ids around texts: begin and end of a source, and of targets by language."""

    begin: int
    end: int
    pad: int
    languages: dict[str, int]


def place_of(rules: Translation, number: int) -> Place:
    """Where step `number` is. Raises IndexError beyond the last."""
    first = 0
    for index, stage in enumerate(rules.stages):
        if number < first + stage.steps:
            return Place(number, index, number - first)
        first += stage.steps
    raise IndexError(f"step {number} of a run of {rules.steps}")


class Plan:
    """The pairs of each step: drawn from the files by weight, and of like lengths.

    Each pair is there twice, once in each direction. A file is read to its end, in a random
    order, before it begins again.
    """

    def __init__(self, files: Sequence[PairFile], rules: Translation, seed: int) -> None:
        self._files = files
        self._rules = rules
        self._seed = seed
        self._stage = -1
        self._next = 0
        self._batches: Iterator[NDArray[np.int64]] = iter(())
        self._orders: dict[tuple[int, int, int], NDArray[np.int64]] = {}

    def at(self, place: Place) -> Sentences:
        """The sentences of a step; cheapest in order."""
        if place.stage_index != self._stage or place.in_stage < self._next:
            self._stage, self._next = place.stage_index, 0
            self._batches = self._all(place.stage_index)
        while self._next < place.in_stage:
            next(self._batches)
            self._next += 1
        self._next += 1
        return self._sentences(next(self._batches))

    def shares(self, stage_index: int) -> NDArray[np.float64]:
        """Of each file among the pairs of a stage. Raises RecipeInvalid where all is left out."""
        weights = self._rules.stages[stage_index].weights
        sizes = np.array(
            [len(f) * f.weight * weights.get(f.group, 1.0) for f in self._files], dtype=np.float64
        )
        if not sizes.sum():
            raise RecipeInvalid(f"stage {stage_index + 1} gives weight 0 to every file")
        return np.asarray(sizes / sizes.sum(), dtype=np.float64)

    def _all(self, stage_index: int) -> Iterator[NDArray[np.int64]]:
        """Batch after batch, each (pairs, 2): a file, and twice a pair plus its direction."""
        shares = self.shares(stage_index)
        pool = 0
        while True:
            items = self._pool(stage_index, shares, pool)
            random = np.random.default_rng([self._seed, SEED_POOL, stage_index, pool])
            batches = cut_to_size(items, self._lengths(items), self._rules.step_tokens, random)
            yield from (batches[index] for index in random.permutation(len(batches)))
            pool += 1

    def _pool(self, stage_index: int, shares: NDArray[np.float64], pool: int) -> NDArray[np.int64]:
        bounds = np.floor(np.outer([pool, pool + 1], shares * POOL_PAIRS)).astype(np.int64)
        parts = [
            self._drawn(stage_index, file, int(first), int(last))
            for file, (first, last) in enumerate(bounds.T)
        ]
        return np.concatenate(parts)

    def _drawn(self, stage_index: int, file: int, first: int, last: int) -> NDArray[np.int64]:
        """Draws `first` to `last` of a file, (draws, 2)."""
        size = 2 * len(self._files[file])
        draws = np.arange(first, last)
        items = np.empty((len(draws), 2), dtype=np.int64)
        items[:, 0] = file
        for epoch in np.unique(draws // size):
            here = draws // size == epoch
            items[here, 1] = self._order(stage_index, file, int(epoch))[draws[here] % size]
        return items

    def _order(self, stage_index: int, file: int, epoch: int) -> NDArray[np.int64]:
        key = (stage_index, file, epoch)
        if key not in self._orders:
            older = [k for k in self._orders if k[:2] != key[:2] or k[2] >= epoch - 1]
            self._orders = {k: self._orders[k] for k in older if k[0] == stage_index}
            random = np.random.default_rng([self._seed, SEED_ORDER, *key])
            self._orders[key] = random.permutation(2 * len(self._files[file]))
        return self._orders[key]

    def _lengths(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """(items, 2): of source and target."""
        lengths = np.empty((len(items), 2), dtype=np.int64)
        for file in np.unique(items[:, 0]):
            here = items[:, 0] == file
            pairs, turned = np.divmod(items[here, 1], 2)
            both = self._files[file].lengths[pairs]
            lengths[here] = np.where(turned[:, None] == 1, both[:, ::-1], both)
        return lengths

    def _sentences(self, items: NDArray[np.int64]) -> Sentences:
        found = Sentences([], [], [])
        for file_index, item in items.tolist():
            file = self._files[file_index]
            pair, turned = divmod(item, 2)
            texts = file.firsts[pair], file.seconds[pair]
            found.sources.append(texts[turned])
            found.targets.append(texts[1 - turned])
            found.languages.append(file.languages[1 - turned])
        return found


def cut_to_size(
    items: NDArray[np.int64],
    lengths: NDArray[np.int64],
    tokens_max: int,
    random: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """Items of like lengths together, each batch within `tokens_max` when padded.

    The padded size is rows * (longest source + longest target); an item above the limit is alone.
    """
    order = np.lexsort((random.random(len(items)), lengths[:, 0], lengths[:, 1]))
    batches, begin, longest = [], 0, np.zeros(2, dtype=np.int64)
    for place, index in enumerate(order):
        grown = np.maximum(longest, lengths[index])
        if place > begin and (place - begin + 1) * int(grown.sum()) > tokens_max:
            batches.append(items[order[begin:place]])
            begin, grown = place, lengths[index]
        longest = grown
    batches.append(items[order[begin:]])
    return batches


def to_ids(
    sentences: Sentences, encode: Encode, marks: Marks, draws: np.random.Generator
) -> IdBatch:
    """Sentences as the model reads them."""
    sources, given, wanted = [], [], []
    for source, target, language in zip(
        sentences.sources, sentences.targets, sentences.languages, strict=True
    ):
        sources.append([marks.begin, *encode(source, draws), marks.end])
        ids = encode(target, draws)
        given.append([marks.languages[language], *ids])
        wanted.append([*ids, marks.end])
    table = padded(sources, marks.pad)
    lengths = np.array([len(ids) for ids in sources])
    mask = np.arange(table.shape[1]) < lengths[:, None]
    return IdBatch(table, mask, padded(given, marks.pad), padded(wanted, IGNORED))


def parts_of(batch: IdBatch, tokens_max: int) -> Iterator[IdBatch]:
    """The rows of a batch, so many at a time that their rectangle is within `tokens_max`."""
    width = batch.source.shape[1] + batch.given.shape[1]
    at_once = max(1, tokens_max // width)
    for begin in range(0, len(batch.source), at_once):
        rows = slice(begin, begin + at_once)
        yield IdBatch(batch.source[rows], batch.mask[rows], batch.given[rows], batch.wanted[rows])


def readable(batch: IdBatch, config: TranslationConfig) -> IdBatch:
    """The rows that the model can read; held-out pairs were not measured."""
    fit = batch.mask.sum(axis=1) <= config.encoder.tokens_max
    fit &= (batch.wanted != IGNORED).sum(axis=1) <= config.decoder.tokens_max
    source_width = int(batch.mask[fit].sum(axis=1).max(initial=1))
    target_width = int((batch.wanted[fit] != IGNORED).sum(axis=1).max(initial=1))

    def cut(table: NDArray[Any], width: int) -> NDArray[Any]:
        return np.ascontiguousarray(table[fit][:, :width])

    return IdBatch(
        cut(batch.source, source_width),
        cut(batch.mask, source_width),
        cut(batch.given, target_width),
        cut(batch.wanted, target_width),
    )


class TranslationBatches:
    """The ids of each step; a thread makes the next one's while the model is at work."""

    def __init__(
        self, plan: Plan, rules: Translation, encode: Encode, marks: Marks, seed: int
    ) -> None:
        self._plan = plan
        self._rules = rules
        self._encode = encode
        self._marks = marks
        self._seed = seed
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="translation-batches")
        self._ahead: tuple[int, Future[IdBatch]] | None = None

    def at(self, number: int) -> IdBatch:
        """The batch of step `number`; the following one is begun."""
        if self._ahead is not None and self._ahead[0] == number:
            future = self._ahead[1]
        else:
            future = self._thread.submit(self._make, number)
        batch = future.result()
        if number + 1 < self._rules.steps:
            self._ahead = (number + 1, self._thread.submit(self._make, number + 1))
        return batch

    def _make(self, number: int) -> IdBatch:
        sentences = self._plan.at(place_of(self._rules, number))
        draws = np.random.default_rng([self._seed, SEED_MERGES, number])
        return to_ids(sentences, self._encode, self._marks, draws)
