"""`polyseme.json`: what a model directory holds, with the SHA-256 of every file in it."""

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from encoder.config import Pooling

MANIFEST_NAME = "polyseme.json"


class Precision(StrEnum):
    """The numbers that a model's large matrices are computed in."""

    FP32 = "fp32"
    FP16 = "fp16"  # for GPUs; a CPU computes it in fp32 with rounded weights
    INT8 = "int8"


class Graph(StrEnum):
    """The questions that an exported model answers, each by an ONNX graph of its own."""

    POOLED = "pooled"  # ids, mask -> one vector a text
    STATES = "states"  # ids, mask -> the states of every layer
    STATIC = "static"  # ids -> rows of the word-embedding table
    ATTENTION = "attention"  # ids, mask -> the attention of every layer
    FILL = "fill"  # ids, mask, places -> logits; only of a model with a masked-LM head


class ModelNotFound(FileNotFoundError):
    """There is no model in this directory, or it has not been imported."""


class ModelDamaged(ValueError):
    """A file of the model is not the one that was written."""

    def __init__(self, file: Path, what: str) -> None:
        super().__init__(f"{file} {what}")
        self.file = file


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(_Record):
    """A file's identity."""

    sha256: str
    size_bytes: int


class Parity(_Record):
    """How closely a graph answers as the torch model does, over sample texts."""

    texts: int
    cosine_mean: float
    cosine_min: float
    difference_max: float  # of a single value
    # Largest differences of a single share of attention and of a single logit, and the mean cosine
    # of logits; None where there is no such graph.
    attention_difference_max: float | None = None
    logit_difference_max: float | None = None
    logit_cosine_mean: float | None = None


DENSE_SHARE = 0.4  # best for all-MiniLM-L6-v2 on the sets of docs/model.md


class Manifest(_Record):
    """A model directory's own description. All paths are relative to the directory."""

    format: Literal[1] = 1
    name: str
    width: int  # of a text's vector
    states_width: int  # of a token's state
    layers: int
    tokens_max: int
    vocab_size: int
    pad_id: int
    pooling: Pooling
    normalized: bool
    prompts: Mapping[str, str] = {}
    dimensions_choices: tuple[int, ...] = ()  # Matryoshka lengths; empty: the width alone
    # Of a hybrid search's relative score; the rest is BM25's. Weak vectors deserve less.
    dense_share: Annotated[float, Field(ge=0, le=1)] = DENSE_SHARE
    word_layers: tuple[int, ...]  # the layers whose mean is a word's vector; 0 is the embeddings
    precisions: Mapping[Precision, Parity] = {}
    files: Mapping[str, FileRecord] = {}
    # Of all the above; empty in directories that were written before there was one.
    checksum: str = ""


def graph_path(precision: Precision, graph: Graph) -> str:
    """Where a graph is, relative to the model directory."""
    return f"onnx/{precision}/{graph}.onnx"


def graphs_of(manifest: Manifest, precision: Precision) -> frozenset[Graph]:
    """The graphs that the directory has in this precision; early exports lack some."""
    return frozenset(graph for graph in Graph if graph_path(precision, graph) in manifest.files)


def weights_path(precision: Precision) -> str:
    """Where the numbers of all graphs of a precision are, relative to the model directory."""
    return f"onnx/{precision}/weights.bin"


def read_manifest(directory: Path) -> Manifest:
    """Read `polyseme.json`. Raises ModelNotFound, or ModelDamaged if it is not what was written."""
    file = directory / MANIFEST_NAME
    if not file.is_file():
        raise ModelNotFound(
            f"{directory} has no {MANIFEST_NAME}; make one with: "
            f"polyseme-model import DIR --out {directory}"
        )
    source = file.read_bytes()
    try:
        manifest = Manifest.model_validate_json(source)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ModelDamaged(file, f"cannot be read: {where}: {first['msg']}") from None
    if manifest.checksum and manifest.checksum != checksum_of(json.loads(source)):
        raise ModelDamaged(file, "has another checksum than was written")
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `polyseme.json` with the SHA-256 of every other file, whole or not at all."""
    files = {
        path.relative_to(directory).as_posix(): FileRecord(
            sha256=sha256_of(path), size_bytes=path.stat().st_size
        )
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not _is_beside(path.relative_to(directory))
    }
    content = manifest.model_copy(update={"files": files}).model_dump(mode="json")
    content["checksum"] = checksum_of(content)
    temporary = directory / f"{MANIFEST_NAME}.new"
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    temporary.replace(directory / MANIFEST_NAME)


def _is_beside(path: Path) -> bool:
    """Whether a file is none of the model's: the manifest itself, or hidden, as `.git` is."""
    return path.name.startswith(MANIFEST_NAME) or any(p.startswith(".") for p in path.parts)


def checksum_of(content: Mapping[str, object]) -> str:
    """The SHA-256 of a manifest's content beside the checksum itself, in hexadecimal."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def verify(directory: Path, manifest: Manifest) -> None:
    """Compare every file with its record. Raises ModelDamaged, naming the first that differs."""
    verify_files(directory, manifest.files)


def verify_files(directory: Path, files: Mapping[str, FileRecord]) -> None:
    """The same for files by their paths relative to `directory`."""
    for name, record in files.items():
        path = directory / name
        if not path.is_file():
            raise ModelDamaged(path, "is missing")
        if path.stat().st_size != record.size_bytes:
            raise ModelDamaged(
                path, f"has {path.stat().st_size} bytes; {record.size_bytes} were written"
            )
        if sha256_of(path) != record.sha256:
            raise ModelDamaged(path, "has another SHA-256 than was written")


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
