"""BPE with merges left out at random, seeded (BPE-dropout, Provilkov, Emelianenko, Voita 2020).

The tokenizers library can leave merges out too, but draws from a generator that cannot be seeded,
so a run could not be repeated.
"""

import json
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import tokenizers
from numpy.typing import NDArray

from encoder.training.recipe import RecipeInvalid

VARIANTS = 32  # ways to cut a word that are drawn from; each is computed once
WORDS_MAX = 200_000  # whose cuttings are kept


class Encode(Protocol):
    """Cuts a text into ids, without special tokens."""

    def __call__(self, text: str, draws: np.random.Generator) -> list[int]: ...


class NotBpe(ValueError):
    """The tokenizer has no merges to leave out."""


class Segmenter:
    """Cuts texts as a BPE tokenizer does, now and then into smaller pieces."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, dropout: float, seed: int) -> None:
        """dropout: of each merge, each time it could be done; 0 gives the tokenizer's own ids

        Raises NotBpe.
        """
        content = json.loads(tokenizer.to_str())["model"]
        if content["type"] != "BPE" or not content["byte_fallback"]:
            raise NotBpe(f"merges are left out of BPE with bytes alone; this is {content['type']}")
        self._tokenizer = tokenizer
        self._dropout = dropout
        self._seed = seed
        self._ids: dict[str, int] = content["vocab"]
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in content["merges"]]
        self._ranks = {(a, b): rank for rank, (a, b) in enumerate(pairs)}
        self._known: dict[tuple[str, int], list[int]] = {}

    def encode(self, text: str, draws: np.random.Generator) -> list[int]:
        """The ids of a text, without special tokens; `draws` chooses among each word's cuttings."""
        normalizer, splitter = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        normal = normalizer.normalize_str(text) if normalizer else text
        words = [word for word, _ in splitter.pre_tokenize_str(normal)] if splitter else [normal]
        variants = draws.integers(VARIANTS, size=len(words)) if self._dropout else [0] * len(words)
        ids: list[int] = []
        for word, variant in zip(words, variants, strict=True):
            ids += self._variant(word, int(variant))
        return ids

    def _variant(self, word: str, variant: int) -> list[int]:
        key = (word, variant)
        found = self._known.get(key)
        if found is None:
            draw = random.Random(f"{self._seed} {variant} {word}").random
            symbols = cut(word, self._ranks, self._dropout, draw)
            found = [index for symbol in symbols for index in self._symbol_ids(symbol)]
            if len(self._known) < WORDS_MAX:
                self._known[key] = found
        return found

    def _symbol_ids(self, symbol: str) -> list[int]:
        found = self._ids.get(symbol)
        if found is not None:
            return [found]
        return [self._ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]


def segmenter(tokenizer: tokenizers.Tokenizer, dropout: float, seed: int) -> Encode:
    """How texts become ids. Raises RecipeInvalid for a merge dropout without merges."""
    if dropout:
        try:
            return Segmenter(tokenizer, dropout, seed).encode
        except NotBpe as error:
            raise RecipeInvalid(f"merge_dropout {dropout}: {error}") from None

    def encode(text: str, draws: np.random.Generator) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    return encode


def cut(
    word: str, ranks: dict[tuple[str, str], int], dropout: float, draw: Callable[[], float]
) -> list[str]:
    """A word's pieces: again and again the pair of the lowest rank becomes one (of equal ones the
    first), of those pairs that `draw`, uniform in [0, 1), does not drop this time."""
    symbols = list(word)
    while len(symbols) > 1:
        best, place = len(ranks), -1
        for index, pair in enumerate(pairwise(symbols)):
            rank = ranks.get(pair)
            if rank is not None and rank < best and (not dropout or draw() >= dropout):
                best, place = rank, index
        if place < 0:
            break
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
    return symbols


def padded(rows: Sequence[Sequence[int]], pad_id: int) -> NDArray[np.int64]:
    """Rows of ids as a rectangle."""
    width = max(map(len, rows))
    table = np.full((len(rows), width), pad_id, dtype=np.int64)
    for row, ids in zip(table, rows, strict=True):
        row[: len(ids)] = ids
    return table
