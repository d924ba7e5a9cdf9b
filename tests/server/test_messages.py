from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from encoder.runtime import Fingerprint, Pooling
from encoder.tokenizer import Truncation
from polyseme.v1 import common_pb2, encoder_pb2
from server.embedder import Lane
from server.errors import RequestInvalid
from server.messages import (
    fingerprint_to,
    lane_from,
    layers_from,
    matrix_to,
    plain_vectors_from,
    plan_from,
    put_vectors,
    target_from,
    truncation_from,
    vector_from,
    vector_to,
)

floats = st.floats(-100, 100, width=32)
rows = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 20)), elements=floats)


@given(rows=rows)
def test_float32_vectors_come_back_byte_for_byte(rows):
    messages = [common_pb2.Vector() for _ in rows]
    put_vectors(messages, rows, common_pb2.VECTOR_ENCODING_FLOAT32)
    for row, message in zip(rows, messages, strict=True):
        assert message.data == row.astype("<f4").tobytes()
        assert message.dimensions == len(row)
        np.testing.assert_array_equal(vector_from(message, "vector"), row)


@given(rows=rows)
def test_float_lists_come_back_as_they_were(rows):
    message = vector_to(rows[0], common_pb2.VECTOR_ENCODING_FLOAT_LIST)

    assert not message.data
    np.testing.assert_array_equal(vector_from(message, "vector"), rows[0])


@example(rows=np.array([[4.06e-43]], np.float32))  # its step is no normal number
@given(rows=rows)
def test_float16_and_int8_come_back_within_a_step(rows):
    row = rows[0]
    half = vector_from(vector_to(row, common_pb2.VECTOR_ENCODING_FLOAT16), "vector")
    np.testing.assert_allclose(half, row, rtol=1e-3, atol=1e-6)

    message = vector_to(row, common_pb2.VECTOR_ENCODING_INT8)
    eighth = vector_from(message, "vector")
    np.testing.assert_allclose(eighth, row, atol=message.scale * 0.51)


@given(rows=rows)
def test_binary_keeps_the_signs(rows):
    row = rows[0]
    message = vector_to(row, common_pb2.VECTOR_ENCODING_BINARY)

    assert len(message.data) == -(-len(row) // 8)
    np.testing.assert_array_equal(vector_from(message, "vector") > 0, row > 0)


def vector(values, **fields):
    return common_pb2.Vector(data=np.array(values, dtype="<f4").tobytes(), **fields)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (common_pb2.Vector(), "v"),
        (common_pb2.Vector(data=b"abc"), "v.data"),
        (vector([1.0, float("nan")]), "v"),
        (vector([float("inf")]), "v"),
        (vector([1.0, 2.0], dimensions=3), "v.dimensions"),
        (vector([1.0], encoding=77), "v.encoding"),
        (common_pb2.Vector(data=b"\1", encoding=common_pb2.VECTOR_ENCODING_INT8), "v.scale"),
        (
            common_pb2.Vector(data=b"\1", encoding=common_pb2.VECTOR_ENCODING_BINARY, dimensions=9),
            "v.dimensions",
        ),
        (
            common_pb2.Vector(encoding=common_pb2.VECTOR_ENCODING_BINARY, dimensions=-3),
            "v.dimensions",
        ),
        (
            common_pb2.Vector(data=b"\1", encoding=common_pb2.VECTOR_ENCODING_FLOAT_LIST),
            "v.data",
        ),
    ],
)
def test_a_vector_that_is_none_is_refused_by_its_field(message, field):
    with pytest.raises(RequestInvalid) as refusal:
        vector_from(message, "v")

    assert refusal.value.field == field


@given(rows=rows)
def test_float32_vectors_of_one_length_are_read_together_as_each_alone(rows):
    messages = [common_pb2.Vector() for _ in rows]
    put_vectors(messages, rows, common_pb2.VECTOR_ENCODING_FLOAT32)
    messages[0].ClearField("encoding")  # what has data is FLOAT32
    messages[-1].ClearField("dimensions")

    np.testing.assert_array_equal(plain_vectors_from(messages, rows.shape[1]), rows)
    assert plain_vectors_from(messages, rows.shape[1] + 1) is None


@pytest.mark.parametrize(
    "other",
    [
        common_pb2.Vector(),
        vector([1.0]),
        vector([1.0, float("nan")]),
        vector([float("inf"), 1.0]),
        vector([1.0, 2.0], dimensions=3),
        vector([1.0, 2.0], encoding=77),
        common_pb2.Vector(data=b"12345678", encoding=common_pb2.VECTOR_ENCODING_INT8, scale=1),
        vector_to(np.float32([1, 2]), common_pb2.VECTOR_ENCODING_FLOAT_LIST),
    ],
)
def test_beside_a_vector_of_another_kind_none_are_read_together(other):
    assert plain_vectors_from([vector([1.0, 2.0]), other], 2) is None


