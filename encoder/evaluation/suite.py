"""Runs the tasks over the two forms of a model: torch fp32, and the ONNX graphs that are served."""

from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from encoder.evaluation.alignment import alignment
from encoder.evaluation.coarsewsd import coarsewsd_folder, word_senses
from encoder.evaluation.crosslingual import crosslingual, crosslingual_files
from encoder.evaluation.data import require, retrieval_folders, sense_folders
from encoder.evaluation.earlier import measured_on, still_true
from encoder.evaluation.masked import masked_loss
from encoder.evaluation.result import Evaluation, Form, Task, TaskResult
from encoder.evaluation.retrieval import retrieval
from encoder.evaluation.senses import Choice
from encoder.evaluation.sentences import graded_file, similarity, translation_files, translations
from encoder.evaluation.torch_model import TorchModel
from encoder.evaluation.translation import caption_files, captions
from encoder.evaluation.vectors import Subject
from encoder.manifest import Manifest, Precision, read_manifest
from encoder.runtime import Encoder
from encoder.translation_config import FOLDER

# Not asked of the served graphs: the losses of masked tokens, and where a given translation looks.
_TORCH_ALONE = (Task.MLM, Task.ALIGNMENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to evaluate. limit: of each set, for a quick look; None for all of it."""

    directory: Path
    data: Path
    tasks: tuple[Task, ...]
    forms: tuple[Form, ...]
    limit: int | None
    seed: int
    command: str


def evaluate(plan: Plan) -> Evaluation:
    """Run every task of `plan` for every form. What an evaluation before found in the others is
    taken over as far as it still holds, unless this is only a quick look.

    The mixes of layers that the first form chooses are used for the others too.
    Raises ModelNotFound, ModelDamaged, PrecisionMissing, DataMissing and DataMalformed.
    """
    manifest = read_manifest(plan.directory)
    _check_data(plan)  # before an hour of work, not after
    subjects = {column(form): _load(plan.directory, form) for form in plan.forms}
    results: dict[Task, dict[str, TaskResult]] = {task: {} for task in plan.tasks}
    for task in plan.tasks:
        for name, subject in subjects.items():
            if task in _TORCH_ALONE and not isinstance(subject, TorchModel):
                continue
            earlier = next(iter(results[task].values()), None)
            results[task][name] = _run(task, subject, plan, name, earlier)
    results |= _kept(plan, manifest)
    return Evaluation(
        model=manifest.name,
        weights_sha256=_weights(manifest),
        columns=tuple(subjects),
        results={task: results[task] for task in Task if task in results},
        seed=plan.seed,
        command=plan.command,
        measured_on={task: measured_on(manifest, task) for task in results},
        partial=partial(plan),
    )


def _kept(plan: Plan, manifest: Manifest) -> dict[Task, dict[str, TaskResult]]:
    """What holds of an earlier evaluation, of the tasks that are not in `plan`."""
    if plan.limit is not None:
        return {}
    columns = [column(form) for form in plan.forms]
    earlier = still_true(plan.directory, manifest, columns, plan.seed)
    return {task: found for task, found in earlier.items() if task not in plan.tasks}


def column(form: Form) -> str:
    """The heading of a form's numbers."""
    return "torch fp32" if form is Form.TORCH else f"onnx {form}"


def _load(directory: Path, form: Form) -> Subject:
    if form is Form.TORCH:
        return TorchModel(directory)
    return Encoder.load(directory, precision=Precision(form))


def _check_data(plan: Plan) -> None:
    """Raises DataMissing for the first task whose data are not there."""
    if Task.SENSES in plan.tasks:
        sense_folders(coarsewsd_folder(plan.data))
    if Task.STS in plan.tasks:
        require(graded_file(plan.data, "en"))
    if Task.TATOEBA in plan.tasks:
        for file in translation_files(plan.data).values():
            require(file)
    if Task.RETRIEVAL in plan.tasks:
        for folder in retrieval_folders(plan.data):
            require(folder / "corpus.jsonl")
            require(folder / "queries.jsonl")
    if Task.CROSSLINGUAL in plan.tasks:
        for file in crosslingual_files(plan.data):
            require(file)
    if Task.TRANSLATION in plan.tasks and (plan.directory / FOLDER).is_dir():
        for file in caption_files(plan.data).values():
            require(file)


def _run(  # noqa: PLR0911  # one for each task
    task: Task, subject: Subject, plan: Plan, name: str, earlier: TaskResult | None
) -> TaskResult:
    match task:
        case Task.MLM:
            return masked_loss(plan.directory, plan.data, limit=plan.limit, seed=plan.seed)
        case Task.SENSES:
            choices = earlier.details["choices"] if earlier else []
            return word_senses(
                subject,
                plan.data,
                column=name,
                limit=plan.limit,
                seed=plan.seed,
                chosen=[Choice(**choice) for choice in choices],
            )
        case Task.STS:
            return similarity(subject, plan.data, column=name, limit=plan.limit)
        case Task.TATOEBA:
            return translations(subject, plan.data, column=name, limit=plan.limit)
        case Task.RETRIEVAL:
            return retrieval(subject, plan.data, column=name, limit=plan.limit)
        case Task.CROSSLINGUAL:
            return crosslingual(subject, plan.data, column=name, limit=plan.limit)
        case Task.TRANSLATION:
            form = next(form for form in plan.forms if column(form) == name)
            return captions(plan.directory, plan.data, form, limit=plan.limit, seed=plan.seed)
        case Task.ALIGNMENT:
            return alignment(plan.directory, limit=plan.limit)
        case _:
            assert_never(task)


def partial(plan: Plan) -> str:
    """Why the numbers of `plan` are not the benchmark's; empty if they are."""
    known = {*plan.tasks, *_kept(plan, read_manifest(plan.directory))}
    left_out = [task.value for task in Task if task not in known]
    reasons = [f"at most {plan.limit} of each set"] if plan.limit else []
    reasons += [f"without {', '.join(left_out)}"] if left_out else []
    return " and ".join(reasons)


def _weights(manifest: Manifest) -> str:
    record = manifest.files.get("model.safetensors")
    return record.sha256 if record else ""
