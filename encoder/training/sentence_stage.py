"""The sentence stage put together: its text, its teacher, its run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from encoder.checkpoint import WEIGHTS
from encoder.training.corpus import CorpusInvalid, file_sha256
from encoder.training.recipe import Recipe
from encoder.training.run import Settings, prepare
from encoder.training.sentence import SentenceTraining
from encoder.training.sentence_masked import MaskedRows
from encoder.training.sentence_pairs import load_kinds
from encoder.training.sentence_rehearsal import rehearse_sentences, rehearse_teacher
from encoder.training.sentence_run import SentenceRun, describe_pairs, digest_of
from encoder.training.sentence_scores import load_graded
from encoder.training.sentence_teacher import load_teacher
from encoder.training.sentence_vectors import BlankVectors, TeacherVectors, Vectors

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSettings:
    """Where things are, and how they are computed. weights: None where nothing is trained."""

    weights: Path | None
    teacher: Path
    text: Path
    out: Path
    cache: Path
    device: torch.device
    evaluation: Path | None = None
    precision: torch.dtype = torch.float32
    compiled: bool = False


class SentenceStage:
    """One run of the stage, from the folder of text to the model's directory."""

    def __init__(self, recipe: Recipe, settings: StageSettings) -> None:
        """Read the text and the teacher. Raises CorpusInvalid, ModelNotFound, ModelDamaged,
        UnsupportedModel."""
        self._recipe = recipe
        self._settings = settings
        rules = recipe.sentences
        tokens_max = rules.teacher_tokens_max or rules.text_tokens_max
        self._teacher = load_teacher(
            settings.teacher, tokens_max, settings.device, settings.precision
        )
        self._kinds = load_kinds(settings.text, recipe, settings.cache)
        self._vectors = TeacherVectors(settings.cache, self._teacher)

    def rehearse(self, say: Say) -> None:
        """Measure what the stage will take, and say it."""
        seconds = rehearse_teacher(self._teacher, self._vectors, self._kinds, say)
        blank = BlankVectors(self._vectors.width)
        rehearse_sentences(self._training(blank), self._recipe.sentences, seconds, say)

    def teach(self, say: Say) -> None:
        """Have the teacher read what it has not read yet."""
        say(describe_pairs(self._kinds))
        count = self._vectors.compute(text for kind in self._kinds for text in kind.taught())
        say(f"teacher: {count:,} texts read, {len(self._vectors):,} kept in {self._vectors.folder}")

    def train(self, *, resume: bool, checkpoint_s: float) -> Path:
        """Train, after `teach`; returns the model's directory. Raises what SentenceRun does."""
        data = digest_of(self._weights() / WEIGHTS, self._teacher.sha256, self._kinds)
        run = SentenceRun(self._training(self._vectors), self._recipe, data, self._settings.out)
        return run.train(resume=resume, checkpoint_s=checkpoint_s)

    def _training(self, vectors: Vectors) -> SentenceTraining:
        settings = self._settings
        return SentenceTraining(
            self._recipe,
            self._weights(),
            vectors,
            self._kinds,
            device=settings.device,
            precision=settings.precision,
            compiled=settings.compiled,
            teacher=self._teacher,
            masked=self._masked() if self._recipe.sentences.masked_share else None,
            graded=load_graded(settings.evaluation) if settings.evaluation else None,
        )

    def _weights(self) -> Path:
        if self._settings.weights is None:
            raise ValueError("training needs weights to begin with")
        return self._settings.weights

    def _masked(self) -> MaskedRows:
        """The rows that pretraining reads. Raises CorpusInvalid if the weights are of another
        text, and so of another tokenizer."""
        settings = self._settings
        where = Settings(text=settings.text, out=settings.out, cache=settings.cache)
        recipe, data = prepare(self._recipe, where)
        files = (data.folder / "tokenizer.json", self._weights() / "tokenizer.json")
        if len({file_sha256(file) for file in files}) > 1:
            raise CorpusInvalid(
                f"{files[1]} is not the tokenizer of {files[0]}: give the text and recipe that the "
                "weights were pretrained with, or masked_share = 0"
            )
        return MaskedRows(recipe, data)
