"""Chooses which tokens a masked language model must guess, and what it sees in their place."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.training.recipe import Masking


@dataclass(frozen=True, slots=True)
class Masked:
    """A batch with a fixed number of hidden tokens in each row.

    inputs:  (rows, tokens) what the model sees
    places:  (rows, hidden) columns of the hidden tokens
    targets: (rows, hidden) the tokens that were there
    """

    inputs: NDArray[np.int64]
    places: NDArray[np.int64]
    targets: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Alphabet:
    """What masking must know of a vocabulary.

    word_starts: (vocabulary,) whether a word begins with the token
    special:     ids below this are never hidden and never put in another's place
    """

    word_starts: NDArray[np.bool_]
    special: int
    mask_id: int


def hide(
    ids: NDArray[np.int64],
    rate: float,
    rules: Masking,
    alphabet: Alphabet,
    random: np.random.Generator,
) -> Masked:
    """Hide `rate` of each row's tokens, the same number in every row.

    ids: (rows, tokens), without padding. In `rules.whole_word_share` of the rows whole words are
    hidden (the last one perhaps in part). Of the hidden tokens most become [MASK], some another
    token, some stay (Devlin et al. 2018, appendix A.1).
    """
    rows, tokens = ids.shape
    hidden = max(1, round(rate * tokens))
    whole = np.arange(rows) < round(rules.whole_word_share * rows)
    places = _choose(ids, hidden, random.permutation(whole), alphabet, random)
    targets = np.take_along_axis(ids, places, axis=1)
    seen = np.full_like(targets, alphabet.mask_id)
    fate = random.random(targets.shape)
    seen = np.where(fate < rules.keep_share, targets, seen)
    others = random.integers(alphabet.special, len(alphabet.word_starts), targets.shape)
    is_other = (fate >= rules.keep_share) & (fate < rules.keep_share + rules.random_share)
    seen = np.where(is_other, others, seen)
    inputs = ids.copy()
    np.put_along_axis(inputs, places, seen, axis=1)
    return Masked(inputs, places, targets)


def _choose(
    ids: NDArray[np.int64],
    hidden: int,
    whole: NDArray[np.bool_],
    alphabet: Alphabet,
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """Columns (rows, hidden), ascending: those with the lowest of random priorities.

    In rows of `whole` a word's tokens share one priority. Special tokens come last, and are
    hidden only where a row has nothing else.
    """
    priorities = random.random(ids.shape)
    word: NDArray[np.int64] = np.cumsum(
        alphabet.word_starts[ids], axis=1
    )  # which word of the row a token is in
    of_word = np.take_along_axis(random.random((len(ids), ids.shape[1] + 1)), word, axis=1)
    priorities = np.where(whole[:, None], of_word, priorities)
    priorities[ids < alphabet.special] = 2.0
    order = np.argsort(priorities, axis=1, kind="stable")[:, :hidden]
    return np.sort(order, axis=1)
