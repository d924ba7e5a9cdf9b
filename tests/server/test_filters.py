import math

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import ListValue, Value

from index.filter import And, Equal, Exists, In, Not, Or, Range, check_filter, matches
from index.settings import StoreSettings
from polyseme.v1 import document_pb2
from server.errors import LimitExceeded, RequestInvalid
from server.filters import filter_from
from server.settings import Settings

LIMITS = StoreSettings()


def read(message):
    if isinstance(message, dict):
        message = ParseDict(message, document_pb2.Filter())
    return filter_from(message, "options.filter", Settings())


def equal(field="a", value=1):
    return {"equal": {"field": field, "value": value}}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (equal("author.name", "Ann"), Equal("author.name", "Ann")),
        (equal("n", 2.0), Equal("n", 2)),
        (equal("n", 2.5), Equal("n", 2.5)),
        (equal("flag", True), Equal("flag", True)),
        (equal("gone", None), Equal("gone", None)),
        ({"oneOf": {"field": "a", "values": [1, "x", None]}}, In("a", (1, "x", None))),
        ({"range": {"field": "n", "gt": 1, "lte": 5}}, Range(path="n", gt=1, lte=5)),
        (
            {"range": {"field": "d", "gte": "2024", "lt": "2025"}},
            Range(path="d", gte="2024", lt="2025"),
        ),
        ({"exists": {"field": "a"}}, Exists("a")),
        ({"negation": equal()}, Not(Equal("a", 1))),
        ({"all": {"filters": [equal(), equal("b")]}}, And((Equal("a", 1), Equal("b", 1)))),
        ({"any": {"filters": [equal()]}}, Or((Equal("a", 1),))),
    ],
)
def test_every_condition_becomes_the_index_s_own_and_passes_its_check(message, expected):
    filter = read(message)

    assert filter == expected
    check_filter(filter, LIMITS)


def test_a_number_in_a_filter_finds_the_same_number_in_metadata():
    assert matches(read(equal("year", 1984)), {"year": 1984})
    assert not matches(read(equal("year", 1984)), {"year": "1984"})


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({}, "options.filter"),
        ({"all": {}}, "options.filter.all.filters"),
        ({"any": {"filters": [equal(), {}]}}, "options.filter.any.filters[1]"),
        ({"negation": {}}, "options.filter.negation"),
        (equal(field=""), "options.filter.equal.field"),
        ({"equal": {"field": "a"}}, "options.filter.equal.value"),
        (equal(value=[1]), "options.filter.equal.value"),
        (equal(value={"b": 1}), "options.filter.equal.value"),
        ({"oneOf": {"field": "a"}}, "options.filter.one_of.values"),
        ({"oneOf": {"field": "a", "values": [1, [2]]}}, "options.filter.one_of.values[1]"),
        ({"range": {"field": "a"}}, "options.filter.range"),
        ({"range": {"field": "a", "gt": 1, "gte": 1}}, "options.filter.range"),
        ({"range": {"field": "a", "lt": 1, "lte": 1}}, "options.filter.range"),
        ({"range": {"field": "a", "gt": 1, "lt": "b"}}, "options.filter.range"),
        ({"range": {"field": "a", "gte": True}}, "options.filter.range.gte"),
        ({"exists": {}}, "options.filter.exists.field"),
        (
            {"all": {"filters": [equal(), equal(), {"range": {"field": "a", "gte": None}}]}},
            "options.filter.all.filters[2].range.gte",
        ),
    ],
)
def test_a_filter_that_means_nothing_is_refused_with_its_place(message, field):
    with pytest.raises(RequestInvalid) as refusal:
        read(message)

    assert refusal.value.field == field


def test_a_number_that_is_not_finite_is_refused():
    message = document_pb2.Filter()
    message.equal.field = "a"
    message.equal.value.number_value = math.nan

    with pytest.raises(RequestInvalid, match="finite"):
        read(message)


def test_a_filter_that_nests_too_deep_is_refused_with_the_limit():
    message = equal()
    for _ in range(LIMITS.filter_depth_max):
        message = {"negation": message}

    with pytest.raises(LimitExceeded, match=str(LIMITS.filter_depth_max)):
        read(message)


def test_a_filter_with_too_many_values_is_refused_with_the_limit():
    values = ListValue(values=[Value(number_value=i) for i in range(LIMITS.filter_terms_max + 1)])
    message = document_pb2.Filter()
    message.one_of.field = "a"
    message.one_of.values.extend(values.values)

    with pytest.raises(LimitExceeded, match=str(LIMITS.filter_terms_max)):
        read(message)
