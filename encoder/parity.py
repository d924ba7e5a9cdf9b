"""Whether exported graphs answer as the torch model does."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from encoder.linear import Floats
from encoder.manifest import Graph, Parity, Precision, graph_path
from encoder.model import MaskedLanguageModel, SentenceEncoder
from encoder.sample import (
    Batch,
    attention_by_torch,
    logits_by_torch,
    pooled_by_torch,
    states_by_torch,
)
from encoder.session import Session

# What a graph must reach to count. fp32 only sums in another order than torch; fp16 rounds weights
# and products, int8 weights and states. Set below what trained models reach, and far above what a
# mistake in a graph leaves.
DIFFERENCE_MAX = {Precision.FP32: 1e-5, Precision.FP16: float("inf"), Precision.INT8: float("inf")}
COSINE_MEAN_MIN = {Precision.FP32: 0.999999, Precision.FP16: 0.9999, Precision.INT8: 0.99}
COSINE_MIN = {Precision.FP32: 0.999999, Precision.FP16: 0.999, Precision.INT8: 0.97}
# Logits are larger than states, by a factor that training decides.
LOGIT_DIFFERENCE_MAX = {
    Precision.FP32: 1e-4,
    Precision.FP16: float("inf"),
    Precision.INT8: float("inf"),
}
LOGIT_COSINE_MEAN_MIN = {Precision.FP32: 0.999999, Precision.FP16: 0.999, Precision.INT8: 0.97}
# In every precision a token's shares are a softmax in fp32.
ROW_SUM_DIFFERENCE_MAX = 1e-5


class NoParity(RuntimeError):
    """A graph does not answer as the torch model does; nothing was exported."""


class Reference:
    """A torch model's answers to sample texts, computed once for all precisions."""

    def __init__(
        self,
        model: SentenceEncoder,
        batches: Sequence[Batch],
        language_model: MaskedLanguageModel | None = None,
    ) -> None:
        """language_model: the same encoder with its masked-LM head, where it has one"""
        self._batches = batches
        self._pooled = [pooled_by_torch(model, batch) for batch in batches]
        self._states = states_by_torch(model, batches[0])
        self._attentions = attention_by_torch(model, batches[0])
        self._logits = (
            None
            if language_model is None
            else [logits_by_torch(language_model, batch) for batch in batches]
        )
        self._table = model.encoder.embeddings.word.weight.detach().numpy()

    def compare(self, directory: Path, precision: Precision) -> Parity:
        """Run the graphs of `precision` in `directory`. Cosines are of pooled vectors.

        The largest difference is of a single value: of every pooled vector, and of the first
        batch's states in every layer and its static vectors. States count by their layer's size:
        see `state_difference`.
        """
        session = Session(directory / graph_path(precision, Graph.POOLED))
        got = [session.run(batch, ["pooled"])[0] for batch in self._batches]
        cosines = np.concatenate(list(map(_cosines, got, self._pooled)))
        differences = [*map(_difference, got, self._pooled)]
        differences += self._differences_inside(directory, precision)
        logit_difference, logit_cosine = self._logits_beside(directory, precision)
        return Parity(
            texts=len(cosines),
            cosine_mean=float(cosines.mean()),
            cosine_min=float(cosines.min()),
            difference_max=float(np.max(differences)),  # not max(): a NaN must stay one
            attention_difference_max=self._attention_beside(directory, precision),
            logit_difference_max=logit_difference,
            logit_cosine_mean=logit_cosine,
        )

    def _differences_inside(self, directory: Path, precision: Precision) -> list[float]:
        batch = self._batches[0]
        present = batch["mask"].astype(np.bool_)
        outputs = [f"layer_{layer}" for layer in range(len(self._states))]
        states = Session(directory / graph_path(precision, Graph.STATES)).run(batch, outputs)
        ids = batch["ids"].ravel()
        static = Session(directory / graph_path(precision, Graph.STATIC)).run(
            {"ids": ids}, ["static"]
        )
        return [
            _difference(static[0], self._table[ids]),
            *(
                state_difference(ours[present], theirs[present])
                for ours, theirs in zip(states, self._states, strict=True)
            ),
        ]

    def _attention_beside(self, directory: Path, precision: Precision) -> float:
        """The largest difference of a share. Raises NoParity unless every row sums to one."""
        batch = self._batches[0]
        present = batch["mask"].astype(np.bool_)
        outputs = [f"attention_{layer}" for layer in range(1, len(self._attentions) + 1)]
        layers = Session(directory / graph_path(precision, Graph.ATTENTION)).run(batch, outputs)
        differences = []
        for ours, theirs in zip(layers, self._attentions, strict=True):
            rows = ours.transpose(0, 2, 1, 3)[present]  # (tokens, heads, T)
            if not np.abs(rows.sum(axis=-1) - 1).max() <= ROW_SUM_DIFFERENCE_MAX:
                raise NoParity(f"{precision} graphs give attention whose rows do not sum to one")
            differences.append(_difference(rows, theirs.transpose(0, 2, 1, 3)[present]))
        return float(np.max(differences))

    def _logits_beside(
        self, directory: Path, precision: Precision
    ) -> tuple[float | None, float | None]:
        """The largest difference of a logit, and the mean cosine, for each text's second token."""
        if self._logits is None:
            return None, None
        session = Session(directory / graph_path(precision, Graph.FILL))
        differences, cosines = [], []
        for batch, theirs in zip(self._batches, self._logits, strict=True):
            places = np.stack([np.arange(len(theirs)), np.ones(len(theirs), np.int64)], axis=1)
            ours = session.run({**batch, "places": places}, ["logits"])[0]
            differences.append(_difference(ours, theirs))
            cosines.append(_cosines(ours, theirs))
        return float(np.max(differences)), float(np.concatenate(cosines).mean())


