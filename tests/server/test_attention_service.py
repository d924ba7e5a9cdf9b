"""AttentionService over a real socket with a real model in fp32."""

import asyncio

import grpc
import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2, status_pb2

from encoder.attention import rollout
from encoder.checkpoint import load_sentence_encoder
from polyseme.v1 import attention_pb2, common_pb2, encoder_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEXT = "The animal did not cross the street because it was too tired."
RAW, MEAN, ROLLOUT = (
    attention_pb2.ATTENTION_KIND_RAW,
    attention_pb2.ATTENTION_KIND_HEAD_MEAN,
    attention_pb2.ATTENTION_KIND_ROLLOUT,
)


def request(text=TEXT, **changes):
    return attention_pb2.GetAttentionRequest(text=text, **changes)


def word(text, occurrence=0):
    return encoder_pb2.WordTarget(word=encoder_pb2.WordOccurrence(word=text, occurrence=occurrence))


async def asked(stubs, given):
    return [message async for message in stubs.attention.GetAttention(given)]


def shares(messages):
    """(layers, matrices, rows, tokens)"""
    return np.stack([[matrix(head.shares) for head in m.heads] for m in messages])


def matrix(message):
    return np.frombuffer(message.data, "<f4").reshape(message.rows, message.columns)


@pytest.fixture(scope="module")
def by_torch(model_directory, encoder):
    """(layers, heads, tokens, tokens) of TEXT"""
    from encoder.tokenizer import Truncation

    (seen,) = encoder.tokenizer.encode([TEXT], tokens_max=256, truncation=Truncation.ERROR)
    ids = torch.from_numpy(seen.windows[0].ids)[None]
    with torch.inference_mode():
        encoded = load_sentence_encoder(model_directory).encoder(ids, explain=True)
    return torch.stack(encoded.attentions)[:, 0].numpy()


async def test_every_head_of_every_layer_is_torchs_and_its_rows_sum_to_one(stubs, by_torch):
    messages = await asked(stubs, request())

    assert [m.layer for m in messages] == [1, 2, 3, 4, 5, 6] == list(messages[0].layers)
    assert [head.head for head in messages[0].heads] == list(range(12))
    got = shares(messages)
    np.testing.assert_allclose(got, by_torch, atol=1e-5)
    np.testing.assert_allclose(got.sum(axis=-1), 1, atol=1e-5)


async def test_the_first_message_alone_brings_tokens_with_their_places(stubs):
    first, *others = await asked(stubs, request())

    assert first.tokens[0].special
    assert first.tokens[-1].special
    spans = [token.span for token in first.tokens if not token.special]
    assert [TEXT[s.start : s.end] for s in spans][:3] == ["The", "animal", "did"]
    assert list(first.rows) == list(range(len(first.tokens)))
    assert first.count.tokens_used == len(first.tokens)
    assert first.fingerprint.combined
    assert not any(m.tokens or m.layers or m.rows for m in others)


async def test_layers_heads_and_rows_can_be_chosen(stubs, by_torch):
    wanted = request(layers=[-1, 2, 2], heads=[11, 0], rows=[1], words=[word("it")])

    messages = await asked(stubs, wanted)

    rows = list(messages[0].rows)
    assert [m.layer for m in messages] == [2, 6]
    assert [head.head for head in messages[0].heads] == [0, 11]
    assert [messages[0].tokens[row].text for row in rows] == ["the", "it"]
    expected = by_torch[[1, 5]][:, [0, 11]][:, :, rows]
    np.testing.assert_allclose(shares(messages), expected, atol=1e-5)


