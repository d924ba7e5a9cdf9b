"""The command `senses`."""

import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt
from pydantic_settings import CliPositionalArg

from encoder.manifest import ModelDamaged, Precision

# Whole, a whitening blows up directions that say little. Plain text cannot tell how far to go;
# docs/senses.md has what CoarseWSD-20 says of MiniLM.
STRENGTH = 0.25


class Senses(BaseModel):
    """Fit how a model tells word senses: which layers, and a whitening, from plain text.

    Nothing is labelled. Two uses of a word in one document nearly always mean the same, in others
    perhaps not: those layers are taken by which uses in one document come nearer to one another
    than to uses in other documents, and what still varies within a document is evened out. Written
    into the model as senses.safetensors; an earlier one is replaced, vectors of other kinds stay.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: CliPositionalArg[Path] = Field(description="a model directory with its ONNX graphs")
    text: Path = Field(
        description="folder of text: .txt or .txt.xz in UTF-8, one paragraph per line, a blank "
        "line between documents"
    )
    words: PositiveInt = Field(default=400, description="words to learn from, at most")
    documents: PositiveInt = Field(default=16, description="documents of each word, at most")
    strength: float = Field(
        default=STRENGTH,
        ge=0,
        le=1,
        description="how far the whitening goes: 1 evens out wholly, 0 only centres",
    )
    seed: NonNegativeInt = Field(default=0, description="of the choice of words and documents")
    lower_cased: bool = Field(
        default=True,
        description="read texts in lower case, now and whenever senses are told: a capital tells "
        "the beginning of a sentence more often than a sense",
    )
    precision: Literal["fp32", "fp16", "int8"] = Field(
        default="int8", description="the graphs that embed the text"
    )

    def cli_cmd(self) -> None:
        """Run it."""
        # They read the model's graphs; --help must not.
        from encoder.runtime import PrecisionMissing  # noqa: PLC0415
        from encoder.training.corpus import CorpusInvalid  # noqa: PLC0415
        from encoder.training.senses import fit_senses  # noqa: PLC0415

        try:
            fitted = fit_senses(
                self.model,
                self.text,
                words_max=self.words,
                pairs_max=self.documents,
                strength=self.strength,
                seed=self.seed,
                precision=Precision(self.precision),
                lower_cased=self.lower_cased,
            )
        except (CorpusInvalid, ModelDamaged, PrecisionMissing, OSError) as error:
            sys.exit(f"polyseme-model: {error}")
        print("layers         nearer in a document than in another")
        for each in fitted.judged:
            print(f"{'+'.join(map(str, each.layers)):<15}{each.nearer:>36.3f}")
        best = "+".join(map(str, fitted.judged[0].layers))
        print(
            f"{self.model}: senses by layers {best}, whitened on {fitted.uses:,} uses of "
            f"{fitted.words} words"
        )
