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
        losses = torch.zeros(2, dtype=torch.float32, device=states.device)
        for begin in range(0, len(rows), ROWS):
            part, asked = rows[begin : begin + ROWS], targets[begin : begin + ROWS, None]
            logits = (part @ columns.T).float().add_(bias)  # (n, V)
            total = logits.logsumexp(dim=1, keepdim=True)
            surprise = (total - logits.gather(1, asked)).sum()
            uniform = (total[:, 0] - logits.mean(dim=1)).sum()
            smooth = (1 - smoothing.share) * surprise + smoothing.share * uniform
            losses += torch.stack([smooth, surprise])
            if learns:
                slope = _slope(logits, total, asked, smoothing.share)
                _add(gradients, slope, part, columns, begin)
        ctx.save_for_backward(*gradients)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale = gradients[0][0]
        scaled = (None if part is None else part * scale for part in ctx.saved_tensors)
        return (*scaled, None, None, None)


def _slope(logits: Tensor, total: Tensor, asked: Tensor, share: float) -> Tensor:
    """The loss's derivative by the logits (n, V), in their place: the guess less the label."""
    guessed = logits.sub_(total).exp_()
    label = torch.full_like(total, share - 1)
    return guessed.sub_(share / logits.shape[1]).scatter_add_(1, asked, label)


def _add(
    gradients: list[Tensor | None], slope: Tensor, part: Tensor, columns: Tensor, begin: int
) -> None:
    """Add what some rows give to the gradients of states, table and bias."""
    of_states, of_table, of_bias = gradients
    if of_bias is not None:
        of_bias += slope.sum(dim=0)
    cast = slope.to(part.dtype)
    if of_states is not None:
        of_states[begin : begin + len(part)] = cast @ columns
    if of_table is not None:
        of_table += cast.T @ part
