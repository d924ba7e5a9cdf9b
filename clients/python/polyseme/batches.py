"""Cutting a long input into requests that the server takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Load:
    """What one request holds, or may hold, in every measure that has a limit."""

    items: float  # texts, documents or ids
    send_bytes: float = 0  # of the request
    receive_bytes: float = 0  # of the answer
    units: float = 0  # tokens or words, whichever the server limits

    def __add__(self, other: Load) -> Load:
        return Load(
            self.items + other.items,
            self.send_bytes + other.send_bytes,
            self.receive_bytes + other.receive_bytes,
            self.units + other.units,
        )

    def fits(self, limit: Load) -> bool:
        """Whether this is within `limit` in every measure."""
        return (
            self.items <= limit.items
            and self.send_bytes <= limit.send_bytes
            and self.receive_bytes <= limit.receive_bytes
            and self.units <= limit.units
        )


NOTHING = Load(0)


def runs(loads: Iterable[Load], limit: Load) -> Iterator[slice]:
    """The longest runs of neighbours that fit `limit`, in order, covering all.

    An item that fits nowhere is a run of its own: the server says better what is wrong with it.
    """
    start, total, end = 0, NOTHING, 0
    for end, load in enumerate(loads):
        if end > start and not (total + load).fits(limit):
            yield slice(start, end)
            start, total = end, NOTHING
        total += load
    if total is not NOTHING:
        yield slice(start, end + 1)


def pieces(items: Sequence[T], loads: Iterable[Load], limit: Load) -> Iterator[tuple[int, list[T]]]:
    """Each run of `items` with the index of its first."""
    for run in runs(loads, limit):
        yield run.start, list(items[run])
