"""Which pairs each step of a translator's training sees, and as which ids.

Everything follows from recipe, text and the step's number: a run that goes on sees what it would
have seen.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.training.merges import Encode, padded
from encoder.training.recipe import RecipeInvalid, Translation
from encoder.training.translation_pairs import PairFile
from encoder.translation_config import TranslationConfig

# Of a recipe's seed, so that no two uses draw the same numbers (batches.py has the first ones).
SEED_ORDER, SEED_POOL, SEED_MERGES = 21, 22, 23
POOL_STEPS = 64  # whose pairs are sorted by length together: more waste less padding, and mix less
# Of a batch, what is no padding; and how much longer texts are for each unit of merge dropout.
# Measured on Multi30k: 0.92 to 0.94; 1.20 times as long with 0.1, 1.10 times with 0.05. It counts
# with less, so that hardly a batch is above `step_tokens`.
FILLED_SHARE, MERGE_GROWTH = 0.88, 2.0


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


@dataclass(frozen=True, slots=True)
class IdPairs:
    """Pairs as ids, each as long as it is.

    sources: with begin and end
    given:   the language's token, then the target
    wanted:  the target, then the end token; as long as `given`
    """

    sources: list[list[int]]
    given: list[list[int]]
    wanted: list[list[int]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(pairs, 2): of source and target."""
        every = [(len(a), len(b)) for a, b in zip(self.sources, self.given, strict=True)]
        return np.array(every, dtype=np.int64).reshape(-1, 2)

    def batch(self, rows: Sequence[int], pad: int) -> IdBatch:
        """Some of them, at least one, as a rectangle."""
        sources = [self.sources[row] for row in rows]
        table = padded(sources, pad)
        mask = np.arange(table.shape[1]) < np.array([len(ids) for ids in sources])[:, None]
        given, wanted = ([part[row] for row in rows] for part in (self.given, self.wanted))
        return IdBatch(table, mask, padded(given, pad), padded(wanted, IGNORED))


def place_of(rules: Translation, number: int) -> Place:
    """Where step `number` is. Raises IndexError beyond the last."""
    first = 0
    for index, stage in enumerate(rules.stages):
        if number < first + stage.steps:
            return Place(number, index, number - first)
        first += stage.steps
    raise IndexError(f"step {number} of a run of {rules.steps}")


