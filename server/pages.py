"""Pages of lists: how many items, and how many of them a message holds."""

from collections.abc import Sequence

from google.protobuf.message import Message

from server.errors import RequestInvalid

PAGE_SIZE = 100  # where the caller gives none


def page_size_from(page_size: int, page_size_max: int, field: str = "page_size") -> int:
    """0 is the default, and more than the limit is the limit, as AIP-158 has it."""
    if page_size < 0:
        raise RequestInvalid(field, f"{page_size} is negative")
    return min(page_size or PAGE_SIZE, page_size_max)


def fitting_count(messages: Sequence[Message], bytes_max: int) -> int:
    """How many of the first messages fit into `bytes_max` together; at least one."""
    total = 0
    for count, message in enumerate(messages):
        total += message.ByteSize()
        if total > bytes_max:
            return max(1, count)
    return len(messages)
