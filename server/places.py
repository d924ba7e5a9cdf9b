"""Where the words of a text are to be found among its windows' tokens. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass

from encoder.tokenizer import TokenizedText, Window
from encoder.words import Span, WordNotInWindow, tokens_of


@dataclass(frozen=True, slots=True)
class Place:
    """A word's row among the words wanted from one window, and its number of tokens."""

    window: int
    row: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Places:
    """What is wanted from each window, and which of it belongs to each span.

    slices: window → the token runs of the words wanted from it; windows of no use are absent
    places: one a span; None where no window has a token of it
    """

    slices: dict[int, list[slice]]
    places: list[Place | None]


def places_of(text: TokenizedText, spans: Sequence[Span]) -> Places:
    """Take each of `spans` from the window that shows most of its context."""
    slices: dict[int, list[slice]] = {}
    places: list[Place | None] = []
    for span in spans:
        best = best_window(text.windows, span)
        if best is None:
            places.append(None)
            continue
        window, tokens = best
        rows = slices.setdefault(window, [])
        places.append(Place(window, len(rows), tokens.stop - tokens.start))
        rows.append(tokens)
    return Places(dict(sorted(slices.items())), places)


def best_window(windows: Sequence[Window], span: Span) -> tuple[int, slice] | None:
    """The window with most of the word, then with most tokens on its shorter side."""
    best: tuple[int, slice] | None = None
    best_rank = (-1, -1)
    for number, window in enumerate(windows):
        try:
            tokens = tokens_of(window, span)
        except WordNotInWindow:
            continue
        rank = (tokens.stop - tokens.start, min(tokens.start, len(window.ids) - tokens.stop))
        if rank > best_rank:
            best, best_rank = (number, tokens), rank
    return best
