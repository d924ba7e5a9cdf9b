"""`translation.json`: what has been exported of a translator, with the SHA-256 of every file.

It lies in the folder `translation/` of a model directory, beside `config.json`, which says what
the model is (see `translation_config`). All paths are relative to that folder.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from encoder.manifest import FileRecord, ModelDamaged, ModelNotFound, Precision, sha256_of
from encoder.translation_config import (
    CONFIG_NAME,
    FOLDER,
    SOURCE_TOKENIZER,
    TARGET_TOKENIZER,
)

TRANSLATION_MANIFEST_NAME = "translation.json"


class TranslationGraph(StrEnum):
    """A translator's two graphs."""

    ENCODE = "encode"  # ids, mask -> each decoder layer's keys and values of the source
    STEP = "step"  # one more token of each hypothesis -> the likeliest next ones


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TranslationParity(_Record):
    """How closely the graphs answer as the torch model does, over sample texts.

    tokens:              target tokens compared
    difference_max:      of a single log-probability
    cosine_mean:         of a token's log-probabilities, less their mean, over the vocabulary
    first_agrees:        share of tokens after which both find the same next token likeliest
    attention_difference_max: of a single share of the alignment heads' mean
    """

    tokens: int
    difference_max: float
    cosine_mean: float
    first_agrees: float
    attention_difference_max: float


class TranslationManifest(_Record):
    """What the folder holds."""

    format: Literal[1] = 1
    name: str
    precisions: Mapping[Precision, TranslationParity] = {}
    files: Mapping[str, FileRecord] = {}


def translation_graph_path(precision: Precision, graph: TranslationGraph) -> str:
    """Where a graph is, relative to the folder."""
    return f"onnx/{precision}/{graph}.onnx"


def translation_weights_path(precision: Precision) -> str:
    """Where the numbers of both graphs of a precision are, relative to the folder."""
    return f"onnx/{precision}/weights.bin"


def tokenizer_paths(folder: Path) -> tuple[str, str]:
    """The source's and the target's tokenizer, relative to the folder."""
    source = SOURCE_TOKENIZER if (folder / SOURCE_TOKENIZER).is_file() else "../tokenizer.json"
    target = TARGET_TOKENIZER if (folder / TARGET_TOKENIZER).is_file() else source
    return source, target


def has_translator(directory: Path) -> bool:
    """Whether there is an exported translator in a model directory."""
    return (directory / FOLDER / TRANSLATION_MANIFEST_NAME).is_file()


def read_translation_manifest(folder: Path) -> TranslationManifest:
    """Read `translation.json`. Raises ModelNotFound, or ModelDamaged if it makes no sense."""
    file = folder / TRANSLATION_MANIFEST_NAME
    if not file.is_file():
        raise ModelNotFound(
            f"{folder} has no {TRANSLATION_MANIFEST_NAME}; make one with: "
            f"polyseme-model export {folder.parent}"
        )
    try:
        return TranslationManifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ModelDamaged(file, f"cannot be read: {where}: {first['msg']}") from None


def write_translation_manifest(folder: Path, manifest: TranslationManifest) -> None:
    """Write `translation.json` with the SHA-256 of what serving reads, whole or not at all."""
    paths = {CONFIG_NAME, *tokenizer_paths(folder)}
    paths |= {p.relative_to(folder).as_posix() for p in folder.glob("onnx/*/*") if p.is_file()}
    files = {
        path: FileRecord(sha256=sha256_of(folder / path), size_bytes=(folder / path).stat().st_size)
        for path in sorted(paths)
    }
    content = manifest.model_copy(update={"files": files}).model_dump_json(indent=2)
    temporary = folder / f".{TRANSLATION_MANIFEST_NAME}.new"
    temporary.write_text(content + "\n", "utf-8")
    temporary.replace(folder / TRANSLATION_MANIFEST_NAME)
