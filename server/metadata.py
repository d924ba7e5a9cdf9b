"""A document's metadata: `google.protobuf.Struct` on the wire, JSON values everywhere else."""

from __future__ import annotations

import math
from collections.abc import Mapping

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from index.fields import WrongValue
from index.spec import JSON
from server.errors import RequestInvalid

# Every whole number up to here is exact as a double, which is all that a Struct can carry.
WHOLE_NUMBER_MAX = 2**53


def metadata_from(struct: Struct, field: str) -> dict[str, JSON]:
    """The JSON object that `struct` carries; whole numbers come back as integers.

    Raises RequestInvalid, naming the path under `field`, for a number that is not finite and for
    a value without a kind.
    """
    try:
        return _object(struct)
    except WrongValue as wrong:
        raise RequestInvalid(field + wrong.path, wrong.problem) from None


def value_from(value: Value) -> JSON:
    """The JSON value that `value` carries. Raises WrongValue."""
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            return _number(value.number_value)
        case "bool_value":
            return value.bool_value
        case "null_value":
            return None
        case "struct_value":
            return _object(value.struct_value)
        case "list_value":
            return _list(value.list_value)
        case _:
            raise WrongValue("a value without a kind; set one, null_value for null")


def _object(struct: Struct) -> dict[str, JSON]:
    found: dict[str, JSON] = {}
    for key, value in struct.fields.items():
        try:
            found[key] = value_from(value)
        except WrongValue as wrong:
            wrong.steps.append(f".{key}")
            raise
    return found


def _list(items: ListValue) -> list[JSON]:
    found: list[JSON] = []
    for i, item in enumerate(items.values):
        try:
            found.append(value_from(item))
        except WrongValue as wrong:
            wrong.steps.append(f"[{i}]")
            raise
    return found


def number_from(number: float, field: str) -> int | float:
    """`number` as JSON wants it: finite, and an integer where it is a whole number."""
    try:
        return _number(number)
    except WrongValue as wrong:
        raise RequestInvalid(field, wrong.problem) from None


def _number(number: float) -> int | float:
    if not math.isfinite(number):
        raise WrongValue(f"{number} is not finite, so it is no JSON number")
    if number.is_integer() and abs(number) <= WHOLE_NUMBER_MAX:
        return int(number)
    return number


def put_metadata(struct: Struct, metadata: Mapping[str, JSON]) -> None:
    """Put `metadata` into an empty message of the wire, in place: a message given to another is
    written and read again. Integers above 2^53 are rounded, as any JSON reader may do."""
    for key, value in metadata.items():
        _put(struct.fields[key], value)


def _put(into: Value, value: JSON) -> None:
    match value:
        case None:
            into.null_value = 0  # type: ignore[assignment]  # NULL_VALUE, the enum's only one
        case bool():
            into.bool_value = value
        case int() | float():
            into.number_value = value
        case str():
            into.string_value = value
        case Mapping():
            into.struct_value.SetInParent()
            put_metadata(into.struct_value, value)
        case _:
            into.list_value.SetInParent()
            for item in value:
                _put(into.list_value.values.add(), item)
