"""How much one answer may hold: counted while it is read, so that no call reads far more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from index.errors import AnswerTooLarge
from index.records import VECTOR_TYPE, Record


class Room:
    """What one answer may still hold of documents and vectors. Not for several threads."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._taken = 0

    def holding(self, records: Iterable[Record]) -> Iterator[Record]:
        """The same, as long as there is room for them. Raises AnswerTooLarge."""
        for record in records:
            self._take(record.bytes)
            yield record

    def take_vectors(self, count: int, dimensions: int) -> None:
        """Before so many are read. Raises AnswerTooLarge."""
        self._take(count * vector_bytes(dimensions))

    def _take(self, size: int) -> None:
        self._taken += size
        if self._taken > self._bytes_max:
            raise AnswerTooLarge(self._taken, self._bytes_max)


def first_page(
    records: Iterable[Record], count_max: int, bytes_max: int, each: int
) -> tuple[list[Record], bool]:
    """As many of the first as a page may hold, at least one, and whether there are more.

    each: bytes that a record takes beside its own
    """
    page: list[Record] = []
    total = 0
    for record in records:
        total += record.bytes + each
        if page and (len(page) == count_max or total > bytes_max):
            return page, True
        page.append(record)
    return page, False


def vector_bytes(dimensions: int) -> int:
    return dimensions * VECTOR_TYPE.itemsize
