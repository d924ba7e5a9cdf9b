"""What is wrong with single items of a call: it fails the call, or is told of the item alone."""

from __future__ import annotations

from types import TracebackType
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

    def of(self, *items: int) -> _About:
        """What is raised inside is about these."""
        return _About(self, items)


class _About:
    """A class, because a generator takes four times as long, and each item of a call has one."""

    __slots__ = ("_items", "_refusals")

    def __init__(self, refusals: Refusals, items: tuple[int, ...]) -> None:
        self._refusals = refusals
        self._items = items

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(error, REFUSALS) or not self._refusals.partial:
            return False
        self._refusals.update(dict.fromkeys(self._items, error))
        return True
