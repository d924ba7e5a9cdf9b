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
        problem = text_problem(text, settings.text_bytes_max)
        if problem is not None:
            raise _named(problem, f"{field}[{index}]")


def check_text(field: str, text: str, settings: Settings) -> None:
    problem = text_problem(text, settings.text_bytes_max)
    if problem is not None:
        raise _named(problem, field)


def text_problem(text: str, text_bytes_max: int) -> str | tuple[int, int] | None:
    """Why `text` cannot be embedded: in words, or as (bytes, limit). None if it can."""
    if not text or text.isspace():
        return "the text is empty"
    if "\0" in text:
        return f"NUL character at code point {text.index(chr(0))}"
    size = text_bytes(text, text_bytes_max)
    return (size, text_bytes_max) if size > text_bytes_max else None


def text_bytes(text: str, limit: int) -> int:
    """UTF-8 bytes of `text`; an upper bound, at no cost, while that is within `limit`."""
    bound = len(text) * UTF8_BYTES_MAX
    return bound if bound <= limit else len(text.encode("utf-8"))


def _named(problem: str | tuple[int, int], field: str) -> RequestInvalid:
    if isinstance(problem, str):
        return RequestInvalid(field, problem)
    return LimitExceeded(field, *problem, "bytes of UTF-8")
