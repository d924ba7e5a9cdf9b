"""What is wrong with single items of a call: it fails the call, or is told of the item alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from index.errors import DocumentNotFound, FingerprintMismatch, InvalidInput
from server.errors import RequestInvalid

Refusal: TypeAlias = RequestInvalid | InvalidInput | DocumentNotFound | FingerprintMismatch
REFUSALS = (RequestInvalid, InvalidInput, DocumentNotFound, FingerprintMismatch)


class Refusals(dict[int, Refusal]):
    """Items that cannot be answered, by their index.

    partial: keep what is wrong with an item instead of raising it. What concerns the call as a
    whole, such as a full queue, is no Refusal and always raises.
    """

    def __init__(self, *, partial: bool) -> None:
        super().__init__()
        self.partial = partial

    @contextmanager
    def of(self, *items: int) -> Iterator[None]:
        """What is raised inside is about these."""
        try:
            yield
        except REFUSALS as error:
            if not self.partial:
                raise
            self.update(dict.fromkeys(items, error))
