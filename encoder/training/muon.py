"""Muon (Jordan et al. 2024) with all matrices of one shape in one product.

torch's Muon takes one matrix after the other: a model of 8 layers is some 500 products of a few
microseconds each, and a large GPU waits for most of them to be asked for. Stacked they are 60.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class StackedMuon(torch.optim.Muon):
    """Steps as torch's Muon does, up to rounding; their states can be exchanged."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Apply the gradients. Raises ValueError for a closure, which nobody here needs."""
        if closure is not None:
            raise ValueError("StackedMuon takes no closure")
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._step(parameters, group)

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        momenta = [self._momentum(parameter) for parameter in parameters]
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = momenta
        if group["nesterov"]:
            updates = list(torch._foreach_lerp(gradients, momenta, group["momentum"]))
        steps, coefficients = group["ns_steps"], group["ns_coefficients"]
        turned = orthogonal(torch.stack(updates), coefficients, steps, group["eps"])
        rate = group["lr"] * _length(group["adjust_lr_fn"], parameters[0].shape)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, list(turned.to(parameters[0].dtype)), alpha=-rate)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum_buffer"]
        return momentum


def orthogonal(
    matrices: Tensor, coefficients: tuple[float, float, float], steps: int, epsilon: float
) -> Tensor:
    """Each matrix with its singular values brought near 1 by Newton-Schulz, in bf16.

    matrices: (n, rows, columns)
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    x = x.mT if tall else x
    # A matrix's largest singular value is at most its Frobenius norm.
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=epsilon)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _length(rule: str | None, shape: torch.Size) -> float:
    """What a step is multiplied by, for the two rules of torch's Muon."""
    rows, columns = shape
    if rule == "match_rms_adamw":  # steps as long as AdamW's (Liu et al. 2025)
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))
