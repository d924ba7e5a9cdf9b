"""Texts side by side in rows of one length: nothing is padded, and every pass has one shape.

One shape is compiled once; of texts of 20 tokens a core then trains 9,500 tokens/s, for 5,500
padded and uncompiled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoder.config import EncoderConfig, Layout
from encoder.engine import batches
from encoder.training.sentence_teacher import rectangle

NOBODY = -1  # whose the padding is


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows of texts for one pass through the model, (rows, tokens) both.

    owners: which text a token is of; NOBODY for padding
    """

    ids: Tensor
    owners: Tensor


def packable(config: EncoderConfig) -> bool:
    """Whether a text may begin anywhere in a row: positions are relative, and all are seen."""
    return config.layout is Layout.MODERNBERT and not config.local_layers


def fill(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Indices of texts by row, none longer than `row_tokens` in all.

    The longest first, each where it leaves least room. A text of more tokens has a row alone.
    """
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(row_tokens + 1)]  # rows, by what still fits
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        room = next((r for r in range(length, row_tokens + 1) if by_room[r]), None)
        if room is None:
            row, room = len(rows), max(row_tokens, length)
            rows.append([])
        else:
            row = by_room[room].pop()
        rows[row].append(index)
        by_room[room - length].append(row)
    return rows


def pack(
    texts: Sequence[NDArray[np.int64]], row_tokens: int, chunk_tokens: int, pad_id: int
) -> list[Packed]:
    """Texts as token ids, in chunks of equally many rows; the last one has empty rows."""
    rows = fill([len(ids) for ids in texts], row_tokens)
    each = max(1, chunk_tokens // row_tokens)
    count = -(-len(rows) // each) * each
    ids = np.full((count, row_tokens), pad_id, dtype=np.int64)
    owners = np.full((count, row_tokens), NOBODY, dtype=np.int64)
    for number, row in enumerate(rows):
        place = 0
        for index in row:
            end = place + len(texts[index])
            ids[number, place:end] = texts[index]
            owners[number, place:end] = index
            place = end
    return [
        Packed(torch.from_numpy(ids[i : i + each]), torch.from_numpy(owners[i : i + each]))
        for i in range(0, count, each)
    ]


def alone(texts: Sequence[NDArray[np.int64]], chunk_tokens: int, pad_id: int) -> list[Packed]:
    """The same with a row for each text, for models that count positions from a row's start."""
    packed = []
    for group in batches([len(ids) for ids in texts], chunk_tokens):
        ids, mask = rectangle([texts[index] for index in group], pad_id)
        owners = np.where(mask, np.array(group)[:, None], NOBODY)
        packed.append(Packed(torch.from_numpy(ids), torch.from_numpy(owners)))
    return packed


def seen(owners: Tensor) -> Tensor:
    """Which token sees which: those of one text each other; (rows, tokens, tokens)."""
    return owners[:, :, None] == owners[:, None, :]


def means(states: Sequence[Tensor], owners: Sequence[Tensor], texts: int) -> Tensor:
    """The mean state of each text's tokens, (texts, width) in fp32.

    states: of each chunk, (rows, tokens, width); owners: (rows, tokens)
    """
    width = states[0].shape[-1]
    total = states[0].new_zeros((texts + 1, width), dtype=torch.float32)  # the last is NOBODY's
    count = total.new_zeros(texts + 1)
    for chunk, of in zip(states, owners, strict=True):
        place = of.reshape(-1) % (texts + 1)
        total = total.index_add(0, place, chunk.flatten(0, 1).float())
        count = count.index_add(0, place, torch.ones_like(place, dtype=torch.float32))
    return total[:texts] / count[:texts, None]
