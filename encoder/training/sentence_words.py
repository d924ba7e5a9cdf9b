"""Words in a student's and a teacher's tokens: what word vectors are learnt from.

The student's state of a word is to give, through one linear map, the teacher's (as whole layers
do in TinyBERT, Jiao et al. 2020). The two cut words into other tokens, so words are compared.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from encoder.tokenizer import Window
from encoder.training.sentence_packing import NOBODY, Packed, means
from encoder.training.sentence_teacher import Teacher

WORD = re.compile(r"\w+")  # a sixteenth of the time that boundaries of UAX 29 take


@dataclass(frozen=True, slots=True)
class Words:
    """The words of several texts, numbered through all of them.

    of:     for each text the word of each of its tokens, NOBODY for none
    firsts: (texts + 1,), the number of each text's first word; the last is how many there are
    """

    of: tuple[NDArray[np.int64], ...]
    firsts: NDArray[np.int64]

    def present(self) -> NDArray[np.bool_]:
        """Which words have a token: a long text's last ones have none."""
        found = np.zeros(self.firsts[-1] + 1, dtype=np.bool_)  # the last is NOBODY's
        for numbers in self.of:
            found[numbers] = True
        return found[:-1]


def number_words(texts: Sequence[str], windows: Sequence[Window]) -> Words:
    """The words of `texts`, whose tokens are the windows'."""
    of, firsts = [], [0]
    for text, window in zip(texts, windows, strict=True):
        numbers, count = words_of_tokens(text, window)
        of.append(np.where(numbers == NOBODY, NOBODY, numbers + firsts[-1]))
        firsts.append(firsts[-1] + count)
    return Words(tuple(of), np.array(firsts, dtype=np.int64))


def words_of_tokens(text: str, window: Window) -> tuple[NDArray[np.int64], int]:
    """For each token the word that its first letter is of (from 0), and how many words there are.

    A token of a space and a word's beginning is that word's; one of punctuation is NOBODY's.
    """
    of = np.full(len(text) + 1, NOBODY, dtype=np.int64)
    count = 0
    for count, word in enumerate(WORD.finditer(text), 1):
        of[word.start() : word.end()] = count - 1
    letters = np.where(of == NOBODY, len(text), np.arange(len(text) + 1))
    following = np.minimum.accumulate(letters[::-1])[::-1]  # the next letter from each place on
    first = following[np.maximum(window.starts, 0)]
    return np.where(first < window.ends, of[first], NOBODY), count


def same_words(taught: Words, read: Words, readers: Sequence[int]) -> NDArray[np.int64]:
    """For each word that is taught the same word of the texts that the teacher read, or NOBODY.

    readers: for each taught text which of the read ones says the same; where the number of words
    is another, none is
    """
    found = np.full(taught.firsts[-1], NOBODY, dtype=np.int64)
    for text, reader in enumerate(readers):
        begin, end = taught.firsts[text], taught.firsts[text + 1]
        if end - begin == read.firsts[reader + 1] - read.firsts[reader]:
            found[begin:end] = np.arange(end - begin) + read.firsts[reader]
    return found


@dataclass(frozen=True, slots=True)
class WordPlaces:
    """Where in a student's chunks the words are that the teacher has vectors of.

    owners:  for each chunk the word of each token, (rows, tokens), NOBODY for none
    teacher: (words,), the number of each among the teacher's
    """

    owners: tuple[Tensor, ...]
    teacher: NDArray[np.int64]


def places_of(
    chunks: Sequence[Packed], taught: Words, read: Words, same: NDArray[np.int64]
) -> WordPlaces:
    """The words that both have tokens of.

    chunks: of the taught texts, numbered as they are
    same:   as from `same_words`
    """
    there = np.append(read.present(), False)  # NOBODY is not
    kept = np.flatnonzero(taught.present() & there[same])
    place = np.full(len(same) + 1, NOBODY, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    flat = np.concatenate([chunk.owners.reshape(-1).numpy() for chunk in chunks])
    by_text = np.argsort(flat, kind="stable")  # NOBODY's first; a text's tokens stay in order
    words = np.full(len(flat), NOBODY, dtype=np.int64)
    words[by_text[np.count_nonzero(flat == NOBODY) :]] = place[np.concatenate(taught.of)]
    ends = np.cumsum([chunk.owners.numel() for chunk in chunks])[:-1]
    owners = tuple(
        torch.from_numpy(part).reshape(chunk.owners.shape)
        for part, chunk in zip(np.split(words, ends), chunks, strict=True)
    )
    return WordPlaces(owners, same[kept])


def word_means(states: Sequence[NDArray[np.float32]], words: Words) -> Tensor:
    """The mean of each word's tokens, (words, width); of a word without one nothing that counts.

    states: of each text, (tokens, width)
    """
    every = torch.from_numpy(np.concatenate(states))
    owners = torch.from_numpy(np.concatenate(words.of))
    return means([every[None]], [owners[None]], int(words.firsts[-1]))


@dataclass(frozen=True, slots=True)
class WordBatch:
    """What the words of a step's texts are to be learnt from.

    texts:   what the teacher reads: each text, or of those that say the same the first
    readers: for each text of the step which of them is read for it
    words:   of the step's texts, as the student's tokens have them
    """

    texts: tuple[str, ...]
    readers: tuple[int, ...]
    words: Words


@dataclass(frozen=True, slots=True)
class WordTargets:
    """owners: for each chunk the word of each token; vectors: (words, width), the teacher's."""

    owners: tuple[Tensor, ...]
    vectors: Tensor


class WordLessons:
    """A teacher of words, and the map through which a student answers it."""

    def __init__(self, teacher: Teacher, width: int, device: torch.device) -> None:
        """width: of the student's states"""
        self._teacher = teacher
        self._device = device
        _, states = teacher.states(["word"])
        self.projection = nn.Linear(width, states[0].shape[1], bias=False).to(device)

    def targets(self, batch: WordBatch, chunks: Sequence[Packed]) -> WordTargets:
        """Have the teacher read the batch, whose texts are in `chunks`."""
        windows, states = self._teacher.states(batch.texts)
        read = number_words(batch.texts, windows)
        places = places_of(chunks, batch.words, read, same_words(batch.words, read, batch.readers))
        vectors = word_means(states, read)[torch.from_numpy(places.teacher)]
        owners = tuple(of.to(self._device, non_blocking=True) for of in places.owners)
        return WordTargets(owners, vectors.to(self._device, non_blocking=True))

    def loss(self, states: Sequence[Tensor], targets: WordTargets) -> Tensor:
        """1 - cosine with the teacher's, the mean over words.

        states: of each chunk, (rows, tokens, width)
        """
        found = means(states, targets.owners, len(targets.vectors))
        return 1 - F.cosine_similarity(self.projection(found), targets.vectors).mean()
