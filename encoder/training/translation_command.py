"""The command `train-translation`."""

import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from pydantic_settings import CliImplicitFlag

from encoder.training.command import multiplied_in, refusing
from encoder.training.recipe import load_recipe


class TrainTranslation(BaseModel):
    """Teach a model to translate: a decoder beside its encoder, in the folder translation/.

    The recipe's `translation` table says with which pairs, each taken in both directions. What
    the model does already stays as it is, to the last bit. A model that translates already goes
    on learning, and its graphs are to be exported again. A run that was killed goes on with
    --resume.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Path = Field(description="model directory to begin with: of pretrain or finetune")
    text: Path = Field(description="folder of text, as for pretrain")
    recipe: Path = Field(description="TOML file that decides the run")
    out: Path = Field(description="folder of the run")
    cache: Path | None = Field(default=None, description="folder for cleaned text, as for pretrain")
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
    compiled: CliImplicitFlag[bool] = Field(
        default=False, description="run the layers through torch.compile (needs a C++ compiler)"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="of matrix products; auto takes bf16 where it is fast"
    )
    checkpoint_s: PositiveFloat = Field(
        default=300.0, description="seconds between checkpoints: what a kill can cost"
    )
    half: CliImplicitFlag[bool] = Field(
        default=False, description="write the translator in fp16, which takes half of the disk"
    )

    def cli_cmd(self) -> None:
        """Run it."""
        with refusing():
            self._run()

    def _run(self) -> None:
        recipe = load_recipe(self.recipe)
        # torch takes seconds to import; --help and a misspelt key must not
        from encoder.training.run import Interrupted  # noqa: PLC0415
        from encoder.training.translation_run import (  # noqa: PLC0415
            TranslationRun,
            TranslationSettings,
        )
        from encoder.training.workers import Workers  # noqa: PLC0415

        device = Workers.join().device
        settings = TranslationSettings(
            base=self.weights,
            text=self.text,
            out=self.out,
            cache=self.cache or self.out / "cache",
            device=device,
            precision=multiplied_in(self.precision, device.type, self.threads),
            compiled=self.compiled,
            resume=self.resume,
            checkpoint_s=self.checkpoint_s,
            half=self.half,
        )
        run = TranslationRun(recipe, settings)
        if self.dry_run:
            run.rehearse(print)
            return
        try:
            model = run.train()
        except Interrupted as end:
            sys.exit(f"{end}; go on with --resume")
        print(f"{model}: {recipe.translation.steps:,} steps")
