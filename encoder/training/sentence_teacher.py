"""The teacher of the sentence stage, read in the fastest way that a device has."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from encoder.checkpoint import WEIGHTS, load_sentence_encoder
from encoder.engine import batches
from encoder.manifest import ModelNotFound, Precision
from encoder.runtime import Encoder, PrecisionMissing, normalize
from encoder.sentence import read_sentence_settings
from encoder.tokenizer import Window
from encoder.training.corpus import file_sha256

# Padded tokens in one call. Served int8 is fastest where a batch stays in a core's cache; torch
# wants enough to be worth its calls.
SERVED_TOKENS, TORCH_TOKENS, CUDA_TOKENS = 1024, 8192, 131_072


class Teacher(Protocol):
    """A sentence encoder that is read and never trained.

    sha256: of all that decides its vectors: weights, tokenizer, length, numbers
    """

    sha256: str
    width: int

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(texts, width), each of length 1; long texts keep their head."""

    def states(self, texts: Sequence[str]) -> tuple[list[Window], list[NDArray[np.float32]]]:
        """The tokens of each text and their last states, (tokens, states' width)."""


class TextReader:
    """Texts to ids with a model's tokenizer; long texts keep their head."""

    def __init__(self, directory: Path, tokens_max: int) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.enable_truncation(tokens_max)
        self._tokenizer.no_padding()

    def ids(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Of each text, special tokens included."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def windows(self, texts: Sequence[str]) -> list[Window]:
        """As `ids`, with where each token stands; special tokens are empty."""
        found = []
        for encoding in self._tokenizer.encode_batch(list(texts)):
            places = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
            found.append(Window(np.array(encoding.ids, dtype=np.int64), places[:, 0], places[:, 1]))
        return found


class ServedTeacher:
    """A teacher as it is served, int8 on a CPU: of MiniLM three times as fast as torch in fp32,
    with vectors whose mean cosine with torch's is 0.9988."""

    def __init__(self, directory: Path, tokens_max: int, *, threads: int = 0) -> None:
        """Raises ModelNotFound, ModelDamaged, and PrecisionMissing if it was never exported."""
        self._encoder = Encoder.load(directory, precision=Precision.INT8, threads=threads)
        self._reader = TextReader(directory, min(tokens_max, self._encoder.tokens_max))
        self.width = self._encoder.width
        self.sha256 = _identity(self._encoder.weights_sha256, directory, tokens_max, "served int8")

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        nowhere = np.empty(0, dtype=np.int32)  # pooling asks for no offsets
        windows = [Window(ids, nowhere, nowhere) for ids in self._reader.ids(texts)]
        vectors = np.empty((len(texts), self.width), dtype=np.float32)
        for batch in batches([len(window.ids) for window in windows], SERVED_TOKENS):
            vectors[batch] = self._encoder.pooled([windows[i] for i in batch])
        return normalize(vectors)

    def states(self, texts: Sequence[str]) -> tuple[list[Window], list[NDArray[np.float32]]]:
        windows = self._reader.windows(texts)
        found: list[NDArray[np.float32]] = [np.empty((0, 0), np.float32)] * len(windows)
        for batch in batches([len(window.ids) for window in windows], SERVED_TOKENS):
            layers = self._encoder.states([windows[i] for i in batch], [self._encoder.layers])
            for i, states in zip(batch, layers, strict=True):
                found[i] = states[0]
        return windows, found


class TorchTeacher:
    """A teacher in torch: in fp16 on a GPU, in `precision` on a CPU."""

    def __init__(
        self,
        directory: Path,
        tokens_max: int,
        device: torch.device,
        precision: torch.dtype = torch.float32,
    ) -> None:
        """Raises ModelNotFound, ModelDamaged, UnsupportedModel."""
        cuda = device.type == "cuda"
        self._device = device
        self._precision = torch.float16 if cuda else precision
        self._budget = CUDA_TOKENS if cuda else TORCH_TOKENS
        self._model = load_sentence_encoder(directory).to(device)
        config = self._model.encoder.config
        longest = read_sentence_settings(directory).tokens_max or config.tokens_max
        self._reader = TextReader(directory, min(tokens_max, longest))
        self._pad_id = config.pad_id
        self.width = self._model.width
        weights = file_sha256(directory / WEIGHTS)
        self.sha256 = _identity(weights, directory, tokens_max, f"torch {self._precision}")

    @torch.inference_mode()
    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = self._reader.ids(texts)
        vectors = np.empty((len(texts), self.width), dtype=np.float32)
        enabled = self._precision != torch.float32
        with torch.autocast(self._device.type, self._precision, enabled=enabled):
            for batch in batches([len(row) for row in rows], self._budget):
                ids, mask = rectangle([rows[i] for i in batch], self._pad_id)
                pooled = self._model(
                    torch.from_numpy(ids).to(self._device), torch.from_numpy(mask).to(self._device)
                )
                vectors[batch] = F.normalize(pooled.float(), dim=-1).cpu().numpy()
        return vectors

    @torch.inference_mode()
    def states(self, texts: Sequence[str]) -> tuple[list[Window], list[NDArray[np.float32]]]:
        windows = self._reader.windows(texts)
        found: list[NDArray[np.float32]] = [np.empty((0, 0), np.float32)] * len(windows)
        enabled = self._precision != torch.float32
        with torch.autocast(self._device.type, self._precision, enabled=enabled):
            for batch in batches([len(window.ids) for window in windows], self._budget):
                ids, mask = rectangle([windows[i].ids for i in batch], self._pad_id)
                states = self._model.encoder(
                    torch.from_numpy(ids).to(self._device), torch.from_numpy(mask).to(self._device)
                ).last
                for i, row in zip(batch, states.float().cpu().numpy(), strict=True):
                    found[i] = row[: len(windows[i].ids)]
        return windows, found


def load_teacher(
    directory: Path, tokens_max: int, device: torch.device, precision: torch.dtype
) -> Teacher:
    """The fastest form of the teacher in `directory`: as served where it was exported in int8
    and torch has a CPU alone, else torch. Raises ModelNotFound, ModelDamaged, UnsupportedModel.
    """
    if device.type == "cpu":
        try:
            return ServedTeacher(directory, tokens_max, threads=torch.get_num_threads())
        except (ModelNotFound, PrecisionMissing):
            pass  # a directory of Hugging Face's, without our graphs
    return TorchTeacher(directory, tokens_max, device, precision)


def _identity(weights_sha256: str, directory: Path, tokens_max: int, numbers: str) -> str:
    tokenizer = file_sha256(directory / "tokenizer.json")
    parts = f"{weights_sha256} {tokenizer} {tokens_max} {numbers}"
    return hashlib.sha256(parts.encode()).hexdigest()


def rectangle(
    rows: Sequence[NDArray[np.int64]], pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Token ids padded to the longest, and where there are tokens: (rows, longest) both."""
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.bool_)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = True
    return ids, mask
