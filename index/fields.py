"""A document's metadata as typed values under dotted paths, which is what filters look at."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
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
    try:
        _check(metadata, limits.metadata_depth_max)
    except WrongValue as wrong:
        raise InvalidInput(where + wrong.path, wrong.problem) from None
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


class WrongValue(Exception):
    """A value that cannot be stored. Its path is put together on the way out: on the way in, each
    of many values would copy the keys above it, however long they are."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.steps: list[str] = []  # the last one first

    @property
    def path(self) -> str:
        return "".join(reversed(self.steps))


def _check(value: object, depth_left: int) -> None:
    if depth_left < 0:
        raise WrongValue("nested too deep")
    match value:
        case None | bool():
            pass
        case int() if not -INTEGER_MAX <= value <= INTEGER_MAX:
            raise WrongValue(f"{value} does not fit in 64 bits")
        case int():
            pass
        case float() if not math.isfinite(value):
            raise WrongValue(f"{value} is not finite")
        case float():
            pass
        case str():
            _check_characters(value)
        case Mapping():
            _check_object(value, depth_left)
        case list() | tuple():
            _check_list(value, depth_left)
        case _:
            raise WrongValue(f"a {type(value).__name__} is no JSON value")


def _check_object(value: Mapping[object, object], depth_left: int) -> None:
    for key, child in value.items():
        if not isinstance(key, str) or not key:
            raise WrongValue(f"{key!r} is no key: a key is a string that is not empty")
        _check_characters(key)
        try:
            _check(child, depth_left - 1)
        except WrongValue as wrong:
            wrong.steps.append(f".{key}")
            raise


def _check_list(value: Sequence[object], depth_left: int) -> None:
    for i, child in enumerate(value):
        try:
            _check(child, depth_left - 1)
        except WrongValue as wrong:
            wrong.steps.append(f"[{i}]")
            raise


def _check_characters(text: str) -> None:
    if problem := _text_problem(text, None):
        raise WrongValue(problem)


def check_text(text: str, where: str, bytes_max: int | None) -> None:
    """Raises InvalidInput unless `text` is UTF-8 without NUL, within its limit."""
    if problem := _text_problem(text, bytes_max):
        raise InvalidInput(where, problem)


def _text_problem(text: str, bytes_max: int | None) -> str:
    if not isinstance(text, str):
        return f"a {type(text).__name__} is no text"
    if "\0" in text:
        return f"a NUL character at {text.index(chr(0))}"
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        return f"a lone surrogate at {error.start}"
    if bytes_max is not None and size > bytes_max:
        return f"{size} bytes; the limit is {bytes_max}"
    return ""
