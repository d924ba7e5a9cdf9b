"""Masks in texts, and what a masked language model guesses for them. Pure functions."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.runtime import Encoder
from encoder.tokenizer import Tokenizer, Truncation, Window
from encoder.words import Span, WordNotInWindow, span_at, tokens_of

CANDIDATE_TOKENS_MAX = 16  # of one candidate; more than one is too many, and room must be left


@dataclass(frozen=True, slots=True)
class Masked:
    """A text with the model's own mask wherever a token is to be guessed.

    places: where the masks stand in `text`
    spans:  where in the text as the caller gave it
    """

    text: str
    places: list[Span]
    spans: list[Span]


@dataclass(frozen=True, slots=True)
class Guess:
    """A token, its share among all tokens, and its score before it became a share."""

    token_id: int
    probability: float
    logit: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The guesses for one mask, most probable first, and how the hidden word itself does."""

    guesses: list[Guess]
    word: Guess | None


@dataclass(frozen=True, slots=True, eq=False)
class FillQuestion:
    """What could stand at some positions of windows: `embedder.Question`, answered by Choices.

    positions: by the window's identity
    allowed:   (vocabulary,), the tokens that may be guessed
    words:     the token that a window's mask hides, by the window's identity; never a guess
               unless `keep_words`
    """

    positions: Mapping[int, Sequence[int]]
    allowed: NDArray[np.bool_]
    guesses_max: int
    words: Mapping[int, int]
    keep_words: bool = False

    def answer(self, encoder: Encoder, windows: Sequence[Window]) -> list[list[Choice]]:
        """For each window a choice for each of its positions."""
        logits = encoder.fill(windows, [self.positions[id(window)] for window in windows])
        return [
            [self._choice(row, self.words.get(id(window))) for row in rows]
            for window, rows in zip(windows, logits, strict=True)
        ]

    def _choice(self, logits: NDArray[np.float32], word: int | None) -> Choice:
        allowed = self.allowed
        if word is not None and not self.keep_words:
            allowed = allowed.copy()
            allowed[word] = False
        found = most_probable(logits, allowed, self.guesses_max)
        return Choice(found, None if word is None else guesses_of(logits, np.array([word]))[0])


def with_masks(text: str, mark: str, own: str) -> Masked:
    """`text` with the model's own mask in the place of each `mark`; its own stay as they are."""
    marks = "|".join(re.escape(m) for m in sorted({mark, own}, key=len, reverse=True))
    parts: list[str] = []
    places: list[tuple[int, int]] = []
    spans: list[Span] = []
    end = length = 0
    for match in re.finditer(marks, text):
        parts += [text[end : match.start()], own]
        start = length + match.start() - end
        length = start + len(own)
        places.append((start, length))
        spans.append(span_at(text, match.start(), match.end()))
        end = match.end()
    masked = "".join([*parts, text[end:]])
    return Masked(masked, [span_at(masked, start, stop) for start, stop in places], spans)


def without_word(text: str, word: Span, own: str) -> Masked:
    """`text` with one mask in the place of `word`."""
    masked = text[: word.start] + own + text[word.end :]
    return Masked(masked, [span_at(masked, word.start, word.start + len(own))], [word])


def positions_of(window: Window, places: Sequence[Span], mask_id: int) -> list[int | None]:
    """The token of `window` that is the mask at each of `places`; None where it has none."""
    found: list[int | None] = []
    for place in places:
        try:
            tokens = tokens_of(window, place)
        except WordNotInWindow:
            found.append(None)
            continue
        masks = [at for at in range(tokens.start, tokens.stop) if window.ids[at] == mask_id]
        found.append(masks[0] if len(masks) == 1 else None)
    return found


def single_token(tokenizer: Tokenizer, word: str) -> int | None:
    """The token that `word` is where it stands in a text; None if it is several, or unknown."""
    for spelling in (f" {word}", word):  # with a space before it: so it stands in a text
        (seen,) = tokenizer.encode(
            [spelling], tokens_max=CANDIDATE_TOKENS_MAX, truncation=Truncation.HEAD
        )
        ids = seen.windows[0].ids[seen.windows[0].starts >= 0]
        if len(ids) == 1 and int(ids[0]) not in tokenizer.special_ids:
            return int(ids[0])
    return None


def most_probable(
    logits: NDArray[np.float32], allowed: NDArray[np.bool_], count: int
) -> list[Guess]:
    """The `count` best of the `allowed` tokens, best first, equal ones by number."""
    ids = np.flatnonzero(allowed)
    scores = logits[ids]
    if count < len(ids):
        least = np.partition(scores, len(ids) - count)[len(ids) - count]
        ids = ids[scores >= least]
    order = np.argsort(-logits[ids], kind="stable")[:count]
    return guesses_of(logits, ids[order])


def guesses_of(logits: NDArray[np.float32], ids: NDArray[np.int64]) -> list[Guess]:
    """Each of `ids` with its share among all of `logits` (vocabulary,)."""
    exponents = np.exp(logits.astype(np.float64) - float(logits.max()))
    shares = exponents[ids] / exponents.sum()
    return [
        Guess(token_id, share, logit)
        for token_id, share, logit in zip(
            ids.tolist(), shares.tolist(), logits[ids].tolist(), strict=True
        )
    ]
