"""A rehearsal of the sentence stage: what it will take in time and memory, measured."""

import time
from collections.abc import Callable, Sequence

from encoder.training.progress import duration
from encoder.training.recipe import Sentences
from encoder.training.rehearsal import memory_bytes
from encoder.training.sentence import SentenceTraining
from encoder.training.sentence_pairs import Kind
from encoder.training.sentence_run import describe_pairs, evaluation_steps
from encoder.training.sentence_teacher import Teacher
from encoder.training.sentence_vectors import TeacherVectors

TEACHER_TEXTS = 300  # of which the teacher's speed is taken
UNTIMED_STEPS, TIMED_STEPS = 2, 12  # memory is found, and code compiled, in the first

Say = Callable[[str], None]


def rehearse_teacher(
    teacher: Teacher, vectors: TeacherVectors, kinds: Sequence[Kind], say: Say
) -> float:
    """Say what the teacher has yet to read and how long it will take; returns the seconds."""
    say(describe_pairs(kinds))
    missing = vectors.missing(text for kind in kinds for text in kind.taught())
    sample = missing[:: max(1, len(missing) // TEACHER_TEXTS)]
    started = time.monotonic()
    if sample:
        teacher.vectors(sample)
    seconds = (time.monotonic() - started) * len(missing) / max(1, len(sample))
    say(f"teacher: {len(missing):,} texts to read in {duration(seconds)}, kept in {vectors.folder}")
    return seconds


def rehearse_sentences(
    training: SentenceTraining, rules: Sentences, teacher_s: float, say: Say
) -> None:
    """Do a few steps and an evaluation and say what the run will take; keeps nothing.

    training: of blank vectors; the time of a step does not depend on them
    """
    for _ in range(UNTIMED_STEPS):
        training.train()
    tokens, started = 0, time.monotonic()
    for _ in range(TIMED_STEPS):
        tokens += training.train().tokens
    step_s = (time.monotonic() - started) / TIMED_STEPS
    started = time.monotonic()
    training.evaluate()
    evaluation_s = time.monotonic() - started
    counts = ", ".join(
        f"{count} of {kind}" for kind, count in training.batches.step_pairs().items()
    )
    say(
        f"steps: {rules.steps:,} of {tokens / TIMED_STEPS:,.0f} tokens (pairs a step: {counts}), "
        f"{tokens / TIMED_STEPS / step_s:,.0f} tokens/s"
    )
    evaluations = rules.steps // evaluation_steps(rules.steps)
    total_s = teacher_s + step_s * rules.steps + evaluation_s * evaluations
    say(
        f"memory: {memory_bytes() / 2**20:,.0f} MiB at most so far; "
        f"{evaluations} evaluations of {duration(evaluation_s)}; whole run: {duration(total_s)}"
    )
