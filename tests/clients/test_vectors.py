"""Between the wire and numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from polyseme import InvalidRequest
from polyseme.v1 import common_pb2
from polyseme.vectors import utf8_bytes, vector_array, vector_message, vectors_array

finite = arrays.arrays(
    np.float32,
    st.integers(1, 64),
    elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_nan=False, allow_subnormal=False),
)


@given(finite)
def test_a_vector_comes_back_bit_for_bit(values):
    message = vector_message(values, "vector")

    np.testing.assert_array_equal(vector_array(message), values)
    np.testing.assert_array_equal(vectors_array([message, message]), np.stack([values, values]))


@pytest.mark.parametrize(
    ("message", "values"),
    [
        ({"encoding": 2, "data": np.array([1.5, -2], "<f2").tobytes()}, [1.5, -2]),
        ({"encoding": 3, "data": np.array([4, -127], "i1").tobytes(), "scale": 0.5}, [2, -63.5]),
        ({"encoding": 4, "data": b"\x80"}, [1, -1]),
        ({"encoding": 5, "values": [0.25, 3]}, [0.25, 3]),
    ],
)
def test_every_encoding_is_read(message, values):
    vector = common_pb2.Vector(dimensions=2, **message)

    np.testing.assert_array_equal(vector_array(vector), np.float32(values))
    np.testing.assert_array_equal(vectors_array([vector]), np.float32([values]))


@pytest.mark.parametrize("values", [[], [[1, 2]], [1, np.nan], [np.inf]])
def test_what_is_no_vector_is_refused_before_it_is_sent(values):
    with pytest.raises(InvalidRequest, match="query"):
        vector_message(values, "query")


def test_a_lone_surrogate_is_named_with_its_place():
    with pytest.raises(InvalidRequest, match=r"texts\[3\].*position 2"):
        utf8_bytes("ab\ud800", "texts[3]")
