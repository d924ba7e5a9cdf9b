"""Where a model of our own comes from: its recipe's texts with their licences, and its runs."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from encoder.training.curves import read_curves
from encoder.training.recipe import Aligned, Recipe, Source, load_recipe

_HEADER = re.compile(r"\s*\[\[?[\w.]+\]\]?\s*(?:#\s*(.*))?$")
_PATH = re.compile(r"\s*paths?\s*=\s*(.*)$")
_STRING = re.compile(r'"([^"]*)"')
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class Text:
    """One source: what the recipe's comment says of it, and how often it is read beside others."""

    path: str
    language: str
    licence: str
    weight: float
    use: str  # "text", "translations" or "sentence pairs"

    @property
    def name(self) -> str:
        """As a data set is called: the folder of several files, or the file."""
        parts = PurePosixPath(self.path).parts
        if parts[0] == "pretrain" and len(parts) > 2:
            return f"{parts[-1].partition('.')[0]}-{parts[1]}"
        return parts[1] if len(parts) > 2 else parts[-1].partition(".")[0]


@dataclass(frozen=True, slots=True)
class Stage:
    """What one run of training took. tokens: 0 where the run does not count them.

    watts: mean of what was measured; None where nothing was
    """

    title: str
    steps: int
    tokens: int
    seconds: float
    watts: float | None

    def kilowatt_hours(self, watts_stated: float) -> float:
        """Of energy: with the watts measured, else with the stated ones."""
        watts = watts_stated if self.watts is None else self.watts
        return self.seconds * watts / JOULES_PER_KWH


def texts_of(recipe_file: Path) -> list[Text]:
    """The texts of a recipe with their licences, in its order. Raises RecipeInvalid."""
    recipe = load_recipe(recipe_file)
    licences = licences_of(recipe_file.read_text("utf-8"))
    return [
        Text(path, source.language, _licence(path, licences), source.weight, use)
        for source, use in _sources(recipe)
        for path in (source.paths[0] if isinstance(source, Aligned) else source.path,)
    ]


def _sources(recipe: Recipe) -> Iterable[tuple[Source | Aligned, str]]:
    yield from ((source, "text") for source in recipe.sources)
    yield from ((source, "translations") for source in recipe.pairs)
    yield from ((aligned, "translations") for aligned in recipe.aligned)
    yield from ((source, "sentence pairs") for source in recipe.sentences.pairs)


def licences_of(recipe: str) -> dict[str, str]:
    """What the comment beside a table's head says, by each path that the table names."""
    found: dict[str, str] = {}
    comment = ""
    for line in recipe.splitlines():
        if head := _HEADER.match(line):
            comment = (head.group(1) or "").strip()
        elif (paths := _PATH.match(line)) and comment:
            found.update(dict.fromkeys(_STRING.findall(paths.group(1)), comment))
    return found


def _licence(path: str, licences: Mapping[str, str]) -> str:
    """The path's own, or that of a file beside it; else it says that it is not known."""
    if path in licences:
        return licences[path]
    beside = (text for other, text in licences.items() if _folder(other) == _folder(path))
    return next(beside, "not stated")


def _folder(path: str) -> str:
    return PurePosixPath(path).parent.as_posix()


def stage_of(run: Path, title: str) -> Stage:
    """What the curves of a run say that it took. Raises FileNotFoundError without curves."""
    file = run / "curves.jsonl"
    lines = [line for line in read_curves(file) if "tokens_per_s" in line]
    if not lines:
        raise FileNotFoundError(f"{file} has no line of training: is {run} the folder of a run?")
    last = lines[-1]
    return Stage(
        title=title,
        steps=int(last["step"]),
        tokens=int(last.get("tokens", 0)),
        seconds=float(last["seconds"]) if "seconds" in last else _seconds(lines),
        watts=mean_watts(run / "power.csv"),
    )


def _seconds(lines: Sequence[Mapping[str, float]]) -> float:
    """From tokens and tokens/s of each line; a run that counts no tokens gives 0."""
    before, seconds = 0.0, 0.0
    for line in lines:
        if "tokens" not in line:
            return 0.0
        seconds += (line["tokens"] - before) / max(line["tokens_per_s"], 1e-9)
        before = line["tokens"]
    return seconds


def mean_watts(file: Path) -> float | None:
    """Of the samples that nvidia-smi wrote, the second column; None without any."""
    if not file.exists():
        return None
    watts = []
    with file.open(encoding="utf-8", newline="") as rows:
        for row in csv.reader(rows):
            try:
                watts.append(float(row[1]))
            except (IndexError, ValueError):
                continue  # the head, or a line that a kill cut
    return sum(watts) / len(watts) if watts else None
