"""What one call may ask for, checked before anything is done."""

from collections.abc import Sequence

from polyseme.v1 import admin_pb2
from server.errors import LimitExceeded, RequestInvalid
from server.settings import Settings

UTF8_BYTES_MAX = 4  # of one code point


def limits_to(settings: Settings) -> admin_pb2.Limits:
    """The limits as GetServerInfo publishes them: those fields of the settings, by name."""
    names = [field.name for field in admin_pb2.Limits.DESCRIPTOR.fields]
    return admin_pb2.Limits(**{name: getattr(settings, name) for name in names})


def check_count(field: str, given: int, limit: int, unit: str) -> None:
    if given > limit:
        raise LimitExceeded(field, given, limit, unit)


def check_texts(field: str, texts: Sequence[str], settings: Settings) -> None:
    """One text or more, not too many, each of them one that can be embedded.

    Refuses the first bad one by its path, as `inputs[3]`.
    """
    if not texts:
        raise RequestInvalid(field, "give at least one text")
    check_count(field, len(texts), settings.inputs_max, "texts")
    for index, text in enumerate(texts):
        error = text_error(f"{field}[{index}]", text, settings)
        if error is not None:
            raise error


def check_text(field: str, text: str, settings: Settings, *, may_be_empty: bool = False) -> None:
    error = text_error(field, text, settings, may_be_empty=may_be_empty)
    if error is not None:
        raise error


def text_error(
    field: str, text: str, settings: Settings, *, may_be_empty: bool = False
) -> RequestInvalid | None:
    """Why `text` cannot be worked with, None if it can."""
    if not may_be_empty and (not text or text.isspace()):
        return RequestInvalid(field, "the text is empty")
    if "\0" in text:
        return RequestInvalid(field, f"NUL character at code point {text.index(chr(0))}")
    size = text_bytes(text, settings.text_bytes_max)
    if size > settings.text_bytes_max:
        return LimitExceeded(field, size, settings.text_bytes_max, "bytes of UTF-8")
    return None


def text_bytes(text: str, limit: int) -> int:
    """UTF-8 bytes of `text`; an upper bound, at no cost, while that is within `limit`."""
    bound = len(text) * UTF8_BYTES_MAX
    return bound if bound <= limit else len(text.encode("utf-8"))
