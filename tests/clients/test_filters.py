"""Conditions on metadata."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyseme import InvalidRequest, field
from polyseme.filters import from_json, parse, parse_all


def test_expressions_json_and_python_say_the_same():
    built = (field("price") < 10) & (field("lang") == "en")

    assert parse_all(["price<10", "lang=en"]) == built
    assert from_json({"price": {"lt": 10}, "lang": "en"}) == built
    assert parse('{"price": {"lt": 10}, "lang": "en"}') == built


@pytest.mark.parametrize(
    ("text", "built"),
    [
        ("price<=10", field("price") <= 10),
        ("price >= 1.5", field("price") >= 1.5),
        ("author.name=Ada Lovelace", field("author.name") == "Ada Lovelace"),
        ('year="1815"', field("year") == "1815"),
        ("year!=1815", field("year") != 1815),
        ("draft=true", field("draft") == True),  # noqa: E712 - a filter, not a comparison
        ("seen=null", field("seen") == None),  # noqa: E711 - as above
        ("kind?", field("kind").exists()),
        ("!kind?", ~field("kind").exists()),
        ("formula=a<b", field("formula") == "a<b"),
    ],
)
def test_an_expression_reads_as_it_looks(text, built):
    assert parse(text) == built


def test_a_chain_of_ands_stays_flat():
    chain = (field("a") == 1) & (field("b") == 2) & (field("c") == 3)

    assert len(chain.message().all.filters) == 3


def test_and_or_not_lists_and_ranges_nest_in_json():
    tree = {"any": [{"lang": ["en", "de"]}, {"not": {"year": {"gte": 2000, "lt": 2010}}}]}

    built = field("lang").one_of(["en", "de"]) | ~((field("year") >= 2000) & (field("year") < 2010))

    assert from_json(tree) == built


@pytest.mark.parametrize(
    "text", ["", "price", "price~10", "=10", "{", "[]", '{"a": {"above": 1}}', '{"any": 3}']
)
def test_what_is_no_filter_is_refused_by_name(text):
    with pytest.raises(InvalidRequest, match="filter"):
        parse(text)


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**53 + 1, [1], {"a": 1}, object()])
def test_values_that_would_silently_change_are_refused(value):
    with pytest.raises(InvalidRequest):
        field("a") == value  # noqa: B015 - building it is the test


def test_a_filter_has_no_truth_so_that_and_cannot_lose_a_half():
    with pytest.raises(TypeError, match="&"):
        (field("a") == 1) and (field("b") == 2)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)


@given(name=st.from_regex(r"\A[a-z_]{1,8}(\.[a-z_]{1,8})?\Z"), value=scalars)
def test_every_scalar_survives_an_expression(name, value):
    text = f"{name}={json.dumps(value)}"

    assert parse(text) == (field(name) == value)
