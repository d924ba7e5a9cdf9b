"""Texts cut to what an answer has room for. Pure functions.

What a caller sent is quoted in what he is told, and travels in gRPC's trailers, for which peers
have 8 KiB by default. An answer above that reaches him as RESOURCE_EXHAUSTED, whatever it was.
"""

from collections.abc import Callable

MESSAGE_BYTES_MAX = 1024
PART_BYTES_MAX = 512  # of each other text of an answer; all together are about 6 KiB as trailers

_ELLIPSIS = "…"


def utf8_bytes(text: str) -> int:
    return len(text.encode("utf-8"))


def header_bytes(text: str) -> int:
    """Of `text` as gRPC's trailer `grpc-message`, percent-encoded: 3 for each byte not of ASCII."""
    return sum(1 if 32 <= byte <= 126 and byte != 37 else 3 for byte in text.encode("utf-8"))


def shortened(text: str, bytes_max: int, size: Callable[[str], int] = utf8_bytes) -> str:
    """`text`, or as much of its beginning as fits `bytes_max` with an ellipsis behind it.

    size: bytes of a part of a text
    """
    if len(text) <= bytes_max and size(text) <= bytes_max:
        return text
    room = bytes_max - size(_ELLIPSIS)
    for end, character in enumerate(text):
        room -= size(character)
        if room < 0:
            return text[:end] + _ELLIPSIS
    return text + _ELLIPSIS
