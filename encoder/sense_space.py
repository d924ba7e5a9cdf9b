"""The vector by which a word's senses are told apart, and the file that says how a model makes it.

`senses.safetensors` in a model directory, with w the width of states: `mean` (2w,) and `matrix`
(2w, 2w) of the whitening in float32; in its metadata the layers of the mix, what it was fitted on,
and the SHA-256 of the weights that it was fitted for. `polyseme-model senses` writes it. Without it
words are told by the model's own mix, not whitened. Numpy alone: the format is a length, JSON and
the numbers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder.config import Pooling
from encoder.discriminant import unit
from encoder.manifest import Manifest, ModelDamaged, sha256_of
from encoder.vectors import pool
from encoder.whitening import Whitening
from encoder.words import SubwordPooling, word_vector

SENSES = "senses.safetensors"
FORMAT = "polyseme-senses-1"
WEIGHTS = "model.safetensors"

HEADER_BYTES_MAX = 100_000
_LENGTH_BYTES = 8
LOWER_CASED, YES = "lower_cased", "yes"  # in the file's metadata


@dataclass(frozen=True, slots=True)
class SenseSpace:
    """How a word in its sentence becomes one vector of length 1, (2 * states width,).

    The word's own, the mean over `layers` and its sub-words, stands beside its sentence's, the
    pooled last layer: what a sentence is about says much of which sense a word in it has. Each has
    length 1 by itself; then both together are whitened, if there is a whitening.
    """

    layers: tuple[int, ...]
    last: int  # the model's last layer
    whitening: Whitening | None = None
    sha256: str = ""  # of the file; empty without one
    origin: Mapping[str, str] = field(default_factory=dict)  # what it was fitted on, in words

    @property
    def lower_cased(self) -> bool:
        """Whether texts are read in lower case: a capital tells the beginning of a sentence more
        often than a sense, and a model that tells cases apart takes every "Apple" for a name."""
        return self.origin.get(LOWER_CASED) == YES

    def as_read(self, text: str) -> str:
        """`text` as the model is to read it, every character where it was."""
        return lowered(text) if self.lower_cased else text

    @property
    def name(self) -> str:
        """How such vectors are made, for their fingerprint."""
        whitened = f"whitened by {self.sha256}" if self.whitening else "not whitened"
        return f"senses, layers {','.join(map(str, self.layers))}, {whitened}"

    @property
    def states_needed(self) -> tuple[int, ...]:
        """The layers that `vectors` reads, rising."""
        return tuple(sorted({*self.layers, self.last}))

    @staticmethod
    def dimensions(width: int) -> int:
        """Length of its vectors, for states of `width` values."""
        return 2 * width

    def vectors(
        self,
        states: NDArray[np.float32],
        words: Sequence[slice],
        subword_pooling: SubwordPooling,
        pooling: Pooling,
    ) -> NDArray[np.float32]:
        """The vectors of words of one text, (words, 2 * width).

        states: (layers, tokens, width) of the layers `states_needed`
        words:  each word's run of tokens
        """
        rows = [self.states_needed.index(layer) for layer in self.layers]
        mixed = np.stack([word_vector(states[rows], run, subword_pooling) for run in words])
        sentence = pool(states[-1], pooling)
        return self.joined(mixed, np.broadcast_to(sentence, mixed.shape)).astype(np.float32)

    def joined(
        self, words: NDArray[np.floating], sentences: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Of words' vectors, the mean of the layers, and those of their sentences, each (n, width),
        (n, 2 * width)."""
        both = beside(words, sentences)
        return unit(self.whitening.apply(both) if self.whitening else both)


