"""Multi30k German to English as ids: one vocabulary, one set of batches, for every architecture."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from encoder.evaluation.data import read_lines
from encoder.training.merges import Segmenter
from encoder.training.translation_batches import (
    IdBatch,
    Marks,
    Sentences,
    cut_to_size,
    to_ids,
)
from encoder.training.vocabulary import BEGIN, END, PAD, token_id, train_vocabulary

SOURCE, TARGET = "de", "en"
TEST = "test_2016_flickr"
TOKENS_MAX = 100  # of a caption in training


@dataclass(frozen=True, slots=True)
class Split:
    """Captions and their translations, line by line."""

    sources: list[str]
    targets: list[str]


class Captions:
    """The text, its tokenizer and its batches."""

    def __init__(
        self,
        data: Path,
        cache: Path,
        *,
        vocabulary: int,
        merge_dropout: float,
        seed: int,
        judged_max: int | None = None,
    ) -> None:
        """Reads `data`/parallel/multi30k; keeps the tokenizer in `cache`. Raises DataMissing.

        judged_max: of the val set and of the test set, for a rehearsal; None for all
        """
        self._folder = data / "parallel" / "multi30k"
        self.train = self._split("train", None)
        self.val, self.test = (self._split(name, judged_max) for name in ("val", TEST))
        self.tokenizer = self._tokenizer(cache, vocabulary)
        begin, end, pad = (token_id(self.tokenizer, token) for token in (BEGIN, END, PAD))
        language = token_id(self.tokenizer, f"<2{TARGET}>")
        self.marks = Marks(begin, end, pad, {TARGET: language})
        self._seed = seed
        self._plain = Segmenter(self.tokenizer, 0.0, seed)
        self._merging = Segmenter(self.tokenizer, merge_dropout, seed)
        lengths = [
            [len(encoding.ids) for encoding in self.tokenizer.encode_batch_fast(texts)]
            for texts in (self.train.sources, self.train.targets)
        ]
        self._lengths = np.array(lengths).T
        self._kept = np.flatnonzero(self._lengths.max(axis=1) <= TOKENS_MAX)

    @property
    def sha256(self) -> str:
        """Of the training text and the tokenizer."""
        seen = hashlib.sha256(self.tokenizer.to_str().encode())
        for texts in (self.train.sources, self.train.targets):
            seen.update("\n".join(texts).encode())
        return seen.hexdigest()

    def epoch(self, number: int, tokens_max: int) -> Iterator[IdBatch]:
        """The batches of one reading of the text: the same for the same number."""
        random = np.random.default_rng([self._seed, 31, number])
        batches = self._cut(tokens_max, random)
        for index in random.permutation(len(batches)):
            rows = batches[index][:, 0].tolist()
            yield self._ids(self.train, rows, self._merging, random)

    def epoch_steps(self, tokens_max: int) -> int:
        """Batches of one reading, give or take one: lengths that are equal fall as they may."""
        return len(self._cut(tokens_max, np.random.default_rng(self._seed)))

    def batches(self, split: Split, texts: int) -> Iterator[tuple[list[int], IdBatch]]:
        """All of a split by length, `texts` at a time, with each one's line numbers."""
        order = sorted(range(len(split.sources)), key=lambda i: len(split.sources[i]))
        random = np.random.default_rng(0)
        for begin in range(0, len(order), texts):
            rows = order[begin : begin + texts]
            yield rows, self._ids(split, rows, self._plain, random)

    def source_tokens(self, split: Split) -> list[int]:
        """Of each source, without special tokens."""
        random = np.random.default_rng(0)
        return [len(self._plain.encode(text, random)) for text in split.sources]

    def _ids(
        self, split: Split, rows: list[int], segmenter: Segmenter, random: np.random.Generator
    ) -> IdBatch:
        sentences = Sentences(
            [split.sources[i] for i in rows],
            [split.targets[i] for i in rows],
            [TARGET] * len(rows),
        )
        return to_ids(sentences, segmenter.encode, self.marks, random)

    def _cut(self, tokens_max: int, random: np.random.Generator) -> list[NDArray[np.int64]]:
        return cut_to_size(self._kept[:, None], self._lengths[self._kept], tokens_max, random)

    def _split(self, name: str, lines_max: int | None) -> Split:
        files = (self._folder / f"{name}.{language}" for language in (SOURCE, TARGET))
        return Split(*(read_lines(file)[:lines_max] for file in files))

    def _tokenizer(self, cache: Path, vocabulary: int) -> tokenizers.Tokenizer:
        file = cache / f"tokenizer-{vocabulary}.json"
        if not file.exists():
            cache.mkdir(parents=True, exist_ok=True)
            lines = [*self.train.sources, *self.train.targets]
            train_vocabulary(lines, vocabulary, progress=False).save(str(file))
        return tokenizers.Tokenizer.from_file(str(file))
