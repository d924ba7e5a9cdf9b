"""Saves a run so that it can go on after any end, and refuses what belongs to another run."""

import io
from pathlib import Path
from typing import Any

import torch

from encoder.training.atomic import write_atomically

FORMAT = 1


class CheckpointRefused(ValueError):
    """A checkpoint cannot be continued here; the message says why and what can be done."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Replace the checkpoint at `path`. Raises atomic.NotWritten when the disk is full; the
    checkpoint that was there is then untouched."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    write_atomically(path, buffer.getbuffer())


def load_checkpoint(path: Path, *, recipe_sha256: str, data_sha256: str) -> dict[str, Any]:
    """Read the checkpoint at `path`. Raises CheckpointRefused if it is not this run's."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointRefused(f"{path} does not exist; start the run without --resume") from None
    except Exception as error:  # torch and pickle raise many kinds for a damaged file
        raise CheckpointRefused(f"{path} cannot be read ({error}); it is no checkpoint") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointRefused(f"{path} is a checkpoint of another format; start a new run")
    if content["recipe_sha256"] != recipe_sha256:
        raise CheckpointRefused(
            f"{path} belongs to another recipe ({content['recipe_sha256'][:12]}, this one is "
            f"{recipe_sha256[:12]}): go on with the recipe it was begun with, or give another --out"
        )
    if content["data_sha256"] != data_sha256:
        raise CheckpointRefused(
            f"{path} was trained on other text ({content['data_sha256'][:12]}, this is "
            f"{data_sha256[:12]}): bring the same files back, or give another --out"
        )
    return content