def lowered(text: str) -> str:
    """`text` in lower case, with its length: a capital that would become two characters stays."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def beside(words: NDArray[np.floating], sentences: NDArray[np.floating]) -> NDArray[np.float64]:
    """Both side by side, (n, 2 * width), each at length 1: what a whitening is fitted on."""
    parts = [unit(part.astype(np.float64)) for part in (words, sentences)]
    return np.concatenate(parts, axis=1)


def read_space(directory: Path, manifest: Manifest) -> SenseSpace:
    """The model's own sense space; without the file, its word layers, not whitened.

    Raises ModelDamaged for a file that makes no sense or was fitted for other weights.
    """
    plain = SenseSpace(layers=manifest.word_layers, last=manifest.layers)
    if SENSES not in manifest.files:
        return plain
    file = directory / SENSES
    try:
        tensors, metadata = read_tensors(file)
        mean, matrix = tensors["mean"], tensors["matrix"]
        layers = tuple(int(layer) for layer in metadata["layers"].split(","))
        _check(mean, matrix, layers, metadata, manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelDamaged(file, f"makes no sense: {error}") from None
    return SenseSpace(
        layers, manifest.layers, Whitening(mean, matrix), manifest.files[SENSES].sha256, metadata
    )


def without_senses(manifest: Manifest) -> Manifest:
    """The manifest of the same model without the file."""
    files = {name: record for name, record in manifest.files.items() if name != SENSES}
    return manifest.model_copy(update={"files": files})


def write_space(
    directory: Path, layers: Sequence[int], whitening: Whitening, origin: Mapping[str, str]
) -> None:
    """Write the file, whole or not at all. The manifest's records are the caller's to renew."""
    tensors = {"mean": whitening.mean, "matrix": whitening.matrix}
    metadata = {
        **origin,
        "format": FORMAT,
        "layers": ",".join(map(str, layers)),
        "weights_sha256": _weights(directory),
    }
    temporary = directory / f".{SENSES}.new"
    temporary.write_bytes(encoded(tensors, metadata))
    temporary.replace(directory / SENSES)


def encoded(tensors: Mapping[str, NDArray[np.floating]], metadata: Mapping[str, str]) -> bytes:
    """`tensors` in float32 as the bytes of a safetensors file."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    parts, end = [], 0
    for name, tensor in tensors.items():
        part = np.ascontiguousarray(tensor, dtype="<f4").tobytes()
        offsets = [end, end + len(part)]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
        parts.append(part)
        end += len(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)  # the numbers begin where they can be mapped
    return b"".join([len(text).to_bytes(_LENGTH_BYTES, "little"), text, *parts])


def read_tensors(file: Path) -> tuple[dict[str, NDArray[np.float64]], dict[str, str]]:
    """The tensors and the metadata of a safetensors file of float32. Raises ValueError."""
    content = file.read_bytes()
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if length > HEADER_BYTES_MAX:
        raise ValueError(f"its header would have {length} bytes")
    header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
    body = content[_LENGTH_BYTES + length :]
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] != "F32":
            raise ValueError(f"{name} is {entry['dtype']}, not F32")
        start, end = entry["data_offsets"]
        numbers = np.frombuffer(body[start:end], dtype="<f4").reshape(entry["shape"])
        tensors[name] = numbers.astype(np.float64)
    return tensors, metadata


def _check(
    mean: NDArray[np.float64],
    matrix: NDArray[np.float64],
    layers: Sequence[int],
    metadata: Mapping[str, str],
    manifest: Manifest,
) -> None:
    width = SenseSpace.dimensions(manifest.states_width)
    if metadata["format"] != FORMAT:
        raise ValueError(f"its format is {metadata['format']!r}, not {FORMAT!r}")
    if mean.shape != (width,) or matrix.shape != (width, width):
        raise ValueError(f"{mean.shape} and {matrix.shape} do not fit vectors of {width} values")
    if not (np.isfinite(mean).all() and np.isfinite(matrix).all()):
        raise ValueError("it holds a number that is not finite")
    if not all(0 <= layer <= manifest.layers for layer in layers):
        raise ValueError(f"layers {layers} are not within 0 to {manifest.layers}")
    weights = manifest.files[WEIGHTS].sha256 if WEIGHTS in manifest.files else ""
    if metadata["weights_sha256"] != weights:
        raise ValueError("it was fitted for other weights; fit it anew: polyseme-model senses")


def _weights(directory: Path) -> str:
    """The SHA-256 of the weights; empty for a checkpoint in shards."""
    file = directory / WEIGHTS
    return sha256_of(file) if file.is_file() else ""
