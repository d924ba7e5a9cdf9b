"""The command `polyseme-model`: bring a model in or train one, export it, measure it."""

import sys
import time
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliImplicitFlag,
    CliPositionalArg,
    CliSubCommand,
    SettingsError,
)

from encoder.config import UnsupportedModel
from encoder.evaluation.command import Align, Card, Evaluate
from encoder.manifest import DENSE_SHARE, Manifest, ModelDamaged, Precision, read_manifest, verify
from encoder.sense_space import SenseSpace, read_space
from encoder.training.command import Finetune, Pretrain, Snapshot
from encoder.training.senses_command import Senses
from encoder.training.translation_command import TrainTranslation
from encoder.translation_config import FOLDER
from encoder.translation_manifest import TranslationManifest

# What a caller can mend; anything else is our bug and shows its traceback.
_MISTAKES = (UnsupportedModel, ModelDamaged, OSError)


class _Command(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Import(_Command):
    """Copy a Hugging Face or sentence-transformers directory to a model directory of polyseme.

    Reads the types bert, roberta, xlm-roberta and modernbert from safetensors, whole or in shards;
    never a pickle. Checks that every weight has its place. Next: polyseme-model export DIR
    """

    source: CliPositionalArg[Path] = Field(
        description="directory with config.json, model.safetensors and a tokenizer; an installed "
        "package's directory will do"
    )
    out: Path = Field(description="directory to create; must not exist")
    name: str = Field(
        default="", description="the model's name in fingerprints; by default the source's own"
    )
    word_layers: tuple[int, ...] = Field(
        default=(),
        description="layers whose mean is a word's vector, 0 being the embeddings; "
        "by default the last, or the last half for a model not trained on sentences",
    )
    dimensions_choices: tuple[int, ...] = Field(
        default=(), description="lengths that vectors may be cut to, for a Matryoshka model"
    )
    dense_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=DENSE_SHARE,
        description="how much of a hybrid search's score is the similarity's; the rest is BM25's "
        "(bench/fusion.py measures it)",
    )
    half: CliImplicitFlag[bool] = Field(
        default=False, description="write the weights in fp16, which takes half of the disk"
    )

    def cli_cmd(self) -> None:
        """Run it."""
        from encoder.importing import import_directory  # torch takes seconds; --help must not

        manifest = import_directory(
            self.source,
            self.out,
            name=self.name,
            word_layers=self.word_layers,
            dimensions_choices=self.dimensions_choices,
            dense_share=self.dense_share,
            half=self.half,
        )
        print(
            f"{self.out}: {manifest.name}, {manifest.layers} layers, "
            f"vectors of {manifest.width} values; next: polyseme-model export {self.out}"
        )


class ImportTranslation(_Command):
    """Read a MarianMT directory, as the OPUS-MT models are, as a translation model of polyseme.

    Reads config.json, safetensors (never a pickle), vocab.json and the two SentencePiece files.
    Text does not pass through Moses' normalisation of punctuation. Next: polyseme-model export DIR
    """

    source: CliPositionalArg[Path] = Field(
        description="directory with config.json, model.safetensors, vocab.json, source.spm and "
        "target.spm"
    )
    out: Path = Field(description="directory to create; must not exist")
    source_language: tuple[str, ...] = Field(description="that it reads, as 'de'")
    target_language: tuple[str, ...] = Field(
        description="that it writes, as 'en'; for a model of several, as its vocabulary names "
        "them: 'fra' for the token >>fra<<"
    )

    def cli_cmd(self) -> None:
        """Run it."""
        from encoder.marian import import_marian  # torch takes seconds; --help must not

        if self.out.exists():
            raise FileExistsError(f"{self.out} exists; a model is never overwritten")
        config = import_marian(
            self.source,
            self.out,
            source_languages=self.source_language,
            target_languages=self.target_language,
        )
        pairs = ", ".join("-".join(pair) for pair in config.pairs)
        print(
            f"{self.out}: translates {pairs}, {config.encoder.layers} and {config.decoder.layers} "
            f"layers of {config.encoder.width}; next: polyseme-model export {self.out}"
        )


class Export(_Command):
    """Write ONNX graphs into a model directory, each proven against torch first.

    A graph that does not answer as the torch model does on the sample texts is not written, and
    the exit status is 1. fp32 must agree to 1e-5; int8 and fp16 by cosine.
    """

    directory: CliPositionalArg[Path] = Field(
        description="written by polyseme-model import, pretrain or finetune"
    )
    precision: tuple[Precision, ...] = Field(
        default=tuple(Precision),
        description="which to write: fp32 is exact, int8 about twice as fast on a CPU, "
        "fp16 is for GPUs",
    )

    def cli_cmd(self) -> None:
        """Run it."""
        from encoder.export import NoParity, export_directory  # imports torch
        from encoder.translation_export import export_translator

        start = time.monotonic()
        translates = (self.directory / FOLDER).is_dir()
        try:
            # An imported translation model may have nothing beside its translator.
            if not translates or (self.directory / "config.json").is_file():
                manifest = export_directory(
                    self.directory, precisions=self.precision, progress=_tell
                )
                print(_parities(manifest))
            if translates:
                translator = export_translator(
                    self.directory, precisions=self.precision, progress=_tell
                )
                print(_translation_parities(translator))
        except NoParity as error:
            sys.exit(str(error))
        print(f"{self.directory}: exported in {time.monotonic() - start:.0f} s")


