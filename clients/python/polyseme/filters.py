"""Conditions on documents' metadata.

    (field("price") < 10) & ~field("kind").exists()
    (field("lang") == "en") | field("author.name").one_of(["Ada", "Grace"])

`parse` reads the same from short expressions, `from_json` from JSON, for the command line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from google.protobuf import json_format, struct_pb2

from polyseme.errors import invalid
from polyseme.v1 import document_pb2
from polyseme.vectors import utf8_bytes

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
Scalar: TypeAlias = bool | int | float | str | None
INTEGER_MAX = 2**53  # above it a double, which is what the wire has, skips integers


class Filter:
    """A condition; combine with `&`, `|` and `~`."""

    __slots__ = ("_message",)

    def __init__(self, message: document_pb2.Filter) -> None:
        self._message = message

    def message(self) -> document_pb2.Filter:
        """For the wire."""
        return self._message

    def __and__(self, other: Filter) -> Filter:
        parts = [*_parts(self, "all"), *_parts(other, "all")]
        return Filter(document_pb2.Filter(all=document_pb2.FilterList(filters=parts)))

    def __or__(self, other: Filter) -> Filter:
        parts = [*_parts(self, "any"), *_parts(other, "any")]
        return Filter(document_pb2.Filter(any=document_pb2.FilterList(filters=parts)))

    def __invert__(self) -> Filter:
        return Filter(document_pb2.Filter(negation=self._message))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self._message == other._message

    def __hash__(self) -> int:
        return hash(self._message.SerializeToString(deterministic=True))

    def __bool__(self) -> bool:
        # `a and b`, `10 < field("x") < 20` would silently lose a half.
        raise TypeError("a filter is neither true nor false: combine with & | ~, not and, or, not")

    def __repr__(self) -> str:
        return f"Filter({json.dumps(to_json(self), ensure_ascii=False)})"


class Field:
    """A metadata field; compare it to get a filter. Dots lead into nested objects."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        if not name:
            raise invalid("filter", "a field's name is empty")
        utf8_bytes(name, "filter")
        self._name = name

    def __eq__(self, value: object) -> Filter:  # type: ignore[override]
        return self.equals(value)

    def __ne__(self, value: object) -> Filter:  # type: ignore[override]
        return ~self.equals(value)

    __hash__ = None  # type: ignore[assignment]

    def __lt__(self, value: float | str) -> Filter:
        return self._range(lt=value)

    def __le__(self, value: float | str) -> Filter:
        return self._range(lte=value)

    def __gt__(self, value: float | str) -> Filter:
        return self._range(gt=value)

    def __ge__(self, value: float | str) -> Filter:
        return self._range(gte=value)

    def equals(self, value: object) -> Filter:
        """The same as `==`; a list equals what one of its elements equals."""
        equal = document_pb2.FilterEqual(field=self._name, value=_value(self._name, value))
        return Filter(document_pb2.Filter(equal=equal))

    def between(self, low: float | str, high: float | str) -> Filter:
        """From `low` to `high`, both included."""
        return self._range(gte=low, lte=high)

    def one_of(self, values: Iterable[object]) -> Filter:
        """Equal to one of `values`."""
        listed = [_value(self._name, v) for v in values]
        one_of = document_pb2.FilterOneOf(field=self._name, values=listed)
        return Filter(document_pb2.Filter(one_of=one_of))

    def exists(self) -> Filter:
        """Present, also when it is null."""
        return Filter(document_pb2.Filter(exists=document_pb2.FilterExists(field=self._name)))

    def _range(self, **bounds: float | str) -> Filter:
        message = document_pb2.FilterRange(field=self._name)
        for side, bound in bounds.items():
            getattr(message, side).CopyFrom(_value(self._name, bound))
        return Filter(document_pb2.Filter(range=message))


def field(name: str) -> Field:
    """The metadata field `name`, such as `price` or `author.name`."""
    return Field(name)


def from_json(tree: JSON) -> Filter:
    """A filter from its JSON form.

    `{"lang": "en", "price": {"lt": 10}}` means both. A field's value is a scalar (equal), a list
    (one of), or an object of `eq`, `ne`, `in`, `lt`, `lte`, `gt`, `gte`, `exists`.
    `{"all": [...]}`, `{"any": [...]}` and `{"not": {...}}` nest.
    Raises InvalidRequest that names the place.
    """
    return _from_json(tree, "filter")


def _from_json(tree: JSON, path: str) -> Filter:
    if not isinstance(tree, Mapping) or not tree:
        raise invalid(path, 'is not an object such as {"lang": "en"}')
    return _all([_entry(key, value, f"{path}.{key}") for key, value in tree.items()])