def require(precision: Precision, parity: Parity) -> None:
    """Raise NoParity, with the figures, unless `parity` is good enough for `precision`."""
    # Each is written so that a NaN falls short.
    if not parity.difference_max <= DIFFERENCE_MAX[precision]:
        raise NoParity(
            f"{precision} graphs differ from torch by {parity.difference_max:.2g}; "
            f"at most {DIFFERENCE_MAX[precision]:g} counts as the same"
        )
    mean, least = COSINE_MEAN_MIN[precision], COSINE_MIN[precision]
    if not (parity.cosine_mean >= mean and parity.cosine_min >= least):
        raise NoParity(
            f"{precision} graphs reach a cosine to torch of {parity.cosine_mean:.6f} mean and "
            f"{parity.cosine_min:.6f} least; {mean} and {least} are required"
        )
    _require_beside(precision, parity)


def _require_beside(precision: Precision, parity: Parity) -> None:
    for what, value, limit in (
        ("attention", parity.attention_difference_max, DIFFERENCE_MAX[precision]),
        ("logits", parity.logit_difference_max, LOGIT_DIFFERENCE_MAX[precision]),
    ):
        if value is not None and not value <= limit:
            raise NoParity(
                f"{what} of {precision} graphs differ from torch by {value:.2g}; "
                f"at most {limit:g} counts as the same"
            )
    cosine, least = parity.logit_cosine_mean, LOGIT_COSINE_MEAN_MIN[precision]
    if cosine is not None and not cosine >= least:
        raise NoParity(
            f"logits of {precision} graphs reach a cosine to torch of {cosine:.6f}; "
            f"{least} is required"
        )


def state_difference(left: Floats, right: Floats) -> float:
    """The largest difference, as a share of the largest value of `right` where that is above 1.

    Without a norm between them, as in ModernBERT's layout, layers only add to the states: values
    grow to a hundred, and there fp32 itself has steps of 1e-5.
    """
    return _difference(left, right) / max(1.0, float(np.abs(right).max()))


def _cosines(left: Floats, right: Floats) -> Floats:
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray((left * right).sum(axis=1) / lengths)


def _difference(left: Floats, right: Floats) -> float:
    return float(np.abs(left - right).max())
