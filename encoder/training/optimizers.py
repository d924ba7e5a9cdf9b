"""The optimiser of a recipe: Muon for the layers' matrices beside AdamW, or AdamW alone."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from encoder.training.muon import StackedMuon
from encoder.training.recipe import Optimizer

ADAM_BETAS = (0.9, 0.98)
ADAM_EPSILON = 1e-8
MUON_MOMENTUM = 0.95


class Optimizers:
    """One or two of torch's optimisers that step as one.

    many_at_once: few large operations in place of many small ones, as a GPU wants it; the steps
    are the same up to rounding, and so is the state
    """

    def __init__(
        self,
        settings: Optimizer,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        many_at_once: bool = False,
    ) -> None:
        named = list(parameters)
        muon = settings.name == "muon"
        matrices = [p for name, p in named if muon and is_layer_matrix(name, p)]
        rest = [p for name, p in named if not (muon and is_layer_matrix(name, p))]
        decayed = [p for p in rest if p.ndim >= 2]
        groups = [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        self._rates = [settings.rate]
        self._all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                groups,
                lr=settings.rate,
                betas=ADAM_BETAS,
                eps=ADAM_EPSILON,
                fused=many_at_once or None,
            )
        ]
        if matrices:
            self._rates.append(settings.matrix_rate)
            muon_class = StackedMuon if many_at_once else torch.optim.Muon
            self._all.append(
                muon_class(
                    matrices,
                    lr=settings.matrix_rate,
                    weight_decay=settings.weight_decay,
                    momentum=MUON_MOMENTUM,
                    # Steps as long as AdamW's (Liu et al. 2025), so one rate suits both.
                    adjust_lr_fn="match_rms_adamw",
                )
            )

    def step(self, rate_share: float) -> None:
        """Apply the gradients at `rate_share` of the full rates, and forget them."""
        for optimizer, rate in zip(self._all, self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * rate_share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, Any]]:
        """For a checkpoint."""
        return [optimizer.state_dict() for optimizer in self._all]

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take up a checkpoint's state."""
        for optimizer, state in zip(self._all, states, strict=True):
            optimizer.load_state_dict(dict(state))


def is_layer_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon takes it: a matrix that maps states to states; tables of tokens are none."""
    return parameter.ndim == 2 and "embeddings" not in name