def _entry(key: str, value: JSON, path: str) -> Filter:
    match key, value:
        case "not", _:
            return ~_from_json(value, path)
        case (("all" | "any"), [_, *_]):
            parts = [_from_json(item, f"{path}[{i}]") for i, item in enumerate(value)]
            return _all(parts) if key == "all" else _any(parts)
        case (("all" | "any"), _):
            raise invalid(path, "is not a list of filters")
        case _, Mapping():
            return _all([_operator(key, op, bound, f"{path}.{op}") for op, bound in value.items()])
        case _, [*values]:
            return field(key).one_of(values)
    return field(key).equals(value)


_OPERATORS = ("eq", "ne", "in", "lt", "lte", "gt", "gte", "exists")


def _operator(name: str, operator: str, bound: Any, path: str) -> Filter:
    wanted = field(name)
    match operator:
        case "eq":
            return wanted.equals(bound)
        case "ne":
            return ~wanted.equals(bound)
        case "in" if isinstance(bound, list | tuple):
            return wanted.one_of(bound)
        case "lt" | "lte" | "gt" | "gte":
            return wanted._range(**{operator: bound})
        case "exists" if isinstance(bound, bool):
            return wanted.exists() if bound else ~wanted.exists()
    if operator in _OPERATORS:
        raise invalid(path, f"cannot be {json.dumps(bound)}")
    raise invalid(path, f"is none of {', '.join(_OPERATORS)}")


def to_json(filter: Filter) -> Any:
    """The filter's message as JSON, for people."""
    return json_format.MessageToDict(filter.message(), preserving_proto_field_name=True)


# field, operator, value: `price<10`, `lang=en`, `lang!=en`, `author.name="Ada Lovelace"`, `kind?`
_EXPRESSION = re.compile(
    r"^\s*(?P<field>[^\s=<>!?]+)\s*(?P<op><=|>=|!=|=|<|>)\s*(?P<value>.*?)\s*$"
)
_PRESENCE = re.compile(r"^\s*(?P<absent>!?)(?P<field>[^\s=<>!?]+)\?\s*$")
_SIGNS = {"=": "eq", "!=": "ne", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def parse(text: str) -> Filter:
    """A filter from `price<10`, `lang=en`, `lang!=en`, `kind?` (is there), `!kind?`, or JSON.

    A value that reads as JSON is that (`10`, `true`, `null`, `"10"`), any other is a string.
    Raises InvalidRequest.
    """
    if text.lstrip().startswith("{"):
        try:
            return from_json(json.loads(text))
        except json.JSONDecodeError as error:
            raise invalid("filter", f"is not JSON: {error}") from None
    if match := _PRESENCE.match(text):
        there = field(match["field"]).exists()
        return ~there if match["absent"] else there
    if match := _EXPRESSION.match(text):
        return _operator(match["field"], _SIGNS[match["op"]], _scalar(match["value"]), "filter")
    raise invalid("filter", f"{text!r} is not like field=value, price<10, kind? or JSON")


def parse_all(texts: Iterable[str]) -> Filter | None:
    """All of the expressions together; None for none."""
    parts = [parse(text) for text in texts]
    return _all(parts) if parts else None


def _scalar(text: str) -> Scalar:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return text if isinstance(value, dict | list) else value


def _all(parts: Sequence[Filter]) -> Filter:
    if len(parts) == 1:
        return parts[0]
    return Filter(_list("all", parts))


def _any(parts: Sequence[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else Filter(_list("any", parts))


def _list(kind: str, parts: Sequence[Filter]) -> document_pb2.Filter:
    listed = document_pb2.FilterList(filters=[part.message() for part in parts])
    if kind == "all":
        return document_pb2.Filter(all=listed)
    return document_pb2.Filter(any=listed)


def _parts(filter: Filter, kind: str) -> Sequence[document_pb2.Filter]:
    """`a & b & c` is one list of three, not a list in a list: the server limits nesting."""
    message = filter.message()
    if message.WhichOneof("condition") == kind:
        return list(getattr(message, kind).filters)
    return [message]


def _value(name: str, value: object) -> struct_pb2.Value:
    match value:
        case None:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        case bool():
            return struct_pb2.Value(bool_value=value)
        case int() | float():
            return struct_pb2.Value(number_value=_number(value, name))
        case str():
            utf8_bytes(value, f"filter.{name}")
            return struct_pb2.Value(string_value=value)
    raise invalid(f"filter.{name}", f"{value!r} is no string, number, boolean or None")


def _number(value: float, path: str) -> float:
    if isinstance(value, int) and abs(value) > INTEGER_MAX:
        raise invalid(path, f"{value} is beyond 2**53, where integers are no longer exact")
    if not math.isfinite(value):
        raise invalid(path, f"{value} is not finite, which JSON cannot say")
    return float(value)
