import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from polyseme.v1 import admin_pb2
from server.errors import LimitExceeded, RequestInvalid
from server.limits import check_texts, limits_to, text_bytes
from server.settings import Settings

SETTINGS = Settings(inputs_max=3, text_bytes_max=10)
INT32 = [
    field.name
    for field in admin_pb2.Limits.DESCRIPTOR.fields
    if field.type == FieldDescriptor.TYPE_INT32
]


@given(text=st.text(max_size=30), limit=st.integers(1, 60))
def test_a_text_is_over_the_limit_exactly_when_its_bytes_are(text, limit):
    assert (text_bytes(text, limit) > limit) == (len(text.encode()) > limit)


@pytest.mark.parametrize(
    ("texts", "error", "field"),
    [
        ([], RequestInvalid, "inputs"),
        (["a"] * 4, LimitExceeded, "inputs"),
        (["a", ""], RequestInvalid, "inputs[1]"),
        ([" \n\t "], RequestInvalid, "inputs[0]"),
        (["a", "b", "c\0d"], RequestInvalid, "inputs[2]"),
        (["ééééé", "éééééé"], LimitExceeded, "inputs[1]"),
    ],
)
def test_the_first_bad_text_is_refused_by_its_path(texts, error, field):
    with pytest.raises(error) as refusal:
        check_texts("inputs", texts, SETTINGS)

    assert refusal.value.field == field


def test_every_published_limit_is_a_setting():
    limits = limits_to(SETTINGS)

    assert (limits.inputs_max, limits.text_bytes_max) == (3, 10)
    assert limits.k_max == SETTINGS.k_max


@pytest.mark.parametrize("name", INT32)
def test_a_limit_that_could_not_be_published_cannot_be_set(name):
    largest = dict.fromkeys(INT32, 2**31 - 1)  # all: some must not be below others

    assert getattr(limits_to(Settings(**largest)), name) == 2**31 - 1
    with pytest.raises(ValidationError, match=name):
        Settings(**{**largest, name: 2**31})
