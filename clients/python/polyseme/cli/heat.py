"""Shares between tokens as people read them: coloured cells, or bars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.cells import set_cell_size
from rich.table import Table
from rich.text import Text

from polyseme.words import Token

COLUMNS_MAX = 100  # of a heat map, however wide the terminal
LABEL_COLUMNS = 15  # a number, a token, a blank
CELL_COLUMNS = 3
BARS_MAX = 15
BAR_COLUMNS = 40
# From little to much; the text on each keeps its contrast.
_COLOURS = (
    (0.02, "grey50"),
    (0.05, "white on grey15"),
    (0.10, "white on grey27"),
    (0.20, "white on dark_blue"),
    (0.40, "white on dodger_blue3"),
    (0.70, "black on spring_green3"),
    (1.01, "black on yellow1"),
)


def tokens_max(columns: int) -> int:
    """How many tokens a heat map of so many columns has room for."""
    return (min(columns, COLUMNS_MAX) - LABEL_COLUMNS) // CELL_COLUMNS


def heat_map(tokens: Sequence[Token], shares: NDArray[np.float32]) -> Text:
    """A row a token, a column a token, in percent: how much of the column's went into the row's."""
    labels = [(token.text, _style(token)) for token in tokens]
    return _map(labels, len(tokens), shares)


def word_map(rows: Sequence[str], columns: int, shares: NDArray[np.float32]) -> Text:
    """A row a word, a column for each of other words, in percent."""
    return _map([(word, "bold") for word in rows], columns, shares)


def _map(labels: Sequence[tuple[str, str]], columns: int, shares: NDArray[np.float32]) -> Text:
    numbers = "".join(f"{column:>{CELL_COLUMNS}}" for column in range(columns))
    text = Text(" " * LABEL_COLUMNS + numbers, style="dim", no_wrap=True)
    for number, ((label, style), row) in enumerate(zip(labels, shares.tolist(), strict=True)):
        text.append("\n")
        text.append(f"{number:>3} ", style="dim")
        text.append(set_cell_size(label, LABEL_COLUMNS - 4), style=style)
        for share in row:
            text.append(_cell(share), style=_colour(share))
    return text


def bars(tokens: Sequence[Token], shares: NDArray[np.float32], bars_max: int = BARS_MAX) -> Table:
    """Tokens by their share, the largest first; equal ones in the order of the text."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right", style="dim")
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    order = np.argsort(-shares, kind="stable")[:bars_max].tolist()
    largest = max(float(shares.max()), 1e-9)  # of nothing, no bar
    for number in order:
        share = float(shares[number])
        bar = "█" * round(BAR_COLUMNS * share / largest)
        label = Text(tokens[number].text, style=_style(tokens[number]))
        table.add_row(str(number), label, f"{share:.1%}", Text(bar, style="dodger_blue3"))
    left = float(shares.sum()) - float(shares[order].sum())
    if len(order) < len(tokens):
        table.add_row("", Text(f"{len(tokens) - len(order)} others", style="dim"), f"{left:.1%}")
    return table


def _cell(share: float) -> str:
    percent = round(100 * share)
    return f"{percent:>{CELL_COLUMNS}}" if percent else " ·".rjust(CELL_COLUMNS)


def _colour(share: float) -> str:
    return next(style for limit, style in _COLOURS if share < limit)


def _style(token: Token) -> str:
    return "dim" if token.special else "bold"
