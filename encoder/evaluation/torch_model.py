"""A model directory in torch fp32, with the methods of a runtime: the reference."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoder.checkpoint import load_sentence_encoder
from encoder.manifest import read_manifest, verify
from encoder.model import SentenceEncoder
from encoder.sense_space import read_space
from encoder.tokenizer import Tokenizer, Window


class TorchModel:
    """What `runtime.Encoder` answers, computed by torch from `model.safetensors`."""

    def __init__(self, directory: Path) -> None:
        """Load and check `directory`. Raises ModelNotFound, ModelDamaged, UnsupportedModel."""
        manifest = read_manifest(directory)
        verify(directory, manifest)
        self._model: SentenceEncoder = load_sentence_encoder(directory)
        self.tokenizer = Tokenizer(directory / "tokenizer.json")
        self.width = manifest.width
        self.layers = manifest.layers
        self.tokens_max = manifest.tokens_max
        self.pooling = manifest.pooling
        self.prompts: Mapping[str, str] = dict(manifest.prompts)
        self.dense_share = manifest.dense_share
        self.dimensions_choices = manifest.dimensions_choices or (manifest.width,)
        self.word_layers = manifest.word_layers
        self.sense_space = read_space(directory, manifest)
        self._pad_id = manifest.pad_id

    def pooled(self, windows: Sequence[Window]) -> NDArray[np.float32]:
        """One vector a window, (windows, width), not normalised."""
        ids, mask = pad([window.ids for window in windows], self._pad_id)
        with torch.inference_mode():
            pooled: NDArray[np.float32] = self._model(ids, mask).numpy()
        return pooled

    def states(self, windows: Sequence[Window], layers: Sequence[int]) -> list[NDArray[np.float32]]:
        """For each window the states of `layers`, (layers asked for, tokens, states width)."""
        ids, mask = pad([window.ids for window in windows], self._pad_id)
        with torch.inference_mode():
            hidden = self._model.encoder(ids, mask, hidden=True).hidden
            stacked = torch.stack([hidden[layer] for layer in layers], dim=1).numpy()
        return [stacked[row, :, : len(window.ids)] for row, window in enumerate(windows)]

    def static(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows of the word-embedding table, (ids, states width)."""
        with torch.inference_mode():
            table = self._model.encoder.embeddings.word.weight
            rows: NDArray[np.float32] = table[torch.from_numpy(ids)].numpy()
        return rows


def pad(rows: Sequence[NDArray[np.int64]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids of one batch as a rectangle, and where its tokens are, (rows, longest) both."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros((len(rows), longest), dtype=torch.bool)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.from_numpy(row)
        mask[place, : len(row)] = True
    return ids, mask