class Plan:
    """The pairs of each pool of POOL_STEPS steps, drawn from the files by weight.

    Each pair is there twice, once in each direction. A file is read to its end, in a random
    order, before it begins again.
    """

    def __init__(self, files: Sequence[PairFile], rules: Translation, seed: int) -> None:
        self._files = files
        self._rules = rules
        self._seed = seed
        self._orders: dict[tuple[int, int, int], NDArray[np.int64]] = {}

    def pool(self, stage_index: int, pool: int) -> Sentences:
        """The pairs of a stage's pool `pool`, from 0, file by file."""
        shares = self.shares(stage_index)
        drawn = shares * self._pool_pairs(shares)
        bounds = np.floor(np.outer([pool, pool + 1], drawn)).astype(np.int64)
        found = Sentences([], [], [])
        for index, (first, last) in enumerate(bounds.T):
            file = self._files[index]
            for item in self._drawn(stage_index, index, int(first), int(last)).tolist():
                pair, turned = divmod(item, 2)
                texts = file.firsts[pair], file.seconds[pair]
                found.sources.append(texts[turned])
                found.targets.append(texts[1 - turned])
                found.languages.append(file.languages[1 - turned])
        return found

    def shares(self, stage_index: int) -> NDArray[np.float64]:
        """Of each file among the pairs of a stage. Raises RecipeInvalid where all is left out."""
        weights = self._rules.stages[stage_index].weights
        sizes = np.array(
            [len(f) * f.weight * weights.get(f.group, 1.0) for f in self._files], dtype=np.float64
        )
        if not sizes.sum():
            raise RecipeInvalid(f"stage {stage_index + 1} gives weight 0 to every file")
        return np.asarray(sizes / sizes.sum(), dtype=np.float64)

    def _pool_pairs(self, shares: NDArray[np.float64]) -> float:
        """How many pairs make batches of `step_tokens`, padding counted, in the mean."""
        rules = self._rules
        pair_tokens = float(shares @ [f.lengths.sum(axis=1).mean() for f in self._files])
        pair_tokens *= 1 + MERGE_GROWTH * rules.merge_dropout
        pairs = POOL_STEPS * rules.step_tokens * FILLED_SHARE / pair_tokens
        # A step has a pair at least, even where each file's share is rounded down.
        return max(pairs, POOL_STEPS + len(self._files))

    def _drawn(self, stage_index: int, file: int, first: int, last: int) -> NDArray[np.int64]:
        """Draws `first` to `last` of a file: twice a pair's number, plus one if it is turned."""
        size = 2 * len(self._files[file])
        draws = np.arange(first, last)
        items = np.empty(len(draws), dtype=np.int64)
        for epoch in np.unique(draws // size):
            here = draws // size == epoch
            items[here] = self._order(stage_index, file, int(epoch))[draws[here] % size]
        return items

    def _order(self, stage_index: int, file: int, epoch: int) -> NDArray[np.int64]:
        key = (stage_index, file, epoch)
        if key not in self._orders:
            older = [k for k in self._orders if k[:2] != key[:2] or k[2] >= epoch - 1]
            self._orders = {k: self._orders[k] for k in older if k[0] == stage_index}
            random = np.random.default_rng([self._seed, SEED_ORDER, *key])
            self._orders[key] = random.permutation(2 * len(self._files[file]))
        return self._orders[key]


def cut_to_size(
    items: NDArray[np.int64],
    lengths: NDArray[np.int64],
    tokens_max: int,
    random: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """Items of like lengths together, each batch within `tokens_max` when padded.

    The padded size is rows * (longest source + longest target); an item above the limit is alone.
    """
    order = _by_length(lengths, random)
    ends = _ends(lengths[order].tolist(), tokens_max)
    return [items[rows] for rows in np.split(order, ends[:-1])]


def cut_evenly(
    lengths: NDArray[np.int64], count: int, random: np.random.Generator
) -> list[NDArray[np.int64]]:
    """The rows of `lengths` in `count` batches of like lengths, the largest as small as can be.

    lengths: (rows, 2), at least `count` of them; the padded size is that of `cut_to_size`
    """
    order = _by_length(lengths, random)
    listed = lengths[order].tolist()
    low, high = int(lengths.sum(axis=1).max()), len(lengths) * int(lengths.max(axis=0).sum())
    while low < high:  # the least limit that needs no more batches
        middle = (low + high) // 2
        low, high = (low, middle) if len(_ends(listed, middle)) <= count else (middle + 1, high)
    batches = np.split(order, _ends(listed, low)[:-1])
    while len(batches) < count:
        longest = max(range(len(batches)), key=lambda index: len(batches[index]))
        batches[longest : longest + 1] = np.array_split(batches[longest], 2)
    return batches


def _by_length(lengths: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """Rows by target, then by source; those of equal lengths in any order."""
    order = np.lexsort((random.random(len(lengths)), lengths[:, 0], lengths[:, 1]))
    return np.asarray(order, dtype=np.int64)


def _ends(lengths: Sequence[tuple[int, int]], tokens_max: int) -> list[int]:
    """Where batches end that take row after row for as long as they fit when padded."""
    ends, begin, longest_source, longest_target = [], 0, 0, 0
    for place, (source, target) in enumerate(lengths):
        longest_source = max(longest_source, source)
        longest_target = max(longest_target, target)
        rows = place - begin + 1
        if rows > 1 and rows * (longest_source + longest_target) > tokens_max:
            ends.append(place)
            begin, longest_source, longest_target = place, source, target
    return [*ends, len(lengths)]


def ids_of(
    sentences: Sentences, encode: Encode, marks: Marks, draws: np.random.Generator
) -> IdPairs:
    """Sentences as the model reads them; `draws` chooses how they are cut, if that is by chance."""
    found = IdPairs([], [], [])
    for source, target, language in zip(
        sentences.sources, sentences.targets, sentences.languages, strict=True
    ):
        found.sources.append([marks.begin, *encode(source, draws), marks.end])
        ids = encode(target, draws)
        found.given.append([marks.languages[language], *ids])
        found.wanted.append([*ids, marks.end])
    return found


def to_ids(
    sentences: Sentences, encode: Encode, marks: Marks, draws: np.random.Generator
) -> IdBatch:
    """The same, all of them in one batch."""
    return ids_of(sentences, encode, marks, draws).batch(range(len(sentences.sources)), marks.pad)


def parts_of(batch: IdBatch, tokens_max: int) -> Iterator[IdBatch]:
    """A batch in parts of like many rows, each within `tokens_max` if it has more than one."""
    rows, width = len(batch.source), batch.source.shape[1] + batch.given.shape[1]
    parts = -(-rows // max(1, tokens_max // width))
    at_once = -(-rows // parts)
    for begin in range(0, rows, at_once):
        here = slice(begin, begin + at_once)
        yield IdBatch(batch.source[here], batch.mask[here], batch.given[here], batch.wanted[here])


def readable(pairs: IdPairs, config: TranslationConfig) -> IdPairs:
    """Those that the model can read; held-out pairs were not measured."""
    limits = [config.encoder.tokens_max, config.decoder.tokens_max]
    fit = np.flatnonzero((pairs.lengths <= limits).all(axis=1)).tolist()
    sources, given, wanted = (
        [part[row] for row in fit] for part in (pairs.sources, pairs.given, pairs.wanted)
    )
    return IdPairs(sources, given, wanted)


class TranslationBatches:
    """The ids of each step. A pool's batches are made together, in a thread, while the model is
    at work on those before.

    Pairs are sorted by the lengths that they have as cut for this time: where merges are left out
    by chance, those of the whole text say little, and a fifth of each batch would be padding.
    """

    def __init__(
        self, plan: Plan, rules: Translation, encode: Encode, marks: Marks, seed: int
    ) -> None:
        self._plan = plan
        self._rules = rules
        self._encode = encode
        self._marks = marks
        self._seed = seed
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="translation-batches")
        self._pools: dict[tuple[int, int], Future[list[IdBatch]]] = {}

    def at(self, number: int) -> IdBatch:
        """The batch of step `number`. In the second half of a pool the following one is begun."""
        place = place_of(self._rules, number)
        pool, step = divmod(place.in_stage, POOL_STEPS)
        wanted = [(place.stage_index, pool)]
        if step >= POOL_STEPS // 2:
            wanted += self._following(*wanted[0])
        for key in self._pools.keys() - set(wanted):
            self._pools.pop(key).cancel()
        for key in wanted:
            if key not in self._pools:
                self._pools[key] = self._thread.submit(self._make, *key)
        return self._pools[wanted[0]].result()[step]

    def _following(self, stage_index: int, pool: int) -> list[tuple[int, int]]:
        """The pool after this one, if there is one."""
        stages = self._rules.stages
        if (pool + 1) * POOL_STEPS < stages[stage_index].steps:
            return [(stage_index, pool + 1)]
        return [(stage_index + 1, 0)] if stage_index + 1 < len(stages) else []

    def _make(self, stage_index: int, pool: int) -> list[IdBatch]:
        """All batches of a pool, in the order of its steps."""
        place = [stage_index, pool]
        draws = np.random.default_rng([self._seed, SEED_MERGES, *place])
        sentences = self._plan.pool(stage_index, pool)
        pairs = ids_of(sentences, self._encode, self._marks, draws)
        random = np.random.default_rng([self._seed, SEED_POOL, *place])
        batches = cut_evenly(pairs.lengths, POOL_STEPS, random)
        order = random.permutation(len(batches)).tolist()
        return [pairs.batch(batches[index].tolist(), self._marks.pad) for index in order]
