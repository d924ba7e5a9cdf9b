"""Writes an evaluation into a model directory: a part of the card, its head's results, a JSON
file, and the plot."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from encoder.evaluation.earlier import DATA
from encoder.evaluation.features import (
    BOTH,
    BOTH_WHITENED,
    SERVED,
    SHOTS,
    STATIC,
    STATIC_WHITENED,
    WORD,
    WORD_WHITENED,
)
from encoder.evaluation.head import with_head
from encoder.evaluation.model_index import model_index
from encoder.evaluation.plot import Line, plot
from encoder.evaluation.result import Evaluation, Score, Task
from encoder.evaluation.table import as_json, markdown
from encoder.manifest import read_manifest, write_manifest

CARD = "README.md"
PLOT = "averaged-versus-contextual.svg"
BEGIN = (
    "<!-- polyseme-model evaluate: what stands up to the end mark is written by this command -->"
)
END = "<!-- polyseme-model evaluate: end -->"

_PLACES = [*(str(shots) for shots in SHOTS), "all"]


class CardDamaged(ValueError):
    """The card has one of the marks between which the evaluation stands, but not the other."""


def write(directory: Path, evaluation: Evaluation) -> list[Path]:
    """Write card, data and plot into `directory` and renew its file records; says what it wrote.

    Raises ValueError for a partial evaluation, which belongs on no card, CardDamaged and
    HeadDamaged, all before anything is written.
    """
    if evaluation.partial:
        raise ValueError(f"a partial evaluation is never written: {evaluation.partial}")
    card = directory / CARD
    before = card.read_text("utf-8") if card.is_file() else f"# {evaluation.model}\n"
    files = {
        card: with_head(
            with_section(before, section(evaluation), card),
            {"model-index": model_index(evaluation)},
        ),
        directory / DATA: json.dumps(as_json(evaluation), indent=1, ensure_ascii=False) + "\n",
    }
    if curves := averaged_and_contextual(evaluation):
        files[directory / PLOT] = _picture(evaluation, curves)
    write_files(directory, files)
    return list(files)


def write_files(directory: Path, files: Mapping[Path, str]) -> None:
    """Write each file whole or not at all, then renew the directory's file records."""
    for file, content in files.items():
        temporary = file.with_name(f".{file.name}.new")
        temporary.write_text(content, "utf-8")
        temporary.replace(file)
    write_manifest(directory, read_manifest(directory))


def check(directory: Path) -> None:
    """Raise what `write` would: CardDamaged, HeadDamaged, or PermissionError if it may not write
    here."""
    card = directory / CARD
    if card.is_file():
        with_head(with_section(card.read_text("utf-8"), "", card), {})
    if not os.access(directory, os.W_OK):
        raise PermissionError(f"{directory} cannot be written to, so neither can its card")


def section(evaluation: Evaluation) -> str:
    """The card's part, without the marks."""
    parts = ["## Evaluation", "", markdown(evaluation)]
    if curves := averaged_and_contextual(evaluation):
        parts += ["", "### Averaged versus contextual", "", _comparison(evaluation, curves)]
    return "\n".join(parts)


def with_section(
    card: str, content: str, name: Path = Path(CARD), marks: tuple[str, str] = (BEGIN, END)
) -> str:
    """`card` with `content` between the marks, in the place of an earlier one or at the end.

    Raises CardDamaged if the marks are not a pair in order.
    """
    begin, end = marks
    marked = f"{begin}\n{content}\n{end}"
    begins, ends = card.count(begin), card.count(end)
    if begins == ends == 0:
        return f"{card.rstrip()}\n\n{marked}\n"
    if begins != 1 or ends != 1 or card.index(begin) > card.index(end):
        raise CardDamaged(f"{name} must hold the two marks of {begin!r} once each, or neither")
    return card[: card.index(begin)] + marked + card[card.index(end) + len(end) :]


def averaged_and_contextual(evaluation: Evaluation) -> list[Line]:
    """Macro-F1 of LDA over examples a sense, in the first column; empty without the scores."""
    results = evaluation.results.get(Task.SENSES, {})
    first = next((results[name] for name in evaluation.columns if name in results), None)
    if first is None:
        return []
    scores = {score.key: score for score in first.scores}
    chosen = (STATIC, STATIC_WHITENED, WORD, WORD_WHITENED, BOTH, BOTH_WHITENED, SERVED)
    return [_curve(scores, features.name, features.key) for features in chosen]


def _curve(scores: dict[str, Score], name: str, key: str) -> Line:
    keys = [*(f"senses.{key}.lda.{shots}-shot" for shots in SHOTS), f"senses.{key}.lda.macro"]
    points = [scores[point] for point in keys]
    return Line(name, [p.value for p in points], [p.deviation or 0.0 for p in points])


def _picture(evaluation: Evaluation, curves: Sequence[Line]) -> str:
    title = f"CoarseWSD-20, LDA: averaged and contextual vectors of {evaluation.model}"
    return plot(title, _PLACES, curves, "macro-F1 by examples a sense")


def _comparison(evaluation: Evaluation, curves: Sequence[Line]) -> str:
    lines = [
        f"One classifier (LDA), the same sentences of CoarseWSD-20, {evaluation.columns[0]}: "
        "macro-F1 by training examples a sense.",
        "",
        "| vectors | " + " | ".join(_PLACES) + " |",
        "|---|" + "---:|" * len(_PLACES),
    ]
    for curve in curves:
        cells = [
            f"{value:.1f} ± {deviation:.1f}" if deviation else f"{value:.1f}"
            for value, deviation in zip(curve.values, curve.deviations, strict=True)
        ]
        lines.append(f"| {curve.name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"![Averaged static vectors against contextual ones]({PLOT})"])
