"""Pages of lists: how many items, and how many of them a message holds."""

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import Message

from server.errors import RequestInvalid

M = TypeVar("M", bound=Message)

PAGE_SIZE = 100  # where the caller gives none


def page_size_from(page_size: int, page_size_max: int, field: str = "page_size") -> int:
    """0 is the default, and more than the limit is the limit, as AIP-158 has it."""
    if page_size < 0:
        raise RequestInvalid(field, f"{page_size} is negative")
    return min(page_size or PAGE_SIZE, page_size_max)


def fitting(messages: Iterable[M], bytes_max: int) -> list[M]:
    """Those of the first messages that fit into `bytes_max` together; at least one."""
    fit: list[M] = []
    total = 0
    for message in messages:
        total += message.ByteSize()
        if fit and total > bytes_max:
            break
        fit.append(message)
    return fit
