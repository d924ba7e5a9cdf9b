"""The commands `pretrain`, `snapshot` and `finetune`."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliImplicitFlag,
    CliSubCommand,
    SettingsConfigDict,
)

if TYPE_CHECKING:
    import torch

    from encoder.training.recipe import Recipe
    from encoder.training.run import Settings
    from encoder.training.streams import Tokenized
    from encoder.training.workers import Workers


BEGUN = time.monotonic()  # nearly when the process did: torch is not imported yet


class _Common(BaseModel):
    text: Path = Field(
        description="folder of text: .txt or .txt.xz in UTF-8, one paragraph per line, a blank "
        "line between documents; .tsv holds translations"
    )
    recipe: Path | None = Field(
        default=None,
        description="TOML file that decides the model and the run; without it a small model of 8 "
        "million parameters is trained on everything in the folder",
    )
    out: Path = Field(default=Path("runs/model"), description="folder of the run")
    cache: Path | None = Field(
        default=None,
        description="folder for the cleaned and tokenised text, which runs may share "
        "(default: cache/ in the folder of the run)",
    )
    tokens: PositiveInt | None = Field(
        default=None, description="length of the run in tokens, in place of the recipe's"
    )
    weights: Path | None = Field(
        default=None,
        description="model directory that pretrain or finetune wrote, to begin with: its weights, "
        "its tokenizer and, without a recipe, its shape; to go on learning, or to learn the texts "
        "of a field",
    )


class Pretrain(_Common):
    """Train a tokenizer and a masked language model on a folder of text.

    A run that was stopped or killed goes on with --resume and ends with the same weights, nearly
    the same with --compiled. Under torchrun every process takes its part of each step.
    """

    resume: CliImplicitFlag[bool] = Field(
        default=False, description="go on from the run's last checkpoint"
    )
    dry_run: CliImplicitFlag[bool] = Field(
        default=False,
        description="read all text, try a few steps of each stage, say what time and memory the "
        "run will take, and train nothing; the prepared text is kept",
    )
    threads: PositiveInt | None = Field(
        default=None,
        description="of a CPU; the same number gives the same bits, uncompiled (default: all)",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="of matrix products; auto takes bf16 where it is fast"
    )
    compiled: CliImplicitFlag[bool] = Field(
        default=False, description="run the encoder through torch.compile (needs a C++ compiler)"
    )
    checkpoint_s: PositiveFloat = Field(
        default=300.0, description="seconds between checkpoints: what a kill can cost"
    )
    seconds: PositiveFloat | None = Field(
        default=None,
        description="end so many seconds from now, learning rate fallen and model written, however "
        "many tokens that gives; compiling counts; such a run cannot be repeated bit for bit",
    )

    def cli_cmd(self) -> None:
        with refusing():
            self._run()

    def _run(self) -> None:
        recipe = _recipe(self)
        # torch takes seconds to import; --help and a misspelt key must not
        from encoder.training.clock_run import ClockRun
        from encoder.training.run import Interrupted, Run
        from encoder.training.workers import Workers

        workers = Workers.join()
        settings = self._settings(workers)
        try:
            recipe, data = _prepared(recipe, settings, workers)
            run = (
                ClockRun(recipe, data, settings, workers, seconds=self.seconds, begun=BEGUN)
                if self.seconds
                else Run(recipe, data, settings, workers)
            )
            if self.dry_run:
                from encoder.training.rehearsal import rehearse

                rehearse(run.training, print)
                return
            model = run.train()
        except Interrupted as end:
            sys.exit(f"{end}; go on with --resume")
        finally:
            workers.leave()
        if workers.first:
            print(f"{model}: {run.tokens:,} tokens in {run.training.steps_done:,} steps")

    def _settings(self, workers: "Workers") -> "Settings":
        from encoder.training.run import Settings

        return Settings(
            text=self.text,
            out=self.out,
            cache=self.cache or self.out / "cache",
            weights=self.weights,
            resume=self.resume,
            checkpoint_s=self.checkpoint_s,
            precision=multiplied_in(self.precision, workers.device.type, self.threads),
            compiled=self.compiled,
            for_gpu=True if self.seconds else None,  # a rehearsal on a CPU goes the GPU's way
        )


class Snapshot(_Common):
    """Write the model as a run's last checkpoint has it, while the run goes on."""

    directory: Path = Field(description="directory to create; must not exist")

    def cli_cmd(self) -> None:
        if self.directory.exists():
            sys.exit(f"{self.directory} exists; a model is never overwritten")
        with refusing():
            # torch takes seconds to import; --help must not
            from encoder.training.run import Run, Settings
            from encoder.training.workers import Workers

            settings = Settings(
                text=self.text,
                out=self.out,
                cache=self.cache or self.out / "cache",
                weights=self.weights,
            )
            recipe, data = _prepared(_recipe(self), settings, Workers())
            steps = Run(recipe, data, settings, Workers()).snapshot(self.directory)
            print(f"{self.directory}: after {steps:,} of {recipe.steps:,} steps")


