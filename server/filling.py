"""Masks in texts, and what a masked language model guesses for them. Pure functions."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from encoder.runtime import Encoder
from encoder.tokenizer import Tokenizer, Truncation, Window
from encoder.words import Span, WordNotInWindow, span_at, tokens_of

STAND_IN = "a"  # one token of every vocabulary
CANDIDATE_TOKENS_MAX = 16  # of one candidate; more than one is too many, and room must be left
CANDIDATE_CODE_POINTS_MAX = 256  # no token is longer; to tokenise megabytes would find out no more


@dataclass(frozen=True, slots=True)
class Marked:
    """A text, and where in it the tokens stand that are to be guessed."""

    text: str
    places: list[Span]


@dataclass(frozen=True, slots=True)
class Masked:
    """A text with masks, in two forms for the tokenizer.

    spans:    where the masks stand in the text as the caller gave it
    standing: with a short word for each mask, whose token is then exchanged. So the text around
              it has the tokens that it had when the model learnt to guess: many tokenizers cut a
              text in two at a mask, and begin the second half as if it were a new one. None where
              a mask touches a letter, as the word would join its neighbours.
    spelled:  with the model's own mask as text
    """

    spans: list[Span]
    standing: Marked | None
    spelled: Marked


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
    """`text` with its marks understood: `mark`, and the model's `own`."""
    marks = "|".join(re.escape(m) for m in sorted({mark, own}, key=len, reverse=True))
    spans = [span_at(text, match.start(), match.end()) for match in re.finditer(marks, text)]
    return masked_at(text, spans, own)


def masked_at(text: str, spans: Sequence[Span], own: str) -> Masked:
    """`text` with a mask in the place of each of `spans`, which are in order."""
    edges = "".join(text[max(0, s.start - 1) : s.start] + text[s.end : s.end + 1] for s in spans)
    touching = any(character.isalnum() for character in edges)
    standing = None if touching else _exchanged(text, spans, STAND_IN)
    return Masked(list(spans), standing, _exchanged(text, spans, own))


def _exchanged(text: str, spans: Sequence[Span], by: str) -> Marked:
    parts: list[str] = []
    places: list[tuple[int, int]] = []
    end = length = 0
    for span in spans:
        parts += [text[end : span.start], by]
        start = length + span.start - end
        length = start + len(by)
        places.append((start, length))
        end = span.end
    changed = "".join([*parts, text[end:]])
    return Marked(changed, [span_at(changed, start, stop) for start, stop in places])


def hidden(window: Window, places: Sequence[Span], mask_id: int) -> tuple[Window, list[int]] | None:
    """`window` with the mask's id in the place of each token that stands for one, and where.

    None if there is a place whose token is cut away, or joined with its neighbours.
    """
    positions = [_position(window, place) for place in places]
    found = [position for position in positions if position is not None]
    if len(found) < len(places):
        return None
    ids = window.ids.copy()
    ids[found] = mask_id
    return replace(window, ids=ids), found


def _position(window: Window, place: Span) -> int | None:
    """The token that is the place itself; a mask may have taken the space before it too."""
    try:
        tokens = tokens_of(window, place)
    except WordNotInWindow:
        return None
    at = tokens.start
    whole = tokens.stop == at + 1 and window.ends[at] == place.end
    return at if whole and place.start - 1 <= window.starts[at] <= place.start else None


def single_token(tokenizer: Tokenizer, word: str) -> int | None:
    """The token that `word` is where it stands in a text; None if it is several, or unknown."""
    if len(word) > CANDIDATE_CODE_POINTS_MAX:
        return None
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
