"""Values as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table
from rich.text import Text

from polyseme.comparison import Comparison, View
from polyseme.searching import Hit, SearchResult

SNIPPET_CHARACTERS = 300
MATRIX_SENTENCES_MAX = 12  # more do not fit side by side


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """An airy table without a frame."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, justify="right" if column in set(right) else "left")
    return made


def pairs(rows: Iterable[tuple[str, object]]) -> Table:
    """Names and values."""
    made = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, value if isinstance(value, Text) else Text(str(value)))
    return made


def grid() -> Table:
    """Numbers and what they stand for."""
    made = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    made.add_column(justify="right", style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    return made


def head(vector: NDArray[np.float32], count: int = 4) -> str:
    """The first values of a vector."""
    values = " ".join(f"{x:+.3f}" for x in vector[:count])
    return f"{values} … ({len(vector)})" if len(vector) > count else values


def bytes_text(count: int) -> str:
    """Such as `12.3 MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def hits(result: SearchResult, colour: bool) -> Group:
    """Hits, best first, each with its score and the part of its text that matches."""
    rows = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    rows.add_column(justify="right", style="dim")
    rows.add_column(justify="right", style="bold")
    rows.add_column(overflow="fold")
    for place, hit in enumerate(result.hits, start=1):
        rows.add_row(str(place), f"{hit.score:.3f}", _hit_text(hit, colour))
    took = result.timing
    searched = "every vector" if result.exact else "the approximate index"
    count = f"{len(result)} hits{' (no more match)' if result.exhausted else ''}"
    note = f"{count}, {searched} searched in {1000 * took.search_s:.1f} ms"
    return Group(rows, Text(note, style="dim"))


def _hit_text(hit: Hit, colour: bool) -> Text:
    title = str(hit.document.metadata.get("title", ""))
    text = Text.assemble((hit.id, "cyan"), "  " if title else "", (title, "bold"), "\n")
    text.append_text(snippet(hit, colour))
    if hit.translation is not None and hit.translation.text != hit.text:
        shown = visible(hit.translation.text[:SNIPPET_CHARACTERS]).replace("\n", " ")
        text.append(f"\n{shown}", style="italic")
    if hit.explanation is not None and hit.explanation.text:
        text.append(f"\n{hit.explanation.text}", style="dim")
    return text


def snippet(hit: Hit, colour: bool, characters: int = SNIPPET_CHARACTERS) -> Text:
    """The hit's text around what matches; in colour, or between « and » without."""
    text = hit.text
    passages = [h.span for h in hit.highlights if h.kind == "semantic"][:1]
    words = [h.span for h in hit.highlights if h.kind == "lexical"]
    marked = passages or words
    start = _snippet_start(text, min((s.start for s in marked), default=0), characters)
    end = min(len(text), start + characters)
    shown = Text(visible(text[start:end]).replace("\n", " "))
    for style, spans in (("green", passages), ("bold yellow", words)) if colour else ():
        for span in spans:
            shown.stylize(style, max(0, span.start - start), max(0, span.end - start))
    if not colour:
        inside = [(s.start - start, s.end - start) for s in marked if s.start < end]
        shown = Text(_bracketed(shown.plain, inside))
    return Text.assemble("…" if start else "", shown, "…" if end < len(text) else "")


def _snippet_start(text: str, first: int, characters: int) -> int:
    """A little before the first mark, at the beginning of a word if one begins in between."""
    start = max(0, min(first - 40, len(text) - characters))
    space = text.find(" ", start, first) if start else -1
    return start if space < 0 else space + 1


_CONTROLS = {code: " " for code in (*range(32), *range(127, 160)) if chr(code) != "\n"}


def visible(text: str) -> str:
    """A text for the terminal, a space for each control character: rich drops some of them, and
    spans of code points would then point beside their words."""
    return text.translate(_CONTROLS)


def _bracketed(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Each span between « and »; one that goes beyond the text is left open."""
    for start, end in sorted(spans, reverse=True):
        if 0 <= start < end:
            close = "»" if end <= len(text) else ""
            text = f"{text[:start]}«{text[start:end]}{close}{text[end:]}"
    return text


def comparison(result: Comparison) -> Group:
    """Sentences, the three matrices side by side as coloured cells, margins, the reading."""
    sentences = table("", "sense", "sentence", right=[""])
    for i, (text, sense, span) in enumerate(
        zip(result.sentences, result.senses, result.spans, strict=True), start=1
    ):
        shown = Text(visible(text))
        shown.stylize("bold", span.start, span.end)
        sentences.add_row(str(i), sense or "-", shown)
    views = result.views
    if len(result.sentences) > MATRIX_SENTENCES_MAX:
        shown_views = Group(Text("(matrices of so many sentences: see --json)", style="dim"))
    else:
        shown_views = Group(_matrices(views))
    margins = table(
        "", "same sense", "other sense", "margin", "nearest has the sense",
        right=["same sense", "other sense", "margin", "nearest has the sense"],
    )  # fmt: skip
    for view in views:
        margins.add_row(
            view.kind,
            _number(view.same_sense_mean),
            _number(view.other_sense_mean),
            _margin(view.margin),
            "-" if view.nearest_same_sense is None else f"{view.nearest_same_sense:.0%}",
        )
    labelled = any(view.margin is not None for view in views)
    reading = Text(result.reading(), style="bold")
    below = [margins, Text(""), reading] if labelled else [reading]
    return Group(sentences, Text(""), shown_views, Text(""), Group(*below))


def _matrices(views: Sequence[View]) -> Table:
    side_by_side = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for view in views:
        side_by_side.add_column(view.kind)
    side_by_side.add_row(*(_matrix(view.similarities) for view in views))
    return side_by_side


def _matrix(values: NDArray[np.float32]) -> Text:
    """Cells coloured by their rank within the matrix, so that each kind uses its whole range."""
    count = len(values)
    others = np.sort(values[~np.eye(count, dtype=bool)])
    text = Text()
    text.append("  " + "".join(f"{i + 1:>4}" for i in range(count)) + "\n", style="dim")
    for i in range(count):
        text.append(f"{i + 1:>2}", style="dim")
        for j in range(count):
            share = np.searchsorted(others, values[i, j]) / max(1, len(others) - 1)
            style = "dim" if i == j else _heat(float(share))
            text.append(f"{_cosine(float(values[i, j])):>4}", style=style)
        text.append("\n" if i + 1 < count else "")
    return text


def _cosine(value: float) -> str:
    """Such as `.87`, `-.12` and `1.0`: four characters, so that six sentences fit side by side."""
    text = f"{value:.2f}"
    return text[:-1] if abs(value) >= 0.995 else text.replace("0.", ".", 1)


_HEAT = ("white on grey15", "white on dark_blue", "white on dodger_blue3", "black on spring_green3")


def _heat(share: float) -> str:
    return _HEAT[min(len(_HEAT) - 1, int(share * len(_HEAT)))]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _margin(value: float | None) -> Text:
    if value is None:
        return Text("-")
    return Text(f"{value:+.2f}", style="bold green" if value > 0.05 else "bold red")