class Info(_Command):
    """Show what a model directory holds, and check the SHA-256 of every file in it."""

    directory: CliPositionalArg[Path] = Field(description="written by polyseme-model import")

    def cli_cmd(self) -> None:
        """Run it."""
        manifest = read_manifest(self.directory)
        verify(self.directory, manifest)
        size_bytes = sum(record.size_bytes for record in manifest.files.values())
        print(
            f"name         {manifest.name}\n"
            f"vectors      {manifest.width} values, {manifest.pooling} pooling"
            f"{', length 1' if manifest.normalized else ''}\n"
            f"shape        {manifest.layers} layers, states of {manifest.states_width} values, "
            f"{manifest.vocab_size} tokens\n"
            f"reads        {manifest.tokens_max} tokens at most\n"
            f"words        mean of layers {', '.join(map(str, manifest.word_layers))}\n"
            f"senses       {_senses(read_space(self.directory, manifest))}\n"
            f"prompts      {', '.join(manifest.prompts) or 'none'}\n"
            f"files        {len(manifest.files)}, {size_bytes / 1e6:.1f} MB, all SHA-256 right\n"
            f"{_parities(manifest)}"
        )


class Model(BaseSettings):
    """Models for polyseme: import or train one, export it to ONNX, measure it.

    polyseme-model import ./all-MiniLM-L6-v2 --out models/minilm
    polyseme-model export models/minilm
    polyseme-model info models/minilm
    polyseme-model evaluate models/minilm --data DIR
    polyseme-model pretrain --text FOLDER --out models/mine
    """

    model_config = {
        "cli_kebab_case": True,
        "cli_prog_name": "polyseme-model",
        "cli_hide_none_type": True,
        "cli_avoid_json": True,
        "extra": "forbid",
    }

    import_: CliSubCommand[Import] = Field(
        alias="import", description="copy a Hugging Face directory and check it"
    )
    import_translation: CliSubCommand[ImportTranslation] = Field(
        description="read an OPUS-MT (MarianMT) directory"
    )
    export: CliSubCommand[Export] = Field(description="write ONNX graphs, proven against torch")
    info: CliSubCommand[Info] = Field(description="show a model directory and check its files")
    evaluate: CliSubCommand[Evaluate] = Field(description="measure a model and write its card")
    card: CliSubCommand[Card] = Field(description="write data, training and limits on its card")
    align: CliSubCommand[Align] = Field(description="choose the attention heads that align words")
    pretrain: CliSubCommand[Pretrain] = Field(
        description="train a masked language model on a folder of text"
    )
    snapshot: CliSubCommand[Snapshot] = Field(
        description="write the model as a running pretraining's last checkpoint has it"
    )
    finetune: CliSubCommand[Finetune] = Field(
        description="teach a pretrained model sentence vectors"
    )
    train_translation: CliSubCommand[TrainTranslation] = Field(
        description="teach a model to translate"
    )

    senses: CliSubCommand[Senses] = Field(
        description="fit how a model tells word senses, on plain text"
    )

    def cli_cmd(self) -> None:
        """Run the subcommand."""
        CliApp.run_subcommand(self)


def main() -> None:
    """Run the command line; a mistake is one line on stderr and exit status 1."""
    try:
        CliApp.run(Model)
    except ValidationError as error:
        sys.exit(f"polyseme-model: {_first(error)}")
    except SettingsError as error:
        sys.exit(f"polyseme-model: {error}")
    except _MISTAKES as error:
        sys.exit(f"polyseme-model: {error}")
    except ModuleNotFoundError as error:  # serving needs no torch, this does
        sys.exit(
            f"polyseme-model: this needs {error.name}: pip install '.[train]' in the repository"
        )


def _first(error: ValidationError) -> str:
    """The first mistake of a command line, with the flag as it is typed."""
    first = error.errors()[0]
    command, *rest = [str(part) for part in first["loc"]]
    flag = f"--{rest[0].replace('_', '-')}" if rest else command
    return f"{command}: {flag}: {first['msg'].lower()}"


def _parities(manifest: Manifest) -> str:
    if not manifest.precisions:
        return "precisions   none yet; write them with: polyseme-model export"
    lines = [
        f"{precision:<12} cosine to torch {parity.cosine_mean:.5f} mean, {parity.cosine_min:.5f} "
        f"least of {parity.texts} texts; largest difference {parity.difference_max:.1e}"
        for precision, parity in manifest.precisions.items()
    ]
    return "\n".join(lines)


def _senses(space: SenseSpace) -> str:
    layers = f"layers {', '.join(map(str, space.layers))} beside the text's vector"
    if space.whitening is None:
        return f"{layers}, not whitened; whiten them with: polyseme-model senses"
    return f"{layers}, whitened on {space.origin.get('uses', '?')} uses of words"


def _translation_parities(manifest: TranslationManifest) -> str:
    lines = [
        f"{precision:<12} translation: cosine to torch {parity.cosine_mean:.5f}, the same next "
        f"token after {parity.first_agrees:.1%} of {parity.tokens}; largest difference "
        f"{parity.difference_max:.1e}"
        for precision, parity in manifest.precisions.items()
    ]
    return "\n".join(lines)


def _tell(step: str) -> None:
    print(step, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
