"""What an evaluation found, as values: scores by column, with what they can be held against."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Task(StrEnum):
    """The parts of an evaluation."""

    MLM = "mlm"
    SENSES = "senses"
    STS = "sts"
    TATOEBA = "tatoeba"
    RETRIEVAL = "retrieval"
    CROSSLINGUAL = "crosslingual"
    TRANSLATION = "translation"
    ALIGNMENT = "alignment"


class Form(StrEnum):
    """In what a model is computed."""

    TORCH = "torch"  # fp32, from model.safetensors
    FP32 = "fp32"  # these three: ONNX
    FP16 = "fp16"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class Score:
    """One number of one model.

    key:       stable name, as `sts.en`; anchors and floors are looked up by it
    label:     what was measured: set, split and scorer
    value:     times 100 where the scorer's range ends at 1; nats for a loss
    deviation: standard deviation over seeds, where there were several
    """

    key: str
    label: str
    value: float
    deviation: float | None = None


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What one task found of one model.

    notes:   sentences that a reader of the numbers must know
    details: for the JSON file alone
    """

    scores: list[Score] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All results of one model, by task and by column (`torch fp32`, `onnx int8`).

    measured_on: of each task, the SHA-256 of what decides its results
    partial:     why these are not the benchmark's numbers; empty if they are
    """

    model: str
    weights_sha256: str
    columns: tuple[str, ...]
    results: Mapping[Task, Mapping[str, TaskResult]]
    seed: int
    command: str
    measured_on: Mapping[Task, str] = field(default_factory=dict)
    partial: str = ""
