"""The sample texts that ship with polyseme, and what a torch model makes of them."""

from collections.abc import Callable, Sequence
from importlib import resources
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoder.linear import Floats
from encoder.manifest import Manifest
from encoder.model import MaskedLanguageModel, SentenceEncoder
from encoder.runtime import padded
from encoder.tokenizer import Tokenizer, Truncation

Batch: TypeAlias = dict[str, NDArray[np.int64]]

SampleName: TypeAlias = Literal["calibration", "parity"]

_BATCH_TEXTS = 16


def sample_texts(name: SampleName) -> list[str]:
    """The texts of `samples/NAME.txt`: English, German, French."""
    text = resources.files("encoder").joinpath("samples", f"{name}.txt").read_text("utf-8")
    return text.splitlines()


def sample_batches(name: SampleName, tokenizer: Tokenizer, manifest: Manifest) -> list[Batch]:
    """The texts of `samples/NAME.txt`, padded in batches of like length, shortest first."""
    encoded = tokenizer.encode(
        sample_texts(name), tokens_max=manifest.tokens_max, truncation=Truncation.HEAD
    )
    windows = sorted((text.windows[0] for text in encoded), key=lambda window: len(window.ids))
    return [
        padded(windows[start : start + _BATCH_TEXTS], manifest.pad_id)
        for start in range(0, len(windows), _BATCH_TEXTS)
    ]


def pooled_by_torch(model: SentenceEncoder, batch: Batch) -> Floats:
    """Sentence vectors (texts, width)."""
    with torch.inference_mode():
        vectors: Tensor = model(*_tensors(batch))
    return np.asarray(vectors.numpy(), dtype=np.float32)


def states_by_torch(model: SentenceEncoder, batch: Batch) -> list[Floats]:
    """The embeddings' output and each layer's, (texts, tokens, width)."""
    with torch.inference_mode():
        hidden = model.encoder(*_tensors(batch), hidden=True).hidden
    return [np.asarray(states.numpy(), dtype=np.float32) for states in hidden]


def attention_by_torch(model: SentenceEncoder, batch: Batch) -> list[Floats]:
    """Each layer's attention, (texts, heads, tokens, tokens)."""
    with torch.inference_mode():
        attentions = model.encoder(*_tensors(batch), explain=True).attentions
    return [np.asarray(shares.numpy(), dtype=np.float32) for shares in attentions]


def logits_by_torch(model: MaskedLanguageModel, batch: Batch) -> Floats:
    """The logits of each text's second token, (texts, vocabulary)."""
    with torch.inference_mode():
        states = model.encoder(*_tensors(batch)).last
        logits = model.logits(states[:, 1])
    return np.asarray(logits.numpy(), dtype=np.float32)


def channel_peaks(model: SentenceEncoder, batches: Sequence[Batch]) -> dict[str, Floats]:
    """For each linear layer of the encoder, the largest absolute value of each input channel."""
    peaks: dict[str, Floats] = {}
    present = np.empty(0, dtype=np.bool_)

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen = np.abs(inputs[0].numpy()[present]).max(axis=0)
            peaks[name] = np.maximum(peaks.get(name, seen), seen)

        return see

    hooks = [
        module.register_forward_pre_hook(watch(name))
        for name, module in model.encoder.named_modules()
        if isinstance(module, nn.Linear)
    ]
    for batch in batches:
        present = batch["mask"].astype(np.bool_)
        pooled_by_torch(model, batch)
    for hook in hooks:
        hook.remove()
    return peaks


def _tensors(batch: Batch) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(batch["ids"]), torch.from_numpy(batch["mask"])
