"""The processes of one run: alone, or as torchrun starts them."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self

import torch
from torch import Tensor, distributed

PREPARATION_MAX = timedelta(hours=6)  # for which the others wait while the first prepares text


@dataclass(frozen=True, slots=True)
class Workers:
    """This process among those that train together.

    Every process makes the whole step's rows and masks and takes each `count`-th row, so that
    any number of processes train on the same batch and follow the same curve.
    """

    index: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def join(cls) -> Self:
        """Meet the other processes, if torchrun started this one (it sets WORLD_SIZE)."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        cuda = torch.cuda.is_available()
        device = torch.device("cuda", local) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(device)
        if count > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if cuda else "gloo", timeout=PREPARATION_MAX)
        return cls(int(os.environ.get("RANK", "0")), count, device)

    @property
    def first(self) -> bool:
        """Whether this process writes the files and speaks."""
        return self.index == 0

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            distributed.barrier()

    def leave(self) -> None:
        """End the meeting."""
        if self.count > 1:
            distributed.destroy_process_group()

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one exchange."""
        if self.count == 1:
            return
        listed = list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in listed])
        distributed.all_reduce(flat)
        totals = torch.split(flat, [tensor.numel() for tensor in listed])
        for tensor, total in zip(listed, totals, strict=True):
            tensor.copy_(total.view_as(tensor))
