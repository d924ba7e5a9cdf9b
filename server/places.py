"""Where the words of a text are to be found among its windows' tokens. Pure functions."""

from bisect import bisect_left, bisect_right
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
    starts = [_first(window) for window in text.windows]
    ends = [int(window.ends.max()) for window in text.windows]
    slices: dict[int, list[slice]] = {}
    places: list[Place | None] = []
    for span in spans:
        # Both edges rise from window to window: few of them can hold the word.
        near = range(bisect_right(ends, span.start), bisect_left(starts, span.end))
        best = best_window(text.windows, near, span)
        if best is None:
            places.append(None)
            continue
        window, tokens = best
        rows = slices.setdefault(window, [])
        places.append(Place(window, len(rows), tokens.stop - tokens.start))
        rows.append(tokens)
    return Places(dict(sorted(slices.items())), places)


def best_window(
    windows: Sequence[Window], near: Sequence[int], span: Span
) -> tuple[int, slice] | None:
    """Of the windows `near`, the one with most of the word, then with most tokens on its shorter
    side."""
    best: tuple[int, slice] | None = None
    best_rank = (-1, -1)
    for number in near:
        window = windows[number]
        try:
            tokens = tokens_of(window, span)
        except WordNotInWindow:
            continue
        rank = (tokens.stop - tokens.start, min(tokens.start, len(window.ids) - tokens.stop))
        if rank > best_rank:
            best, best_rank = (number, tokens), rank
    return best


def _first(window: Window) -> int:
    """Where the window's part of the text begins; special and prompt tokens have start -1."""
    inside = window.starts[window.starts >= 0]
    return int(inside[0]) if len(inside) else 0
