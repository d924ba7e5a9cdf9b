"""CompareService over a real socket with a real model in fp32."""

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from polyseme.v1 import common_pb2, compare_pb2, encoder_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def refused_field(call):
    """The field that the refusal of `call` names."""
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call
    trailers = dict(refusal.value.trailing_metadata())
    for packed in status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details:
        if packed.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            return error_details_pb2.BadRequest.FromString(packed.value).field_violations[0].field
    return None


def floats(message):
    return np.frombuffer(message.data, "<f4").reshape(message.rows, message.columns)


def sentence(text, sense=""):
    return compare_pb2.CompareInput(text=text, sense=sense)


async def test_an_apple_is_seen_three_ways(stubs):
    request = compare_pb2.CompareEmbeddingsRequest(
        word="apple",
        inputs=[
            sentence("Apple was juicy", "fruit"),
            sentence("She baked a pie with a ripe apple", "fruit"),
            sentence("Apple stock crashed today", "company"),
            sentence("Shares of Apple rose after strong sales", "company"),
        ],
    )

    reply = await stubs.compare.CompareEmbeddings(request)

    averaged, sentences, words = reply.views
    assert [view.kind for view in reply.views] == [1, 2, 3]
    assert [(span.start, span.end) for span in reply.spans[:2]] == [(0, 5), (28, 33)]
    for view in (averaged, sentences, words):
        cosines = floats(view.similarities)
        assert cosines.shape == (4, 4)
        assert cosines.diagonal() == pytest.approx([1, 1, 1, 1], abs=1e-5)
        assert floats(view.ranks)[0, 0] == 0
    assert sentences.margin > 0.1
    assert sentences.nearest_same_sense == 1
    assert words.margin > 0
    assert reply.layers


async def test_without_senses_no_margin_is_made_up(stubs):
    inputs = [sentence("An apple"), sentence("The apple")]
    reply = await stubs.compare.CompareEmbeddings(
        compare_pb2.CompareEmbeddingsRequest(word="APPLE", inputs=inputs)
    )

    assert not any(view.HasField("margin") for view in reply.views)


async def test_punctuation_does_not_count_in_the_average(stubs):
    inputs = [sentence("An apple fell"), sentence("An apple, fell!!!")]
    reply = await stubs.compare.CompareEmbeddings(
        compare_pb2.CompareEmbeddingsRequest(word="apple", inputs=inputs)
    )

    assert floats(reply.views[0].similarities)[0, 1] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("word", "inputs", "field"),
    [
        ("apple", ["An apple"], "inputs"),
        ("apple", ["An apple", "A pineapple"], "inputs[1].text"),
        ("apple", ["An apple", ""], "inputs[1].text"),
        ("", ["An apple", "An apple"], "word"),
        ("apple", ["An apple", "apple " * 300], "inputs[1].text"),
    ],
)
async def test_compare_refuses(stubs, word, inputs, field):
    request = compare_pb2.CompareEmbeddingsRequest(word=word, inputs=map(sentence, inputs))

    assert await refused_field(stubs.compare.CompareEmbeddings(request)) == field


async def test_a_sentence_of_dots_alone_has_no_average_and_is_refused(stubs):
    dots = encoder_pb2.WordTarget(span=common_pb2.Span(start=0, end=3))
    request = compare_pb2.CompareEmbeddingsRequest(
        word="apple",
        inputs=[sentence("An apple"), compare_pb2.CompareInput(text="...", target=dots)],
    )

    assert await refused_field(stubs.compare.CompareEmbeddings(request)) == "inputs[1].text"
