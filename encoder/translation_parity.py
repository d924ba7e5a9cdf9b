"""Whether a translator's exported graphs answer as the torch model does."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from encoder.beam import Floats
from encoder.decoding import SessionStepper, Sources, past_names
from encoder.manifest import Precision
from encoder.parity import NoParity
from encoder.session import Session
from encoder.translation_manifest import (
    TranslationGraph,
    TranslationParity,
    translation_graph_path,
)
from encoder.translation_sample import PairBatch, decoded_by_torch
from encoder.translator import Translator

# What graphs must reach to count: see `parity`.
DIFFERENCE_MAX = {
    Precision.FP32: 1e-4,
    Precision.FP16: float("inf"),
    Precision.INT8: float("inf"),
}
COSINE_MEAN_MIN = {Precision.FP32: 0.999999, Precision.FP16: 0.999, Precision.INT8: 0.97}


class TranslationReference:
    """A torch translator's answers to sample texts, computed once for all precisions."""

    def __init__(self, model: Translator, batches: Sequence[PairBatch]) -> None:
        self._layers = model.config.decoder.layers
        self._pad_id = model.config.decoder.pad_id
        self._batches = batches
        self._answers = [decoded_by_torch(model, batch) for batch in batches]

    def compare(self, folder: Path, precision: Precision) -> TranslationParity:
        """Run the graphs of `precision` in `folder` over the same targets, token by token."""
        encode, step = (
            Session(folder / translation_graph_path(precision, graph)) for graph in TranslationGraph
        )
        differences, cosines, agreements, looked = [], [], [], []
        for batch, (logits, shares) in zip(self._batches, self._answers, strict=True):
            read = np.arange(batch.target.shape[1]) < batch.tokens[:, None]
            answers, attention = self._decoded(encode, step, batch)
            ours, theirs = self._log_probabilities(answers), self._log_probabilities(logits)
            differences.append(np.abs(ours - theirs)[read].max())
            cosines.append(_cosines(ours[read], theirs[read]))
            agreements.append((ours.argmax(-1) == theirs.argmax(-1))[read])
            looked.append(np.abs(attention - shares)[read].max())
        return TranslationParity(
            tokens=sum(map(len, cosines)),
            difference_max=float(np.max(differences)),  # not max(): a NaN must stay one
            cosine_mean=float(np.concatenate(cosines).mean()),
            first_agrees=float(np.concatenate(agreements).mean()),
            attention_difference_max=float(np.max(looked)),
        )

    def _decoded(self, encode: Session, step: Session, batch: PairBatch) -> tuple[Floats, Floats]:
        """Logits (B, U, V), and shares (B, U, T)."""
        inputs = {"ids": batch.source, "mask": batch.mask}
        sources = Sources(encode.run(inputs, past_names("source", range(self._layers))), batch.mask)
        stepper = SessionStepper(step, sources, choices=1, attention=True)
        rows = np.arange(len(batch.target))[:, np.newaxis]
        answers = [
            stepper.read(token[:, np.newaxis], rows, ["logits", "attention"])
            for token in batch.target.T
        ]
        logits, shares = (np.concatenate(part, axis=1) for part in zip(*answers, strict=True))
        return logits, shares

    def _log_probabilities(self, logits: Floats) -> Floats:
        """Of all tokens but the padding, which is never written."""
        kept = np.delete(logits, self._pad_id, axis=-1)
        kept -= kept.max(axis=-1, keepdims=True)
        return np.asarray(kept - np.log(np.exp(kept).sum(axis=-1, keepdims=True)))


def require_translation(precision: Precision, parity: TranslationParity) -> None:
    """Raise NoParity, with the figures, unless `parity` is good enough for `precision`."""
    # Each is written so that a NaN falls short.
    limit = DIFFERENCE_MAX[precision]
    for what, value in (
        ("log-probabilities", parity.difference_max),
        ("attention", parity.attention_difference_max),
    ):
        if not value <= limit:
            raise NoParity(
                f"{what} of {precision} graphs differ from torch by {value:.2g}; "
                f"at most {limit:g} counts as the same"
            )
    least = COSINE_MEAN_MIN[precision]
    if not parity.cosine_mean >= least:
        raise NoParity(
            f"log-probabilities of {precision} graphs reach a cosine to torch of "
            f"{parity.cosine_mean:.6f}; {least} is required"
        )


def _cosines(left: Floats, right: Floats) -> Floats:
    """Row by row, of what differs from the row's mean."""
    left = left - left.mean(axis=-1, keepdims=True)
    right = right - right.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    return np.asarray((left * right).sum(axis=-1) / lengths)
