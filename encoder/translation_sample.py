"""The sample texts and what a torch translator makes of them, step by step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from encoder.beam import Floats, Integers
from encoder.decoder_network import PREFIX, table_name
from encoder.int8 import vocabulary_layer
from encoder.runtime import padded
from encoder.sample import SampleName, sample_texts
from encoder.tokenizer import Tokenizer, Truncation
from encoder.translation_manifest import tokenizer_paths
from encoder.translator import Translator, greedy

Present: TypeAlias = NDArray[np.bool_]  # (B, tokens)

_READS_SOURCE = "cross_attention.key_value"

# Every sixth text, cut: enough to see each channel's range, and soon done.
_EVERY = 6
_SOURCE_TOKENS_MAX = 64
_TARGET_TOKENS_MAX = 24
_BATCH_TEXTS = 16


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Sources and the targets that the torch model itself writes for them, greedily.

    source, mask: (B, T)
    target:       (B, U), the begin token first, the end token where it came, and padding
    tokens:       (B,) how many of the target's were read to write it
    """

    source: Integers
    mask: Integers
    target: Integers
    tokens: Integers


def sample_pairs(name: SampleName, folder: Path, model: Translator) -> list[PairBatch]:
    """Batches of sample texts with their translations, the target languages taking turns."""
    config = model.config
    tokenizer = Tokenizer(folder / tokenizer_paths(folder)[0])
    longest = min(_SOURCE_TOKENS_MAX, config.encoder.tokens_max - bool(config.source_ids))
    encoded = tokenizer.encode(
        sample_texts(name)[::_EVERY], tokens_max=longest, truncation=Truncation.HEAD
    )
    windows = sorted((text.windows[0] for text in encoded), key=lambda window: len(window.ids))
    batches = []
    for start in range(0, len(windows), _BATCH_TEXTS):
        inputs = padded(windows[start : start + _BATCH_TEXTS], config.encoder.pad_id)
        languages = list(islice(cycle(sorted(config.begin_ids)), len(inputs["ids"])))
        if config.source_ids:
            column = np.array([[config.source_ids[language]] for language in languages])
            inputs["ids"] = np.concatenate([column, inputs["ids"]], axis=1)
            inputs["mask"] = np.concatenate([np.ones_like(column), inputs["mask"]], axis=1)
        begin = [config.begin_ids[language] for language in languages]
        batches.append(_with_targets(model, inputs["ids"], inputs["mask"], begin))
    return batches


def _with_targets(
    model: Translator, source: Integers, mask: Integers, begin: Sequence[int]
) -> PairBatch:
    tensors = torch.from_numpy(source), torch.from_numpy(mask)
    written = greedy(model, *tensors, begin, tokens_max=_TARGET_TOKENS_MAX)
    tokens = np.array([len(one.ids) + one.finished for one in written])
    target = np.full((len(begin), int(tokens.max())), model.config.end_id, dtype=np.int64)
    for row, (first, one) in enumerate(zip(begin, written, strict=True)):
        read = [first, *one.ids][: int(tokens[row])]
        target[row, : len(read)] = read
    return PairBatch(source, mask, target, tokens)


def decoded_by_torch(model: Translator, batch: PairBatch) -> tuple[Floats, Floats]:
    """Logits (B, U, V), and the alignment heads' mean shares (B, U, T)."""
    with torch.inference_mode():
        mask = torch.from_numpy(batch.mask)
        memory = model.encoder(torch.from_numpy(batch.source), mask).last
        decoded = model.decoder(torch.from_numpy(batch.target), memory, mask, explain=True)
        logits = model.decoder.logits(decoded.states)
        alignment = model.config.alignment
        shares = decoded.attentions[alignment.layer]
        heads = list(alignment.heads) or list(range(shares.shape[1]))
        return logits.numpy(), shares[:, heads].mean(dim=1).numpy()


def decoder_peaks(model: Translator, batches: Sequence[PairBatch]) -> dict[str, Floats]:
    """For each linear layer of the translator, and for the product with the word table, the
    largest absolute value of each input channel, by the name it is stored under."""
    peaks: dict[str, Floats] = {}
    for batch in batches:
        read = np.arange(batch.target.shape[1]) < batch.tokens[:, None]
        with _watching(model, peaks, batch.mask.astype(np.bool_), read):
            decoded_by_torch(model, batch)
    return peaks


@contextmanager
def _watching(
    model: Translator, peaks: dict[str, Floats], source: Present, target: Present
) -> Iterator[None]:
    """Note what linear layers are given for as long as this lasts, where there are tokens."""

    def note(name: str, present: Present, given: Tensor) -> None:
        seen = np.abs(given.numpy()[present]).max(axis=0)
        peaks[name] = np.maximum(peaks.get(name, seen), seen)

    def watch(module: nn.Module, name: str, present: Present) -> RemovableHandle:
        return module.register_forward_pre_hook(lambda _, inputs: note(name, present, inputs[0]))

    handles = [
        watch(module, prefix + name, source if name.endswith(_READS_SOURCE) else tokens)
        for prefix, stack, tokens in (("", model.encoder, source), (PREFIX, model.decoder, target))
        for name, module in stack.named_modules()
        if isinstance(module, nn.Linear)
    ]
    output = vocabulary_layer(table_name(tied=model.config.tied_tables))
    handles.append(
        model.decoder.final_norm.register_forward_hook(
            lambda _, inputs, states: note(output, target, states)
        )
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
