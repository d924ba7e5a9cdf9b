"""Filters of the API as filters of the index; each error names its place in the request."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.struct_pb2 import Value

from index.fields import Scalar
from index.filter import And, Equal, Exists, Filter, In, Not, Or, Range
from polyseme.v1 import document_pb2
from server.errors import LimitExceeded, RequestInvalid
from server.metadata import number_from
from server.settings import Settings

_BOUNDS = ("gt", "gte", "lt", "lte")


def filter_from(message: document_pb2.Filter, field: str, settings: Settings) -> Filter:
    """The index's form of `message`, which stands at `field` of the request.

    Raises RequestInvalid and LimitExceeded with a path such as
    `options.filter.all.filters[2].range.gte`.
    """
    reader = _Reader(settings)
    return reader.read(message, field, depth=1)


class _Reader:
    """One filter being read: what it may hold and what it has held so far."""

    def __init__(self, settings: Settings) -> None:
        self._depth_max = settings.filter_depth_max
        self._terms_max = settings.filter_terms_max
        self._terms = 0

    def read(self, message: document_pb2.Filter, field: str, depth: int) -> Filter:
        if depth > self._depth_max:
            raise LimitExceeded(field, depth, self._depth_max, "levels")
        condition = message.WhichOneof("condition")
        match condition:
            case "all":
                return And(self._list(message.all, f"{field}.all", depth))
            case "any":
                return Or(self._list(message.any, f"{field}.any", depth))
            case "negation":
                self._count(1, field)
                return Not(self.read(message.negation, f"{field}.negation", depth + 1))
            case None:
                raise RequestInvalid(field, "a filter without a condition; set exactly one")
            case _:
                return self._leaf(message, field, condition)

    def _list(self, message: document_pb2.FilterList, field: str, depth: int) -> tuple[Filter, ...]:
        if not message.filters:
            raise RequestInvalid(f"{field}.filters", "give at least one filter")
        self._count(1, field)
        items = enumerate(message.filters)
        return tuple(self.read(item, f"{field}.filters[{i}]", depth + 1) for i, item in items)

    def _leaf(self, message: document_pb2.Filter, field: str, condition: str) -> Filter:
        match condition:
            case "equal":
                self._count(1, field)
                return _equal(message.equal, f"{field}.equal")
            case "one_of":
                self._count(len(message.one_of.values), field)
                return _one_of(message.one_of, f"{field}.one_of")
            case "range":
                self._count(1, field)
                return _range(message.range, f"{field}.range")
            case _:
                self._count(1, field)
                return Exists(_path(message.exists.field, f"{field}.exists"))

    def _count(self, terms: int, field: str) -> None:
        self._terms += terms
        if self._terms > self._terms_max:
            raise LimitExceeded(field, self._terms, self._terms_max, "conditions")


def _equal(message: document_pb2.FilterEqual, field: str) -> Equal:
    return Equal(_path(message.field, field), _scalar(message.value, f"{field}.value"))


def _one_of(message: document_pb2.FilterOneOf, field: str) -> In:
    if not message.values:
        raise RequestInvalid(f"{field}.values", "give at least one value")
    items = enumerate(message.values)
    values = tuple(_scalar(item, f"{field}.values[{i}]") for i, item in items)
    return In(_path(message.field, field), values)


def _range(message: document_pb2.FilterRange, field: str) -> Range:
    bounds = {
        name: _bound(getattr(message, name), f"{field}.{name}")
        for name in _BOUNDS
        if message.HasField(name)  # type: ignore[arg-type]  # a name out of _BOUNDS
    }
    if not bounds:
        raise RequestInvalid(field, "a range without a bound; set gt, gte, lt or lte")
    _one_of_a_pair(bounds, ("gt", "gte"), field)
    _one_of_a_pair(bounds, ("lt", "lte"), field)
    if len({isinstance(bound, str) for bound in bounds.values()}) > 1:
        raise RequestInvalid(field, "bounds of two types; use numbers only or strings only")
    return Range(path=_path(message.field, field), **bounds)


def _one_of_a_pair(bounds: dict[str, int | float | str], pair: Sequence[str], field: str) -> None:
    if all(name in bounds for name in pair):
        raise RequestInvalid(field, f"{pair[0]} and {pair[1]} together; give one of them")


def _bound(value: Value, field: str) -> int | float | str:
    bound = _scalar(value, field)
    if bound is None or isinstance(bound, bool):
        raise RequestInvalid(field, "a bound is a number or a string")
    return bound


def _scalar(value: Value, field: str) -> Scalar:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            return number_from(value.number_value, field)
        case "bool_value":
            return value.bool_value
        case "null_value":
            return None
        case None:
            raise RequestInvalid(field, "no value; set one, null_value for null")
        case _:
            raise RequestInvalid(field, "lists and objects cannot be compared; give a scalar")


def _path(path: str, field: str) -> str:
    if not path:
        raise RequestInvalid(f"{field}.field", "give the path of a metadata field, as author.name")
    return path
