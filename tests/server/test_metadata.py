import math

import pytest
from google.protobuf.struct_pb2 import Struct, Value
from hypothesis import given
from hypothesis import strategies as st

from server.errors import RequestInvalid
from server.metadata import metadata_from, struct_of

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
VALUES = st.recursive(
    SCALARS,
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_metadata_comes_back_as_it_was_given(metadata):
    wire = Struct.FromString(struct_of(metadata).SerializeToString())

    assert metadata_from(wire, "metadata") == metadata


@pytest.mark.parametrize(
    ("number", "kind"), [(3.0, int), (-0.0, int), (2.5, float), (2.0**53, int), (1e300, float)]
)
def test_a_whole_number_comes_back_as_an_integer_where_a_double_is_exact(number, kind):
    read = metadata_from(Struct(fields={"n": Value(number_value=number)}), "metadata")

    assert read == {"n": number}
    assert type(read["n"]) is kind


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_with_its_path(number):
    prices = Struct()
    prices.get_or_create_list("prices").extend([1, number])
    metadata = Struct(fields={"shop": Value(struct_value=prices)})

    with pytest.raises(RequestInvalid) as refusal:
        metadata_from(metadata, "documents[3].metadata")

    assert refusal.value.field == "documents[3].metadata.shop.prices[1]"


def test_a_value_without_a_kind_is_refused():
    with pytest.raises(RequestInvalid, match="kind"):
        metadata_from(Struct(fields={"x": Value()}), "metadata")
