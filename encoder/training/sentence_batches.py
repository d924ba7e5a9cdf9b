"""What each step of the sentence stage reads: pairs of texts, packed, one step ahead."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoder.config import EncoderConfig
from encoder.training.recipe import Sentences
from encoder.training.sentence_packing import Packed, alone, pack, packable
from encoder.training.sentence_pairs import Kind, PairOrder
from encoder.training.sentence_teacher import TextReader
from encoder.training.sentence_vectors import Vectors
from encoder.training.sentence_words import WordBatch, Words, number_words

SAMPLE_PAIRS = 400  # from which a kind's tokens a pair are taken


@dataclass(frozen=True, slots=True)
class SentenceBatch:
    """The texts of one step: the firsts of its pairs, then the seconds.

    chunks: owners are numbered in that order
    target: (texts, width), the teacher's vectors
    tokens: without padding
    words:  None where words are not taught
    """

    kind: str
    chunks: tuple[Packed, ...]
    target: Tensor
    tokens: int
    words: WordBatch | None = None


class TextPacker:
    """Texts to what the model reads in one pass each."""

    def __init__(self, base: Path, config: EncoderConfig, rules: Sentences) -> None:
        """base: the directory with the model's `tokenizer.json`"""
        self._row_tokens = min(rules.text_tokens_max, config.tokens_max)
        self._reader = TextReader(base, self._row_tokens)
        self._chunk_tokens = rules.micro_tokens
        self._pad_id = config.pad_id
        self._packable = packable(config)

    def ids(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Of each text, long ones cut."""
        return self._reader.ids(texts)

    def words(self, texts: Sequence[str]) -> Words:
        """The words of `texts` and the tokens that they are made of."""
        return number_words(texts, self._reader.windows(texts))

    def pack(self, ids: Sequence[NDArray[np.int64]]) -> tuple[Packed, ...]:
        """The chunks of texts whose ids are given."""
        if self._packable:
            return tuple(pack(ids, self._row_tokens, self._chunk_tokens, self._pad_id))
        return tuple(alone(ids, self._chunk_tokens, self._pad_id))


def pair_counts(kinds: Sequence[Kind], packer: TextPacker, rules: Sentences) -> list[int]:
    """How many pairs of each kind a step has: `step_pairs`, or what makes `step_tokens`."""
    if not rules.step_tokens:
        return [min(rules.step_pairs, len(kind.pairs)) for kind in kinds]
    return [
        max(2, min(len(kind.pairs), round(rules.step_tokens / _pair_tokens(kind, packer))))
        for kind in kinds
    ]


def _pair_tokens(kind: Kind, packer: TextPacker) -> float:
    """The mean, over pairs spread through the kind."""
    sample = kind.pairs[:: max(1, len(kind.pairs) // SAMPLE_PAIRS)]
    lengths = [len(ids) for ids in packer.ids([text for pair in sample for text in pair])]
    return sum(lengths) / len(sample)


class SentenceBatches:
    """The batches of a run: each a pure function of recipe, text and the step's number.

    A thread makes the next one while the model is at work. Raises KeyError for a text that
    `vectors` does not have.
    """

    def __init__(
        self,
        kinds: Sequence[Kind],
        vectors: Vectors,
        packer: TextPacker,
        rules: Sentences,
        *,
        seed: int,
    ) -> None:
        self._kinds = kinds
        self._vectors = vectors
        self._packer = packer
        self._rules = rules
        self._counts = pair_counts(kinds, packer, rules)
        self._order = PairOrder(kinds, self._counts, seed)
        self._rows = [_teacher_rows(kind, vectors) for kind in kinds]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[SentenceBatch]] | None = None

    def step_pairs(self) -> dict[str, int]:
        """How many pairs a step has, by kind."""
        return {kind.name: n for kind, n in zip(self._kinds, self._counts, strict=True)}

    def at(self, step: int) -> SentenceBatch:
        """The batch of `step`; the following one is begun."""
        if self._ahead is not None and self._ahead[0] == step:
            future = self._ahead[1]
        else:
            future = self._thread.submit(self._make, step)
        batch = future.result()
        if step + 1 < self._rules.steps:
            self._ahead = (step + 1, self._thread.submit(self._make, step + 1))
        return batch

    def _make(self, step: int) -> SentenceBatch:
        chosen = self._order.read(step)
        kind = self._kinds[chosen.kind]
        pairs = [kind.pairs[i] for i in chosen.pairs]
        texts = [first for first, _ in pairs] + [second for _, second in pairs]
        ids = self._packer.ids(texts)
        target = self._vectors.read(self._rows[chosen.kind][:, chosen.pairs].reshape(-1))
        tokens = sum(len(row) for row in ids)
        taught = self._rules.word_weight and kind.english
        words = self._words(kind, texts) if taught else None
        chunks = self._packer.pack(ids)
        return SentenceBatch(kind.name, chunks, torch.from_numpy(target), tokens, words)

    def _words(self, kind: Kind, texts: Sequence[str]) -> WordBatch:
        read = len(texts) // 2 if kind.same else len(texts)
        readers = tuple(i % read for i in range(len(texts)))
        return WordBatch(tuple(texts[:read]), readers, self._packer.words(texts))

    def sample(self, kind: Kind, pairs: int) -> tuple[WordBatch, tuple[Packed, ...]]:
        """The words of about so many pairs, spread over the kind's."""
        chosen = kind.pairs[:: max(1, len(kind.pairs) // pairs)]
        texts = [first for first, _ in chosen] + [second for _, second in chosen]
        return self._words(kind, texts), self._packer.pack(self._packer.ids(texts))


def _teacher_rows(kind: Kind, vectors: Vectors) -> NDArray[np.int64]:
    """Where the teacher's vectors of firsts and seconds are, (2, pairs)."""
    firsts = vectors.rows([first for first, _ in kind.pairs])
    seconds = firsts if kind.same else vectors.rows([second for _, second in kind.pairs])
    rows = np.stack([firsts, seconds])
    if (rows < 0).any():
        raise KeyError(f"the teacher has not read all texts of {kind.name}")
    return rows
