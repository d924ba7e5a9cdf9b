"""A document's metadata as typed values under dotted paths, which is what filters look at."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from index.errors import InvalidInput
from index.settings import StoreSettings
from index.spec import JSON

Scalar = bool | int | float | str | None

INTEGER_MAX = 2**63 - 1  # SQLite's largest integer


class Field(NamedTuple):
    """One value: `{"a": {"b": [1, "x"]}}` has a (object), a.b (list), a.b = 1 and a.b = "x"."""

    path: str
    kind: str  # o(bject), l(ist), n(umber), s(tring), b(oolean), z (null)
    value: int | float | str  # "" for o, l and z


def kind_of(value: Scalar) -> str:
    """The kind of a scalar; a boolean is no number."""
    match value:
        case None:
            return "z"
        case bool():
            return "b"
        case str():
            return "s"
        case _:
            return "n"


def field_of(path: str, value: Scalar) -> Field:
    return Field(path, kind_of(value), "" if value is None else value)


def fields_of(metadata: Mapping[str, JSON]) -> set[Field]:
    """All values of `metadata`. A list's elements share its path, so a filter means any of them."""
    return set(_walk("", metadata))


def _walk(path: str, value: JSON) -> Iterator[Field]:
    if isinstance(value, Mapping):
        if path:
            yield Field(path, "o", "")
        for key, child in value.items():
            yield from _walk(f"{path}.{key}" if path else key, child)
    elif isinstance(value, list | tuple):
        yield Field(path, "l", "")
        for child in value:
            yield from _walk(path, child)
    else:
        assert value is None or isinstance(value, bool | int | float | str)
        yield field_of(path, value)


def canonical_json(value: object) -> str:
    """Compact JSON with sorted keys. Raises ValueError for what JSON cannot say."""
    return json.dumps(
        value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    )


def check_metadata(metadata: Mapping[str, JSON], where: str, limits: StoreSettings) -> str:
    """The metadata's canonical JSON. Raises InvalidInput, naming the path of what is wrong."""
    _check(metadata, where, limits.metadata_depth_max)
    if not isinstance(metadata, Mapping):
        raise InvalidInput(where, "metadata must be an object")
    source = canonical_json(metadata)
    size = len(source.encode())
    if size > limits.metadata_bytes_max:
        raise InvalidInput(where, f"{size} bytes; the limit is {limits.metadata_bytes_max}")
    count = sum(1 for _ in _walk("", metadata))
    if count > limits.metadata_fields_max:
        raise InvalidInput(where, f"{count} values; the limit is {limits.metadata_fields_max}")
    return source


def _check(value: object, where: str, depth_left: int) -> None:
    if depth_left < 0:
        raise InvalidInput(where, "nested too deep")
    match value:
        case None | bool():
            pass
        case int() if not -INTEGER_MAX <= value <= INTEGER_MAX:
            raise InvalidInput(where, f"{value} does not fit in 64 bits")
        case int():
            pass
        case float() if not math.isfinite(value):
            raise InvalidInput(where, f"{value} is not finite")
        case float():
            pass
        case str():
            check_text(value, where, None)
        case Mapping():
            _check_object(value, where, depth_left)
        case list() | tuple():
            for i, child in enumerate(value):
                _check(child, f"{where}[{i}]", depth_left - 1)
        case _:
            raise InvalidInput(where, f"a {type(value).__name__} is no JSON value")


def _check_object(value: Mapping[object, object], where: str, depth_left: int) -> None:
    for key, child in value.items():
        if not isinstance(key, str) or not key:
            raise InvalidInput(where, f"{key!r} is no key: a key is a string that is not empty")
        check_text(key, where, None)
        _check(child, f"{where}.{key}", depth_left - 1)


def check_text(text: str, where: str, bytes_max: int | None) -> None:
    """Raises InvalidInput unless `text` is UTF-8 without NUL, within its limit."""
    if not isinstance(text, str):
        raise InvalidInput(where, f"a {type(text).__name__} is no text")
    if "\0" in text:
        raise InvalidInput(where, f"a NUL character at {text.index(chr(0))}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(where, f"a lone surrogate at {error.start}") from error
    if bytes_max is not None and size > bytes_max:
        raise InvalidInput(where, f"{size} bytes; the limit is {bytes_max}")
