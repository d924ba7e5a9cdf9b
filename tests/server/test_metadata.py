import json
import math
import time

import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from hypothesis import given
from hypothesis import strategies as st

from index.errors import InvalidInput
from index.fields import check_metadata
from index.settings import StoreSettings
from index.spec import CollectionSpec
from polyseme.v1 import document_pb2
from server import metadata as metadata_module
from server.documents import STRUCT_FACTOR, drafts_from
from server.errors import LimitExceeded, RequestInvalid
from server.metadata import metadata_from, put_metadata


def struct_of(metadata):
    struct = Struct()
    put_metadata(struct, metadata)
    return struct


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


@pytest.mark.parametrize(
    "value", [0, [], {}, "", None, False, {"a": 0}, {"a": {"b": {}}}, [[[[0]]]], [0] * 3_000]
)
def test_a_struct_has_few_bytes_for_each_of_its_json(value):
    """So one that has many more is too long, and need not be read."""
    value = [[value] * 30]

    struct = struct_of({"k": value})

    assert struct.ByteSize() < STRUCT_FACTOR * len(json.dumps({"k": value}, separators=(",", ":")))


def test_metadata_that_is_far_too_long_is_refused_before_it_is_read(monkeypatch):
    read = []
    monkeypatch.setattr(metadata_module, "value_from", read.append)
    nulls = ListValue(values=[Value(null_value=0)] * 1_000)
    document = document_pb2.Document(id="a", text="b")
    document.metadata.fields["k" * (8 << 20)].list_value.CopyFrom(nulls)
    spec = CollectionSpec(name="c", dimensions=2, embedding={"given": True})

    with pytest.raises(LimitExceeded) as refusal:
        drafts_from([document], spec, StoreSettings())

    assert refusal.value.field == "documents[0].metadata"
    assert not read


def test_the_keys_above_a_value_are_not_copied_for_each():
    """A key of 4 MiB over 20,000 values: 80 GiB of paths, which take many seconds; the values
    themselves take milliseconds."""
    nulls = ListValue(values=[Value(null_value=0)] * 20_000)
    struct = Struct()
    struct.fields["k" * (4 << 20)].list_value.CopyFrom(nulls)
    began = time.process_time()

    with pytest.raises(InvalidInput, match="the limit is 65536"):
        check_metadata(metadata_from(struct, "metadata"), "metadata", StoreSettings())

    assert time.process_time() - began < 1


def test_a_value_without_a_kind_is_refused():
    with pytest.raises(RequestInvalid, match="kind"):
        metadata_from(Struct(fields={"x": Value()}), "metadata")