def test_a_matrix_is_row_after_row():
    message = matrix_to(np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32))

    assert (message.rows, message.columns) == (3, 2)
    assert np.frombuffer(message.data, "<f4").tolist() == [1, 2, 3, 4, 5, 6]


def test_a_fingerprint_of_words_has_no_pooling_of_texts():
    fingerprint = Fingerprint(
        model="m",
        weights_sha256="w",
        tokenizer_sha256="t",
        pooling="words by mean, layers 4,5",
        prompt="",
        dimensions=3,
        normalized=True,
        numeric_class="fp32",
    )

    message = fingerprint_to(fingerprint)

    assert message.pooling == common_pb2.POOLING_UNSPECIFIED
    assert message.combined == fingerprint.combined


class SomeEncoder:
    width = 8
    layers = 6
    dimensions_choices = (4, 8)
    prompts = MappingProxyType({"query": "find: "})


def test_options_left_out_are_the_models_own():
    plan = plan_from(encoder_pb2.EmbedOptions(), SomeEncoder())

    assert (plan.pooling, plan.dimensions, plan.normalized, plan.prompt, plan.truncation) == (
        None,
        8,
        True,
        "",
        Truncation.ERROR,
    )


def test_options_given_are_taken():
    options = encoder_pb2.EmbedOptions(
        pooling=common_pb2.POOLING_MAX,
        dimensions=4,
        normalize=False,
        prompt_name="query",
        truncation=common_pb2.TRUNCATION_POLICY_WINDOWS,
    )

    plan = plan_from(options, SomeEncoder())

    assert (plan.pooling, plan.dimensions, plan.normalized, plan.prompt, plan.truncation) == (
        Pooling.MAX,
        4,
        False,
        "find: ",
        Truncation.WINDOWS,
    )


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"pooling": 9}, "options.pooling"),
        ({"truncation": 9}, "options.truncation"),
        ({"dimensions": 5}, "options.dimensions"),
        ({"dimensions": -1}, "options.dimensions"),
        ({"prompt_name": "nobody"}, "options.prompt_name"),
        ({"prompt": "a\0b"}, "options.prompt"),
    ],
)
def test_options_that_mean_nothing_are_refused_by_their_field(options, field):
    with pytest.raises(RequestInvalid) as refusal:
        plan_from(encoder_pb2.EmbedOptions(**options), SomeEncoder())

    assert refusal.value.field == field


def test_layers_count_from_either_end_and_are_taken_once():
    assert layers_from([-1, 6, 0, -7], SomeEncoder(), default=(4, 5)) == (0, 6)
    assert layers_from([], SomeEncoder(), default=(4, 5)) == (4, 5)
    with pytest.raises(RequestInvalid, match=r"layers\[1\]"):
        layers_from([0, 7], SomeEncoder(), default=())


def test_unknown_enum_values_are_refused():
    with pytest.raises(RequestInvalid, match="priority"):
        lane_from(5, Lane.BULK)
    with pytest.raises(RequestInvalid, match="truncation"):
        truncation_from(9, "truncation")


TEXT = "Ein Apfel, 🍎 ist kein Äpfelchen"


@given(data=st.data(), text=st.text(min_size=1, max_size=30))
def test_a_span_in_bytes_and_one_in_code_points_are_the_same(data, text):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    size = len(text[:start].encode()), len(text[:end].encode())

    by_points = encoder_pb2.WordTarget(span=common_pb2.Span(start=start, end=end))
    by_bytes = encoder_pb2.WordTarget(span=common_pb2.Span(byte_start=size[0], byte_end=size[1]))

    assert target_from(text, by_points, "t") == target_from(text, by_bytes, "t")


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ({}, "t"),
        ({"span": common_pb2.Span(start=5, end=5)}, "t.span"),
        ({"span": common_pb2.Span(start=5, end=500)}, "t.span"),
        ({"span": common_pb2.Span(start=-5, end=3)}, "t.span"),
        ({"span": common_pb2.Span(byte_start=12, byte_end=13)}, "t.span"),  # half an apple
        ({"span": common_pb2.Span(start=0, end=3, byte_start=0, byte_end=4)}, "t.span"),
        ({"word": encoder_pb2.WordOccurrence(word="Apfel", occurrence=1)}, "t.word"),
        ({"word": encoder_pb2.WordOccurrence(word="pfel")}, "t.word"),
    ],
)
def test_a_target_that_is_not_there_is_refused_by_its_field(target, field):
    with pytest.raises(RequestInvalid) as refusal:
        target_from(TEXT, encoder_pb2.WordTarget(**target), "t")

    assert refusal.value.field == field