class Finetune(BaseModel):
    """Teach a pretrained model sentence vectors, from a teacher's and from pairs of texts.

    The recipe says which pairs (its sources, translations and `sentences` table). The teacher
    reads each text once; its vectors stay in the cache. A run that was killed goes on with
    --resume.
    """

    teacher: Path = Field(description="directory of the sentence encoder to learn from")
    text: Path = Field(description="folder of text, as for pretrain")
    recipe: Path = Field(description="TOML file that decides the run")
    out: Path = Field(description="folder of the run")
    weights: Path | None = Field(
        default=None,
        description="model directory to begin with: model/ of a pretraining run; needed for all "
        "but --prepare-only",
    )
    cache: Path | None = Field(
        default=None,
        description="folder for cleaned text, as for pretrain, and for the teacher's vectors",
    )
    evaluation: Path | None = Field(
        default=None,
        description="folder with sts/stsb/stsb-{en,de,fr}-dev.tsv (.xz), to judge the vectors by "
        "while they are learnt; never trained on",
    )
    steps: PositiveInt | None = Field(
        default=None, description="length of the run, in place of the recipe's"
    )
    resume: CliImplicitFlag[bool] = Field(
        default=False, description="go on from the run's last checkpoint"
    )
    dry_run: CliImplicitFlag[bool] = Field(
        default=False,
        description="read all text, try a few steps, say what time and memory teacher and run "
        "will take, and train nothing; the prepared text is kept",
    )
    prepare_only: CliImplicitFlag[bool] = Field(
        default=False, description="compute the teacher's vectors, and train nothing"
    )
    threads: PositiveInt | None = Field(default=None, description="of a CPU (default: all)")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="of matrix products; auto takes bf16 where it is fast"
    )
    compiled: CliImplicitFlag[bool] = Field(
        default=False, description="run the encoder through torch.compile (needs a C++ compiler)"
    )
    checkpoint_s: PositiveFloat = Field(default=300.0, description="seconds between checkpoints")

    def cli_cmd(self) -> None:
        if self.weights is None and not self.prepare_only:
            sys.exit("finetune needs --weights, unless it has --prepare-only")
        with refusing():
            self._run()

    def _run(self) -> None:
        from encoder.training.recipe import load_recipe

        recipe = load_recipe(self.recipe)
        if self.steps:
            rules = recipe.sentences.model_copy(update={"steps": self.steps})
            recipe = recipe.model_copy(update={"sentences": rules})
        # torch takes seconds to import; --help and a misspelt key must not
        from encoder.training.run import Interrupted
        from encoder.training.sentence_stage import SentenceStage, StageSettings
        from encoder.training.workers import Workers

        device = Workers.join().device
        settings = StageSettings(
            weights=self.weights,
            teacher=self.teacher,
            text=self.text,
            out=self.out,
            cache=self.cache or self.out / "cache",
            evaluation=self.evaluation,
            device=device,
            precision=multiplied_in(self.precision, device.type, self.threads),
            compiled=self.compiled,
        )
        stage = SentenceStage(recipe, settings)
        if self.dry_run:
            stage.rehearse(print)
            return
        stage.teach(print)
        if self.prepare_only:
            return
        try:
            model = stage.train(resume=self.resume, checkpoint_s=self.checkpoint_s)
        except Interrupted as end:
            sys.exit(f"{end}; go on with --resume")
        print(f"{model}: {recipe.sentences.steps:,} steps")


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what a user can put right into one line on stderr and exit status 1."""
    from encoder.config import UnsupportedModel
    from encoder.manifest import ModelDamaged
    from encoder.training.checkpoints import CheckpointRefused
    from encoder.training.corpus import CorpusInvalid
    from encoder.training.recipe import RecipeInvalid

    refused = (CheckpointRefused, CorpusInvalid, RecipeInvalid, UnsupportedModel, ModelDamaged)
    try:
        yield
    except (OSError, ArithmeticError, *refused) as error:
        sys.exit(str(error))


def _recipe(command: _Common) -> "Recipe":
    from encoder.training.recipe import Recipe, load_recipe

    if command.recipe:
        recipe = load_recipe(command.recipe)
    elif command.weights:
        from encoder.training.beginning import shape_of  # it imports torch, which takes seconds

        recipe = Recipe(name=command.out.name, model=shape_of(command.weights))
    else:
        recipe = Recipe(name=command.out.name)
    return recipe.with_tokens(command.tokens) if command.tokens else recipe


def _prepared(
    recipe: "Recipe", settings: "Settings", workers: "Workers"
) -> "tuple[Recipe, Tokenized]":
    """The first process prepares the text; the others wait for it and then find it ready."""
    from encoder.training.run import prepare

    if workers.first:
        found = prepare(recipe, settings)
        workers.wait()
        return found
    workers.wait()
    return prepare(recipe, settings)


def multiplied_in(asked: str, device: str, threads: int | None) -> "torch.dtype":
    """The numbers to multiply in; sets the count of threads, which must come first."""
    import torch

    from encoder.training.memory import keep_freed_memory

    if device == "cpu":
        keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    fast = device == "cuda" or torch.cpu._is_avx512_bf16_supported()
    bf16 = asked == "bf16" or (asked == "auto" and fast)
    return torch.bfloat16 if bf16 else torch.float32


class _Program(BaseSettings):
    """Train polyseme's own model."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m encoder.training.command",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_enforce_required=True,
    )

    pretrain: CliSubCommand[Pretrain]
    snapshot: CliSubCommand[Snapshot]
    finetune: CliSubCommand[Finetune]

    def cli_cmd(self) -> None:
        CliApp.run_subcommand(self)


def main() -> None:
    """Read the command line and do what it says."""
    CliApp.run(_Program)


if __name__ == "__main__":
    main()
