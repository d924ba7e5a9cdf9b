"""An evaluation as one table: for a terminal, for a card, and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from encoder.evaluation.anchors import ANCHORS, NANO_FLOORS
from encoder.evaluation.result import Evaluation, Score, Task

_NOTHING = "–"
_TITLES = {
    Task.MLM: "Masked language model",
    Task.SENSES: "Word senses",
    Task.STS: "Sentence similarity",
    Task.TATOEBA: "Finding translations",
    Task.RETRIEVAL: "Retrieval",
    Task.CROSSLINGUAL: "Search across languages",
    Task.TRANSLATION: "Translation",
    Task.ALIGNMENT: "Word alignment",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line: what was measured, a cell a column, the floor and what stands beside it."""

    label: str
    cells: tuple[str, ...]
    floor: str
    beside: str


def sections(evaluation: Evaluation) -> list[tuple[str, list[Row]]]:
    """The rows of each task, in the order in which the tasks are declared."""
    return [(_TITLES[task], rows(evaluation, task)) for task in Task if rows(evaluation, task)]


def rows(evaluation: Evaluation, task: Task) -> list[Row]:
    """The rows of one task: every score that some column has."""
    results = evaluation.results.get(task, {})
    by_column = {name: {s.key: s for s in result.scores} for name, result in results.items()}
    labels = {s.key: s.label for result in results.values() for s in result.scores}
    return [
        Row(
            label,
            tuple(_cell(by_column.get(name, {}).get(key)) for name in evaluation.columns),
            _floor(key),
            ANCHORS.get(key, ""),
        )
        for key, label in labels.items()
    ]


def notes(evaluation: Evaluation) -> list[str]:
    """What the tasks want said, each sentence once."""
    every = (
        note
        for by_column in evaluation.results.values()
        for result in by_column.values()
        for note in result.notes
    )
    return list(dict.fromkeys(every))


def text(evaluation: Evaluation) -> str:
    """The table for a terminal, in aligned columns."""
    heads = ("", *evaluation.columns, "floor", "beside")
    found = sections(evaluation)
    lines = [
        (title, [(r.label, *r.cells, r.floor, r.beside) for r in part]) for title, part in found
    ]
    widths = _widths([heads, *(row for _, part in lines for row in part)])
    out = [_aligned(heads, widths)]
    for title, part in lines:
        out += ["", title, *(_aligned(row, widths) for row in part)]
    out += ["", *_remarks(evaluation)]
    return "\n".join(out)


def markdown(evaluation: Evaluation) -> str:
    """The table for a card, in GitHub's dialect."""
    heads = ("", *evaluation.columns, "nano must", "beside")
    out = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 2) + "---|"]
    for title, part in sections(evaluation):
        out.append(f"| **{title}** |" + " |" * (len(heads) - 1))
        out += [
            "| " + " | ".join((row.label, *row.cells, row.floor, row.beside)) + " |" for row in part
        ]
    out += ["", *(f"- {remark}" for remark in _remarks(evaluation))]
    return "\n".join(out)


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything, unrounded, for programs."""
    return {
        "model": evaluation.model,
        "weights_sha256": evaluation.weights_sha256,
        "command": evaluation.command,
        "seed": evaluation.seed,
        "measured_on": {task.value: sha256 for task, sha256 in evaluation.measured_on.items()},
        "columns": {
            name: {
                task.value: {
                    "scores": {
                        s.key: {"label": s.label, "value": s.value, "deviation": s.deviation}
                        for s in by_column[name].scores
                    },
                    "notes": by_column[name].notes,
                    "details": by_column[name].details,
                }
                for task, by_column in evaluation.results.items()
                if name in by_column
            }
            for name in evaluation.columns
        },
    }


def _remarks(evaluation: Evaluation) -> list[str]:
    scale = (
        "Scores whose range ends at 1 are times 100; losses are nats. The floors are those of "
        "polyseme-nano. Beside: [C] recomputed from public result files, [X] measured for this "
        "project."
    )
    partial = [f"PARTIAL, not the benchmark's numbers: {evaluation.partial}."]
    return [
        *(partial if evaluation.partial else []),
        f"Command: `{evaluation.command}`, seed {evaluation.seed}. {scale}",
        *notes(evaluation),
    ]


def _floor(key: str) -> str:
    if key.startswith("retrieval.") and key.endswith(".hybrid"):
        return "bm25"  # the last line of the set: fusion must not lose to its lexical half
    return f"{NANO_FLOORS[key]:g}" if key in NANO_FLOORS else ""


def _cell(score: Score | None) -> str:
    if score is None:
        return _NOTHING
    value = f"{score.value:.2f}" if score.key.startswith("mlm.") else f"{score.value:.1f}"
    return value if score.deviation is None else f"{value} ± {score.deviation:.1f}"


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    label, *cells, beside = line
    middle = [cell.rjust(width) for cell, width in zip(cells, widths[1:-1], strict=True)]
    return "  ".join([label.ljust(widths[0]), *middle, beside]).rstrip()
