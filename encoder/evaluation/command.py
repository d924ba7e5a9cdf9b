"""The commands `evaluate` (also `python -m encoder.evaluation.command`), `align` and `card`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic_settings import CliApp, CliPositionalArg

from encoder.config import UnsupportedModel
from encoder.evaluation.result import Form, Task
from encoder.manifest import ModelDamaged

if TYPE_CHECKING:
    from encoder.evaluation.describe import Facts
    from encoder.evaluation.suite import Plan

# The values of the two enumerations: the command line would show the names of their members.
TaskName: TypeAlias = Literal[
    "mlm",
    "senses",
    "sts",
    "tatoeba",
    "retrieval",
    "crosslingual",
    "translation",
    "alignment",
]
FormName: TypeAlias = Literal["torch", "fp32", "fp16", "int8"]


class Evaluate(BaseModel):
    """Measure a model on the benchmarks, print one table and write it on the model's card.

    Only an evaluation of every task in full is written. Of tasks that are not asked for, the
    results on the card are kept where the files that they were measured on are the same. All
    that was computed is thrown away.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: CliPositionalArg[Path] = Field(description="a model directory, with a polyseme.json")
    data: Path = Field(
        description="folder with sts/, parallel/, contrastive/, retrieval/, wsd/ and lm-eval/"
    )
    tasks: list[TaskName] = Field(
        default=list(get_args(TaskName)),
        description="what to measure; repeat, or separate by commas",
    )
    forms: list[FormName] = Field(
        default=["torch", "int8"],
        description="in what the model is computed: torch (fp32), or ONNX in fp32, fp16, int8",
    )
    limit: PositiveInt | None = Field(
        default=None,
        description="a quick look at so many texts of each set; marked as partial, never written",
    )
    seed: NonNegativeInt = Field(default=0, description="of masks, and of draws of few examples")

    def cli_cmd(self) -> None:
        """Run it."""
        from encoder.evaluation import card, suite, table  # torch takes seconds; --help must not
        from encoder.evaluation.bleu import ScorerMissing
        from encoder.evaluation.data import DataMalformed
        from encoder.evaluation.head import HeadDamaged
        from encoder.runtime import PrecisionMissing

        # What a caller can mend; anything else is our bug and shows its traceback.
        model_mistakes = (ModelDamaged, PrecisionMissing, UnsupportedModel, ScorerMissing)
        mistakes = (OSError, *model_mistakes, DataMalformed, card.CardDamaged, HeadDamaged)
        try:
            plan = self._plan()
            if not suite.partial(plan):
                card.check(self.model)
            evaluation = suite.evaluate(plan)
            print(table.text(evaluation))
            if evaluation.partial:
                print("Nothing was written: this is a partial evaluation.")
                return
            written = card.write(self.model, evaluation)
        except mistakes as error:
            sys.exit(f"polyseme-model: {error}")
        print(f"Written: {', '.join(map(str, written))}")

    def _plan(self) -> "Plan":
        from encoder.evaluation.suite import Plan

        return Plan(
            directory=self.model,
            data=self.data,
            # In the order of declaration, each once, whatever the order on the command line.
            tasks=tuple(task for task in Task if task in self.tasks),
            forms=tuple(form for form in Form if form in self.forms),
            limit=self.limit,
            seed=self.seed,
            # On a card: what a stranger types, not where our folders are.
            command=f"polyseme-model evaluate {self.model.resolve().name} --data DIR",
        )


class Align(BaseModel):
    """Choose the attention heads that align a translator's words best, and note them in the model.

    By half of the hand-made pairs beside `encoder.evaluation.alignment`; `evaluate` scores them by
    the other half. They count from the next `polyseme-model export` on, which must follow.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: CliPositionalArg[Path] = Field(description="a model directory with a translator")

    def cli_cmd(self) -> None:
        """Run it."""
        # torch takes seconds; --help must not
        from encoder.evaluation.alignment import SAMPLE, choose_alignment, halves, read_pairs

        try:
            development, _ = halves(read_pairs(SAMPLE))
            found = choose_alignment(self.model, development)
        except (OSError, ModelDamaged, UnsupportedModel) as error:
            sys.exit(f"polyseme-model: {error}")
        heads = ", ".join(str(head) for head in found.heads.heads)
        print(
            f"{self.model}: layer {found.heads.layer}, heads {heads} (from 0): error rate "
            f"{100 * found.error_rate:.1f} on the {found.pairs} pairs that chose them; "
            f"next: polyseme-model export {self.model}"
        )


class Card(BaseModel):
    """Write what a model of our own is made of on its card: data, training, limits.

    An evaluation on the card stays; so does whatever else stands outside the marks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: CliPositionalArg[Path] = Field(description="a model directory, with a polyseme.json")
    recipe: Path = Field(description="TOML file of its training, with a licence beside each source")
    run: list[str] = Field(
        default=[],
        description="TITLE=FOLDER of a training run, in their order; FOLDER@SECONDS where its "
        "curves hold no times; repeat",
    )
    teacher: str = Field(default="", description="of the sentence vectors, by its name on the hub")
    license: str = Field(default="apache-2.0", description="of the weights")
    hardware: str = Field(default="two CPU cores", description="that trained it")
    watts: PositiveFloat = Field(
        default=60.0, description="of that hardware, stated, where power was not measured"
    )

    def cli_cmd(self) -> None:
        """Run it."""
        from encoder.evaluation.card import CardDamaged
        from encoder.evaluation.describe import describe
        from encoder.evaluation.head import HeadDamaged
        from encoder.training.recipe import RecipeInvalid

        try:
            written = describe(self.model, self._facts())
        except (OSError, ModelDamaged, CardDamaged, HeadDamaged, RecipeInvalid) as error:
            sys.exit(f"polyseme-model: {error}")
        print(f"Written: {', '.join(map(str, written))}")

    def _facts(self) -> "Facts":
        from dataclasses import replace

        from encoder.evaluation.describe import Facts
        from encoder.evaluation.provenance import stage_of, texts_of
        from encoder.training.recipe import load_recipe

        stages, pictures = [], []
        for given in self.run:
            title, _, place = given.partition("=")
            folder, _, seconds = place.partition("@")
            stage = stage_of(Path(folder), title)
            stages.append(replace(stage, seconds=float(seconds)) if seconds else stage)
            curves = Path(folder) / "curves.svg"
            pictures.append(curves.read_text("utf-8") if curves.exists() else None)
        return Facts(
            recipe=load_recipe(self.recipe),
            texts=texts_of(self.recipe),
            stages=stages,
            pictures=pictures,
            teacher=self.teacher,
            licence=self.license,
            hardware=self.hardware,
            watts=self.watts,
        )


if __name__ == "__main__":
    CliApp.run(Evaluate)
