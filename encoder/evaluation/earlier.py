"""Results in a model's `evaluation.json` that still hold, as what they were measured on is the
same."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from encoder.evaluation.result import Score, Task, TaskResult
from encoder.manifest import Manifest
from encoder.translation_config import FOLDER

DATA = "evaluation.json"

# A translator's encoder may be in part the model's own.
_OF_TRANSLATORS = (Task.TRANSLATION, Task.ALIGNMENT)
_SHARED = ("model.safetensors", "tokenizer.json")
_TOLD = (".svg", "README.md", DATA)  # say what a model is, and decide nothing


def measured_on(manifest: Manifest, task: Task) -> str:
    """SHA-256 over everything in a model directory that may decide what `task` finds."""
    seen = hashlib.sha256()
    if task not in _OF_TRANSLATORS:
        choices = manifest.model_dump(mode="json", exclude={"files", "precisions", "checksum"})
        seen.update(json.dumps(choices, sort_keys=True).encode())
    for name, record in sorted(manifest.files.items()):
        if _decides(name, task):
            seen.update(f"{name}={record.sha256}\n".encode())
    return seen.hexdigest()


def still_true(
    directory: Path, manifest: Manifest, columns: Sequence[str], seed: int
) -> dict[Task, dict[str, TaskResult]]:
    """By task, the results of the last evaluation of just these columns with this seed, as far as
    nothing that decides them has changed since; none where the file is not as it should be."""
    try:
        content = json.loads((directory / DATA).read_text("utf-8"))
        if list(content["columns"]) != list(columns) or content["seed"] != seed:
            return {}
        tasks = [t for t in Task if content["measured_on"].get(t) == measured_on(manifest, t)]
        return {task: _results(content["columns"], task) for task in tasks}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _decides(name: str, task: Task) -> bool:
    of_translator = name.startswith(f"{FOLDER}/")
    if task in _OF_TRANSLATORS:
        return of_translator or name in _SHARED
    return not of_translator and not name.endswith(_TOLD)


def _results(columns: Mapping[str, Any], task: Task) -> dict[str, TaskResult]:
    return {name: _result(found[task]) for name, found in columns.items() if task in found}


def _result(content: Mapping[str, Any]) -> TaskResult:
    scores = [Score(key, **score) for key, score in content["scores"].items()]
    return TaskResult(scores, content["notes"], content["details"])
