"""Cross-entropy against a large vocabulary with smoothed labels, in pieces of few rows.

The logits of a step would be its largest tensor by far: 4,096 tokens x 24,576 entries x 4 bytes,
several times over. Here the gradient of each piece is computed beside its loss, so that no piece
outlives its turn and nothing is computed twice.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ROWS = 512  # of logits at a time
SMALLEST = 1e-38  # a probability, so that its logarithm is a number


@dataclass(frozen=True, slots=True)
class Smoothing:
    """How the loss is computed. share: of the label, spread evenly over the vocabulary."""

    share: float
    precision: torch.dtype = torch.float32  # of the products; everything else is fp32


def smoothed_cross_entropy(
    states: Tensor, table: Tensor, bias: Tensor, targets: Tensor, smoothing: Smoothing
) -> Tensor:
    """The summed loss of N tokens, in nats, and the summed loss without smoothing: (2,).

    states: (N, W); table: (V, W); bias: (V,); targets: (N,)
    The first is differentiable in states, table and bias; the second is for the curves. As torch's
    cross-entropy with `label_smoothing` (Szegedy et al. 2016).
    """
    learns = torch.is_grad_enabled()  # inside a Function it never is
    losses: Tensor = _Smoothed.apply(  # type: ignore[no-untyped-call]  # torch leaves it so
        states, table, bias, targets, smoothing, learns
    )
    return losses


class _Smoothed(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917  # torch passes them so
        ctx: Any,
        states: Tensor,
        table: Tensor,
        bias: Tensor,
        targets: Tensor,
        smoothing: Smoothing,
        learns: bool,
    ) -> Tensor:
        rows, columns = states.to(smoothing.precision), table.to(smoothing.precision)
        gradients = [
            torch.zeros_like(part, dtype=torch.float32) if learns and needed else None
            for part, needed in zip((states, table, bias), ctx.needs_input_grad, strict=False)
        ]
        mean_column, mean_bias = table.float().mean(dim=0), bias.float().mean()
        low_bias = bias.to(smoothing.precision)
        losses = torch.zeros(2, dtype=torch.float32, device=states.device)
        for begin in range(0, len(rows), ROWS):
            here = slice(begin, begin + ROWS)
            logits = torch.addmm(low_bias, rows[here], columns.T)  # (n, V)
            guessed = logits.softmax(dim=1)
            asked = targets[here, None]
            right = logits.gather(1, asked).float()
            surprises = -guessed.gather(1, asked).float().clamp_min(SMALLEST).log()
            # The mean logit is that of the mean column: no pass over all of them is needed.
            mean = states[here].float() @ mean_column + mean_bias
            uniform = (surprises + right).sum() - mean.sum()
            surprise = surprises.sum()
            smooth = (1 - smoothing.share) * surprise + smoothing.share * uniform
            losses += torch.stack([smooth, surprise])
            if learns:
                _add(gradients, guessed, rows[here], columns, begin)
        if learns:
            _subtract_labels(gradients, states, table, targets, smoothing.share)
        ctx.save_for_backward(*gradients)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale = gradients[0][0]
        scaled = (None if part is None else part * scale for part in ctx.saved_tensors)
        return (*scaled, None, None, None)


def _add(
    gradients: list[Tensor | None], guessed: Tensor, part: Tensor, columns: Tensor, begin: int
) -> None:
    """Add what is guessed for some rows (n, V) to the gradients of states, table and bias."""
    of_states, of_table, of_bias = gradients
    if of_states is not None:
        of_states[begin : begin + len(part)] = guessed @ columns
    if of_table is not None:
        of_table += guessed.T @ part
    if of_bias is not None:
        of_bias += (guessed.new_ones(1, len(guessed)) @ guessed)[0]


def _subtract_labels(
    gradients: list[Tensor | None], states: Tensor, table: Tensor, targets: Tensor, share: float
) -> None:
    """Take the labels from the gradients: 1 - share at the target, share / V everywhere.

    Exactly, in fp32, and as two sums for all rows: the labels are never written out.
    """
    of_states, of_table, of_bias = gradients
    even = share / len(table)
    if of_states is not None:
        of_states -= (1 - share) * table.float()[targets] + even * table.float().sum(dim=0)
    if of_table is not None:
        of_table.index_add_(0, targets, states.float(), alpha=share - 1)
        of_table -= even * states.float().sum(dim=0)
    if of_bias is not None:
        counts = torch.bincount(targets, minlength=len(table)).float()
        of_bias -= (1 - share) * counts + even * len(states)