async def test_heads_are_averaged_all_or_some(stubs, by_torch):
    every, some = [
        await asked(stubs, request(kind=MEAN, layers=[3], heads=heads)) for heads in ([], [0, 4])
    ]

    np.testing.assert_allclose(shares(every)[0, 0], by_torch[2].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(shares(some)[0, 0], by_torch[2, [0, 4]].mean(axis=0), atol=1e-5)
    assert not every[0].heads[0].HasField("head")


async def test_a_rollout_follows_attention_through_all_layers_below(stubs, by_torch):
    messages = await asked(stubs, request(kind=ROLLOUT, layers=[1, 6]))

    got = shares(messages)[:, 0]
    np.testing.assert_allclose(got, rollout(by_torch)[[0, 5]], atol=1e-5)
    np.testing.assert_allclose(got.sum(axis=-1), 1, atol=1e-5)


async def test_pruning_leaves_the_strongest_edges_of_rows_that_summed_to_one(stubs):
    (whole,) = await asked(stubs, request(kind=MEAN, layers=[6]))
    (pruned,) = await asked(stubs, request(kind=MEAN, layers=[6], edges_per_row_max=2))

    full = matrix(whole.heads[0].shares)
    np.testing.assert_allclose(full.sum(axis=1), 1, atol=1e-5)
    assert not pruned.heads[0].HasField("shares")
    edges = pruned.heads[0].edges
    assert [edge.row for edge in edges] == [row for row in pruned.rows for _ in range(2)]
    for row in pruned.rows:
        kept = [edge for edge in edges if edge.row == row]
        assert [e.share for e in kept] == sorted(full[row])[:-3:-1]
        assert all(full[row, edge.column] == np.float32(edge.share) for edge in kept)


async def test_long_texts_are_cut_only_when_asked(stubs):
    text = "apple " * 400

    (message,) = await asked(
        stubs,
        request(
            text, kind=MEAN, layers=[1], rows=[0],
            truncation=common_pb2.TRUNCATION_POLICY_HEAD,
        ),
    )  # fmt: skip

    assert message.count.truncated
    assert matrix(message.heads[0].shares).shape == (1, 256)


async def test_calls_side_by_side_get_their_own_answers(stubs):
    texts = ["An apple", "Two apples fell", "Three", TEXT, "An apple"]
    alone = [await asked(stubs, request(text, layers=[2])) for text in texts]

    together = await asyncio.gather(
        *(asked(stubs, request(text, layers=[2])) for text in texts),
        stubs.encoder.Embed(encoder_pb2.EmbedRequest(inputs=texts)),
    )

    for ours, theirs in zip(together[:-1], alone, strict=True):
        assert [m.heads for m in ours] == [m.heads for m in theirs]
    assert len(together[-1].embeddings) == len(texts)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"text": " "}, "text"),
        ({"text": "apple " * 400}, "text"),
        ({"kind": 9}, "kind"),
        ({"layers": [0]}, "layers[0]"),
        ({"layers": [1, 7]}, "layers[1]"),
        ({"heads": [12]}, "heads[0]"),
        ({"heads": [1], "kind": ROLLOUT}, "heads"),
        ({"rows": [99]}, "rows[0]"),
        ({"words": [word("apple")]}, "words[0].word"),
        ({"edges_per_row_max": -1}, "edges_per_row_max"),
        ({"truncation": common_pb2.TRUNCATION_POLICY_WINDOWS}, "truncation"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_its_field(stubs, changes, field):
    error = await refused(stubs, request(**{"text": TEXT, **changes}))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(error, error_details_pb2.BadRequest).field_violations[0].field == field


async def test_more_attention_than_the_limit_is_refused_before_it_is_computed(serving):
    async with serving(attention_cells_max=10_000) as small:
        assert len(await asked(small, request(layers=[1, 2]))) == 2
        error = await refused(small, request(kind=ROLLOUT, layers=[-1], rows=[1]))

    info = detail(error, error_details_pb2.ErrorInfo)
    assert info.reason == "LIMIT_EXCEEDED"
    assert info.metadata["limit"] == "10000"


async def test_a_layer_that_fits_no_message_is_refused(serving):
    async with serving(message_bytes_max=8192) as small:
        assert await asked(small, request(rows=[1]))
        error = await refused(small, request())

    assert detail(error, error_details_pb2.ErrorInfo).reason == "REPLY_TOO_LARGE"


async def refused(stubs, given):
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await asked(stubs, given)
    return refusal.value


def detail(error, kind):
    packed_status = dict(error.trailing_metadata())["grpc-status-details-bin"]
    for packed in status_pb2.Status.FromString(packed_status).details:
        if packed.Is(kind.DESCRIPTOR):
            return kind.FromString(packed.value)
    return None
