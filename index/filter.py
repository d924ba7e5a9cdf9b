"""Filters over metadata: a small tree of values, its checks, and its meaning in Python.

A leaf looks at a dotted path. Where lists are on the path, any element may match. A value of
another type is no match and no error; a boolean is no number. `matches` says what a filter
means; `index/filter_sql.py` says the same in SQL, and a property test holds them together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass

from index.errors import FilterInvalid
from index.fields import INTEGER_MAX, Field, Scalar, field_of, fields_of, kind_of
from index.settings import StoreSettings
from index.spec import JSON


@dataclass(frozen=True, slots=True)
class Equal:
    path: str
    value: Scalar


@dataclass(frozen=True, slots=True)
class In:
    path: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers among numbers, strings among strings (by code point, as ISO dates want it)."""

    path: str
    _: KW_ONLY
    gt: int | float | str | None = None
    gte: int | float | str | None = None
    lt: int | float | str | None = None
    lte: int | float | str | None = None

    def bounds(self) -> list[tuple[str, int | float | str]]:
        """The bounds that are set, as (SQL operator, value)."""
        pairs = ((">", self.gt), (">=", self.gte), ("<", self.lt), ("<=", self.lte))
        return [(operator, value) for operator, value in pairs if value is not None]


@dataclass(frozen=True, slots=True)
class Exists:
    """The path is there, whatever is under it: null, an empty list and an object count too."""

    path: str


@dataclass(frozen=True, slots=True)
class And:
    filters: tuple[Filter, ...]  # none: everything


@dataclass(frozen=True, slots=True)
class Or:
    filters: tuple[Filter, ...]  # none: nothing


@dataclass(frozen=True, slots=True)
class Not:
    filter: Filter


Filter = Equal | In | Range | Exists | And | Or | Not


def matches(filter: Filter, metadata: Mapping[str, JSON]) -> bool:
    """Whether a document with `metadata` passes `filter`, which has been checked."""
    return _matches(filter, fields_of(metadata))


def _matches(filter: Filter, fields: Iterable[Field]) -> bool:
    match filter:
        case And(filters):
            return all(_matches(f, fields) for f in filters)
        case Or(filters):
            return any(_matches(f, fields) for f in filters)
        case Not(inner):
            return not _matches(inner, fields)
        case _:
            return any(_leaf_matches(filter, f) for f in fields if f.path == filter.path)


def _leaf_matches(filter: Equal | In | Range | Exists, found: Field) -> bool:
    match filter:
        case Equal(path, value):
            return found == field_of(path, value)
        case In(path, values):
            return any(found == field_of(path, value) for value in values)
        case Exists():
            return True
        case Range():
            return all(_within(found, operator, bound) for operator, bound in filter.bounds())


def _within(found: Field, operator: str, bound: int | float | str) -> bool:
    if found.kind != kind_of(bound):
        return False
    sign = (found.value > bound) - (found.value < bound)  # type: ignore[operator]  # one kind
    return {">": sign > 0, ">=": sign >= 0, "<": sign < 0, "<=": sign <= 0}[operator]


def check_filter(filter: Filter, limits: StoreSettings) -> None:
    """Raises FilterInvalid, with the path in the tree, for a filter that means nothing."""
    leaves = _check(filter, "filter", limits.filter_depth_max)
    if leaves > limits.filter_terms_max:
        raise FilterInvalid("filter", f"{leaves} terms; the limit is {limits.filter_terms_max}")


def _check(filter: Filter, where: str, depth_left: int) -> int:
    """The number of terms under `where`."""
    if depth_left < 1:
        raise FilterInvalid(where, "nested too deep")
    match filter:
        case And(filters) | Or(filters):
            name = type(filter).__name__.lower()
            parts = enumerate(filters)
            return 1 + sum(_check(f, f"{where}.{name}[{i}]", depth_left - 1) for i, f in parts)
        case Not(inner):
            return 1 + _check(inner, f"{where}.not", depth_left - 1)
        case Equal() | In() | Range() | Exists():
            return _check_leaf(filter, where)
        case _:
            raise FilterInvalid(where, f"a {type(filter).__name__} is no filter")


def _check_leaf(filter: Equal | In | Range | Exists, where: str) -> int:
    if not isinstance(filter.path, str) or not filter.path:
        raise FilterInvalid(where, "give the path of a metadata field")
    match filter:
        case Exists():
            values: tuple[Scalar, ...] = ()
        case Equal():
            values = (filter.value,)
        case In():
            values = filter.values
        case Range():
            values = tuple(value for _, value in filter.bounds())
            _check_range(values, where)
    for value in (filter.path, *values):
        _check_scalar(value, where)
    return max(1, len(values))


def _check_range(values: tuple[Scalar, ...], where: str) -> None:
    if not values:
        raise FilterInvalid(where, "a range needs gt, gte, lt or lte")
    kinds = {kind_of(value) for value in values}
    if len(kinds) > 1 or not kinds <= {"n", "s"}:
        raise FilterInvalid(where, "a range's bounds are numbers, or they are strings")


def _check_scalar(value: object, where: str) -> None:
    match value:
        case str():
            if any("\ud800" <= c <= "\udfff" for c in value):
                raise FilterInvalid(where, "a lone surrogate in a string")
        case None | bool():
            pass
        case int():
            if not -INTEGER_MAX <= value <= INTEGER_MAX:
                raise FilterInvalid(where, f"{value} does not fit in 64 bits")
        case float():
            if not math.isfinite(value):
                raise FilterInvalid(where, f"{value} is not finite")
        case _:
            raise FilterInvalid(where, f"a {type(value).__name__} cannot be compared")
