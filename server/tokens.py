"""Tokens as messages. Pure functions."""

import numpy as np
from numpy.typing import NDArray

from encoder.tokenizer import Tokenizer, Window
from polyseme.v1 import common_pb2, encoder_pb2


def token_messages(text: str, window: Window, tokenizer: Tokenizer) -> list[encoder_pb2.Token]:
    """The tokens of `window`, special ones included."""
    bytes_at = byte_offsets(text)
    spellings = tokenizer.tokens(window.ids.tolist())
    return [
        _token(token_id, spelling, start, end, bytes_at)
        for token_id, spelling, start, end in zip(
            window.ids.tolist(),
            spellings,
            window.starts.tolist(),
            window.ends.tolist(),
            strict=True,
        )
    ]


def byte_offsets(text: str) -> NDArray[np.int64]:
    """Where each code point begins in UTF-8, (code points + 1,); the last is the total."""
    code_points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    sizes = np.searchsorted([0x80, 0x800, 0x10000], code_points, side="right") + 1
    return np.concatenate([[0], np.cumsum(sizes)])


def _token(
    token_id: int, text: str, start: int, end: int, bytes_at: NDArray[np.int64]
) -> encoder_pb2.Token:
    if start < 0:
        return encoder_pb2.Token(id=token_id, text=text, special=True)
    span = common_pb2.Span(
        start=start, end=end, byte_start=int(bytes_at[start]), byte_end=int(bytes_at[end])
    )
    return encoder_pb2.Token(id=token_id, text=text, span=span)
