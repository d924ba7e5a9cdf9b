"""EncoderService over a real socket with a real model in fp32."""

import asyncio

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from encoder.runtime import normalize
from encoder.tokenizer import Truncation
from polyseme.v1 import common_pb2, encoder_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

Request = encoder_pb2.EmbedRequest
Options = encoder_pb2.EmbedOptions
LONG = "apples and oranges are fruit. " * 100  # about 600 tokens; the model reads 256


def values(vector):
    return np.frombuffer(vector.data, dtype="<f4")


def vectors_of(reply):
    return np.stack([values(embedding.vector) for embedding in reply.embeddings])


def expected(encoder, texts, truncation=Truncation.HEAD):
    tokenized = encoder.tokenizer.encode(
        texts, tokens_max=encoder.tokens_max, truncation=truncation
    )
    return [
        normalize(np.mean([encoder.pooled([w])[0] for w in text.windows], axis=0))
        for text in tokenized
    ]


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call
    return refusal.value


def detail(error, kind):
    for packed in rpc_status.from_call(_Trailers(error)).details:
        if packed.Is(kind.DESCRIPTOR):
            message = kind()
            packed.Unpack(message)
            return message
    return None


class _Trailers:
    """What grpc_status reads of a call; asyncio's errors have it under the same names."""

    def __init__(self, error):
        self.trailing_metadata = error.trailing_metadata
        self.code = error.code
        self.details = error.details


def reason(error):
    return detail(error, error_details_pb2.ErrorInfo).reason


def bad_field(error):
    return detail(error, error_details_pb2.BadRequest).field_violations[0].field


# ---- Embed


async def test_embed_gives_each_text_the_models_vector(stubs, encoder):
    texts = ["Apple was juicy", "Apple stock crashed today", "short", LONG[:600]]

    reply = await stubs.encoder.Embed(Request(inputs=texts))

    np.testing.assert_array_equal(vectors_of(reply), expected(encoder, texts))
    assert reply.fingerprint.numeric_class == "fp32"
    assert len(reply.fingerprint.combined) == 64
    assert reply.timing.compute_s > 0
    assert [e.tokens.truncated for e in reply.embeddings] == [False] * 4
    assert all(e.tokens.tokens_used == e.tokens.tokens_total for e in reply.embeddings)


async def test_the_same_text_gives_the_same_bytes_whatever_its_batch(stubs):
    text = "The pitch of the roof is steep."
    alone = vectors_of(await stubs.encoder.Embed(Request(inputs=[text])))[0]

    crowd = [f"{LONG[: 7 * n]} {n}" for n in range(1, 20)]
    replies = await asyncio.gather(
        *(stubs.encoder.Embed(Request(inputs=[*crowd[n:], text])) for n in range(0, 20, 5))
    )

    for reply in replies:
        assert values(reply.embeddings[-1].vector).tobytes() == alone.tobytes()


@pytest.mark.parametrize(
    "pooling", [common_pb2.POOLING_MEAN, common_pb2.POOLING_CLS, common_pb2.POOLING_MAX]
)
async def test_other_poolings_are_made_of_the_last_states(stubs, encoder, pooling):
    reply = await stubs.encoder.Embed(
        Request(inputs=["Apple was juicy"], options=Options(pooling=pooling, normalize=False))
    )
    (window,) = encoder.tokenizer.encode(
        ["Apple was juicy"], tokens_max=256, truncation=Truncation.ERROR
    )[0].windows
    states = encoder.states([window], [encoder.layers])[0][0]

    reduce = {
        common_pb2.POOLING_MEAN: lambda s: s.mean(axis=0),
        common_pb2.POOLING_CLS: lambda s: s[0],
        common_pb2.POOLING_MAX: lambda s: s.max(axis=0),
    }[pooling]
    np.testing.assert_allclose(vectors_of(reply)[0], reduce(states), atol=1e-5)
    assert reply.fingerprint.pooling == pooling
    assert not reply.fingerprint.normalized


async def test_head_and_tail_read_the_ends_of_a_long_text(stubs, encoder):
    for policy, truncation in (
        (common_pb2.TRUNCATION_POLICY_HEAD, Truncation.HEAD),
        (common_pb2.TRUNCATION_POLICY_TAIL, Truncation.TAIL),
    ):
        reply = await stubs.encoder.Embed(
            Request(inputs=[LONG + "the end"], options=Options(truncation=policy))
        )
        np.testing.assert_array_equal(
            vectors_of(reply), expected(encoder, [LONG + "the end"], truncation)
        )
        tokens = reply.embeddings[0].tokens
        assert (tokens.tokens_used, tokens.truncated) == (256, True)
        assert tokens.tokens_total > 500


async def test_windows_average_all_of_a_long_text(stubs, encoder):
    options = Options(truncation=common_pb2.TRUNCATION_POLICY_WINDOWS)
    texts = ["short", LONG, "also short"]

    reply = await stubs.encoder.Embed(Request(inputs=texts, options=options))

    np.testing.assert_allclose(
        vectors_of(reply), expected(encoder, texts, Truncation.WINDOWS), atol=1e-6
    )
    assert not reply.embeddings[1].tokens.truncated


async def test_a_prompt_goes_before_each_text_and_into_the_fingerprint(stubs):
    prompted = await stubs.encoder.Embed(
        Request(inputs=["apples"], options=Options(prompt="query: "))
    )
    written_out = await stubs.encoder.Embed(Request(inputs=["query: apples"]))

    np.testing.assert_array_equal(vectors_of(prompted), vectors_of(written_out))
    assert prompted.fingerprint.prompt == "query: "
    assert prompted.fingerprint.combined != written_out.fingerprint.combined


@pytest.mark.parametrize(
    ("encoding", "size"),
    [
        (common_pb2.VECTOR_ENCODING_FLOAT16, 768),
        (common_pb2.VECTOR_ENCODING_INT8, 384),
        (common_pb2.VECTOR_ENCODING_BINARY, 48),
    ],
)
async def test_vectors_travel_as_asked(stubs, encoding, size):
    reply = await stubs.encoder.Embed(Request(inputs=["a"], options=Options(encoding=encoding)))

    vector = reply.embeddings[0].vector
    assert (len(vector.data), vector.dimensions, vector.encoding) == (size, 384, encoding)


@pytest.mark.parametrize(
    ("request_", "why", "field"),
    [
        (Request(), "INVALID_FIELD", "inputs"),
        (Request(inputs=["a", ""]), "INVALID_FIELD", "inputs[1]"),
        (Request(inputs=["a\0b"]), "INVALID_FIELD", "inputs[0]"),
        (Request(inputs=["a", LONG]), "INPUT_TOO_LONG", "inputs[1]"),
        (Request(inputs=["a"] * 10_000), "LIMIT_EXCEEDED", "inputs"),
        (Request(inputs=["x" * 1_100_000]), "LIMIT_EXCEEDED", "inputs[0]"),
        (Request(inputs=["a"], options=Options(pooling=99)), "INVALID_FIELD", "options.pooling"),
        (
            Request(inputs=["a"], options=Options(dimensions=7)),
            "INVALID_FIELD",
            "options.dimensions",
        ),
        (Request(inputs=["a"], options=Options(encoding=99)), "INVALID_FIELD", "options.encoding"),
        (
            Request(inputs=["a"], options=Options(prompt_name="x")),
            "INVALID_FIELD",
            "options.prompt_name",
        ),
        (
            Request(inputs=["a"], options=Options(prompt="word " * 200)),
            "INVALID_FIELD",
            "options.prompt",
        ),
        (Request(inputs=["a"], priority=99), "INVALID_FIELD", "priority"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_embed_refuses(stubs, request_, why, field):
    error = await refused(stubs.encoder.Embed(request_))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (reason(error), bad_field(error)) == (why, field)


async def test_a_megabyte_of_text_is_read_in_windows(stubs):
    text = "word " * 40_000 + "x" * (1024 * 1024 - 200_000)  # one word of 0.8 MB is one token

    reply = await stubs.encoder.Embed(
        Request(inputs=[text], options=Options(truncation=common_pb2.TRUNCATION_POLICY_HEAD))
    )

    assert reply.embeddings[0].tokens.truncated
    error = await refused(stubs.encoder.Embed(Request(inputs=[text])))
    assert reason(error) == "INPUT_TOO_LONG"


async def test_all_the_tokens_of_a_call_have_a_limit(serving):
    texts = ["some words to read"] * 20
    async with serving(call_tokens_max=100) as small:
        both = encoder_pb2.SimilarityRequest(left=texts, right=texts)
        one = encoder_pb2.SimilarityRequest(left=texts)
        for call, field in (
            (small.encoder.Embed(Request(inputs=texts)), "inputs"),
            (small.encoder.Similarity(both), "right"),
            (small.encoder.Similarity(one), "left"),
        ):
            error = await refused(call)
            assert reason(error) == "LIMIT_EXCEEDED"
            assert bad_field(error) == field


async def test_invalid_utf8_is_a_clear_refusal(stubs):
    lone_surrogate = b"\x0a\x03\xed\xa0\x80"  # field 1, three bytes that UTF-8 forbids
    embed = stubs.channel.unary_unary("/polyseme.v1.EncoderService/Embed")

    error = await refused(embed(lone_surrogate))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(error) == "MALFORMED_MESSAGE"


async def test_partial_success_answers_each_text_by_itself(stubs):
    texts = ["good", "", LONG, "also good", "nul\0"]

    reply = await stubs.encoder.Embed(Request(inputs=texts, partial_success=True))

    assert [e.HasField("error") for e in reply.embeddings] == [False, True, True, False, True]
    alone = await stubs.encoder.Embed(Request(inputs=["also good"]))
    assert reply.embeddings[3].vector == alone.embeddings[0].vector
    info = error_details_pb2.ErrorInfo()
    reply.embeddings[2].error.details[0].Unpack(info)
    assert (info.reason, info.metadata["field"]) == ("INPUT_TOO_LONG", "inputs[2]")


async def test_partial_success_may_be_no_success_at_all(stubs):
    reply = await stubs.encoder.Embed(Request(inputs=["", " "], partial_success=True))

    assert all(e.HasField("error") for e in reply.embeddings)


async def test_the_request_id_comes_back(stubs):
    call = stubs.encoder.Embed(Request(inputs=["a"]), metadata=(("x-request-id", "mine-1"),))
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "mine-1"

    error = await refused(
        stubs.encoder.Embed(Request(), metadata=(("x-request-id", "no spaces please"),))
    )
    assert len(dict(error.trailing_metadata())["x-request-id"]) == 16


# ---- EmbedStream


async def stream(stubs, requests):
    return [reply async for reply in stubs.encoder.EmbedStream(requests)]


async def test_a_stream_is_answered_in_order(stubs):
    texts = [LONG[: 10 + 50 * (n % 7)] for n in range(40)]

    async def requests():
        for number, text in enumerate(texts):
            yield encoder_pb2.EmbedStreamRequest(request=Request(inputs=[text]), tag=str(number))

    replies = await stream(stubs, requests())

    assert [reply.tag for reply in replies] == [str(number) for number in range(40)]
    alone = await stubs.encoder.Embed(Request(inputs=[texts[6]]))
    assert replies[6].response.embeddings[0] == alone.embeddings[0]


async def test_a_bad_message_is_answered_and_the_stream_goes_on(stubs):
    async def requests():
        for text in ("good", "", "good"):
            yield encoder_pb2.EmbedStreamRequest(request=Request(inputs=[text]))

    replies = await stream(stubs, requests())

    assert [reply.HasField("error") for reply in replies] == [False, True, False]
    assert replies[1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_half_a_stream_then_silence_is_ended(serving):
    async def requests():
        yield encoder_pb2.EmbedStreamRequest(request=Request(inputs=["one"]))
        await asyncio.sleep(30)

    async with serving(stream_idle_s_max=0.2) as impatient:
        replies = impatient.encoder.EmbedStream(requests())
        assert (await replies.read()).HasField("response")
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await replies.read()

    assert reason(ended.value) == "STREAM_IDLE"


async def test_a_stream_waits_for_room_instead_of_failing(serving):
    async def requests():
        for _ in range(12):
            yield encoder_pb2.EmbedStreamRequest(request=Request(inputs=["one", "two", "three"]))

    async with serving(queue_texts_max=3, inputs_max=3, stream_requests_max=8) as small:
        replies = await stream(small, requests())

    assert all(reply.HasField("response") for reply in replies)


# ---- EmbedWords, EmbedTokens

HARD = "Ünïcode\u0301: 👨‍👩‍👧 café 东京 שָׁלוֹם 🇩🇪 naïve, don't 3.14!"


async def test_all_words_of_any_script_have_their_spans(stubs):
    reply = await stubs.encoder.EmbedWords(
        encoder_pb2.EmbedWordsRequest(inputs=[encoder_pb2.WordsInput(text=HARD)])
    )

    found = reply.results[0].words
    assert len(found) >= 8
    for word in found:
        assert HARD[word.span.start : word.span.end] == word.word
        encoded = HARD.encode()[word.span.byte_start : word.span.byte_end]
        assert encoded.decode() == word.word
        assert np.linalg.norm(values(word.vector)) == pytest.approx(1, abs=1e-5)
        assert word.tokens >= 1


async def test_a_word_is_the_mean_of_its_layers_and_tokens(stubs, encoder):
    text = "Unbelievably juicy apples"
    target = encoder_pb2.WordTarget(word=encoder_pb2.WordOccurrence(word="Unbelievably"))
    reply = await stubs.encoder.EmbedWords(
        encoder_pb2.EmbedWordsRequest(
            inputs=[encoder_pb2.WordsInput(text=text, targets=[target])],
            layers=[-1, 0],
            normalize=False,
        )
    )
    (window,) = encoder.tokenizer.encode([text], tokens_max=256, truncation=Truncation.ERROR)[
        0
    ].windows
    inside = (window.starts >= 0) & (window.ends <= len("Unbelievably"))
    states = encoder.states([window], [0, 6])[0][:, inside]

    (word,) = reply.results[0].words
    np.testing.assert_allclose(values(word.vector), states.mean(axis=(0, 1)), atol=1e-5)
    assert word.tokens == inside.sum() > 1
    assert list(reply.layers) == [0, 6]


async def test_the_same_word_has_other_vectors_in_other_contexts(stubs):
    inputs = [
        encoder_pb2.WordsInput(
            text=text,
            targets=[encoder_pb2.WordTarget(word=encoder_pb2.WordOccurrence(word="bank"))],
        )
        for text in ("He sat on the river bank", "The bank raised its interest")
    ]
    reply = await stubs.encoder.EmbedWords(encoder_pb2.EmbedWordsRequest(inputs=inputs))

    first, second = (values(result.words[0].vector) for result in reply.results)
    assert first @ second < 0.95


async def test_under_windows_a_far_word_is_found(stubs):
    text = LONG + "zebra"
    target = encoder_pb2.WordTarget(word=encoder_pb2.WordOccurrence(word="zebra"))
    request = encoder_pb2.EmbedWordsRequest(
        inputs=[encoder_pb2.WordsInput(text=text, targets=[target])],
        truncation=common_pb2.TRUNCATION_POLICY_WINDOWS,
    )

    reply = await stubs.encoder.EmbedWords(request)
    assert reply.results[0].words[0].word == "zebra"

    request.truncation = common_pb2.TRUNCATION_POLICY_HEAD
    error = await refused(stubs.encoder.EmbedWords(request))
    assert bad_field(error) == "inputs[0].targets[0]"


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ({"span": common_pb2.Span(start=3, end=99)}, "inputs[0].targets[0].span"),
        ({"word": encoder_pb2.WordOccurrence(word="pear")}, "inputs[0].targets[0].word"),
        ({}, "inputs[0].targets[0]"),
    ],
)
async def test_embed_words_refuses_what_is_not_there(stubs, target, field):
    given = encoder_pb2.WordsInput(text="an apple", targets=[encoder_pb2.WordTarget(**target)])
    error = await refused(stubs.encoder.EmbedWords(encoder_pb2.EmbedWordsRequest(inputs=[given])))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert bad_field(error) == field


async def test_words_of_a_call_have_a_limit(serving):
    async with serving(spans_max=3) as small:
        given = encoder_pb2.WordsInput(text="one two three four")
        error = await refused(
            small.encoder.EmbedWords(encoder_pb2.EmbedWordsRequest(inputs=[given]))
        )

    assert reason(error) == "LIMIT_EXCEEDED"


async def test_tokens_have_states_and_spans(stubs, encoder):
    reply = await stubs.encoder.EmbedTokens(encoder_pb2.EmbedTokensRequest(inputs=["Äpfel 🍎 x"]))

    (result,) = reply.results
    assert (result.states.rows, result.states.columns) == (len(result.tokens), encoder.width)
    assert result.tokens[0].special
    assert not result.tokens[0].HasField("span")
    last = result.tokens[-2]
    assert (last.text, last.span.start, last.span.byte_start) == ("x", 8, 12)
    assert list(reply.layers) == [6]


async def test_tokens_that_would_not_fit_a_message_are_refused_before_any_work(serving):
    async with serving(message_bytes_max=200_000) as small:
        error = await refused(
            small.encoder.EmbedTokens(encoder_pb2.EmbedTokensRequest(inputs=[LONG[:1000]]))
        )
        statistics = await small.admin.GetStatistics(_statistics())

    assert reason(error) == "REPLY_TOO_LARGE"
    assert statistics.batches == 0


def _statistics():
    from polyseme.v1 import admin_pb2

    return admin_pb2.GetStatisticsRequest()


async def test_tokens_of_overlapping_windows_are_refused(stubs):
    error = await refused(
        stubs.encoder.EmbedTokens(
            encoder_pb2.EmbedTokensRequest(
                inputs=["a"], truncation=common_pb2.TRUNCATION_POLICY_WINDOWS
            )
        )
    )

    assert bad_field(error) == "truncation"


# ---- Similarity, Tokenize, Detokenize


def matrix(message):
    return np.frombuffer(message.data, "<f4").reshape(message.rows, message.columns)


async def test_similarity_is_the_cosine_of_every_pair(stubs):
    left, right = ["a red apple", "stock market"], ["juicy fruit", "share prices", "a cat"]

    reply = await stubs.encoder.Similarity(encoder_pb2.SimilarityRequest(left=left, right=right))

    vectors = vectors_of(await stubs.encoder.Embed(Request(inputs=left + right)))
    np.testing.assert_allclose(matrix(reply.similarities), vectors[:2] @ vectors[2:].T, atol=1e-6)
    assert matrix(reply.similarities)[0].argmax() == 0
    assert matrix(reply.similarities)[1].argmax() == 1


async def test_similarity_of_pairs_is_one_column(stubs):
    reply = await stubs.encoder.Similarity(
        encoder_pb2.SimilarityRequest(
            left=["same", "cat"], right=["same", "car"], mode=encoder_pb2.SIMILARITY_MODE_PAIRS
        )
    )

    assert matrix(reply.similarities).shape == (2, 1)
    assert matrix(reply.similarities)[0, 0] == pytest.approx(1, abs=1e-6)


async def test_similarity_says_which_texts_were_cut_on_both_sides(stubs):
    request = encoder_pb2.SimilarityRequest(left=["short", "long " * 400], right=["long " * 300])
    request.options.truncation = common_pb2.TRUNCATION_POLICY_HEAD

    reply = await stubs.encoder.Similarity(request)

    assert [tokens.truncated for tokens in reply.left_tokens] == [False, True]
    assert [tokens.truncated for tokens in reply.right_tokens] == [True]
    assert reply.right_tokens[0].tokens_total == 302


async def test_similarity_with_itself_is_symmetric(stubs):
    reply = await stubs.encoder.Similarity(encoder_pb2.SimilarityRequest(left=["a", "b", "c"]))

    cosines = matrix(reply.similarities)
    np.testing.assert_allclose(cosines, cosines.T)
    np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-6)


async def test_similarity_refuses_sides_that_do_not_match(stubs):
    error = await refused(
        stubs.encoder.Similarity(
            encoder_pb2.SimilarityRequest(
                left=["a"], right=["b", "c"], mode=encoder_pb2.SIMILARITY_MODE_PAIRS
            )
        )
    )
    assert bad_field(error) == "right"

    error = await refused(
        stubs.encoder.Similarity(encoder_pb2.SimilarityRequest(left=["a"], right=["b", ""]))
    )
    assert bad_field(error) == "right[1]"


async def test_tokens_come_and_go(stubs):
    texts = ["Apple was juicy", "", LONG]
    reply = await stubs.encoder.Tokenize(encoder_pb2.TokenizeRequest(inputs=texts))

    assert [token.text for token in reply.results[0].tokens][:2] == ["[CLS]", "apple"]
    assert [token.special for token in reply.results[1].tokens] == [True, True]
    assert len(reply.results[2].tokens) > 500
    for text, result in zip(texts, reply.results, strict=True):
        for token in result.tokens:
            inside = text[token.span.start : token.span.end]
            assert token.special or inside.lower() == token.text.removeprefix("##")

    ids = [encoder_pb2.TokenIds(ids=[t.id for t in r.tokens]) for r in reply.results]
    back = await stubs.encoder.Detokenize(encoder_pb2.DetokenizeRequest(inputs=ids[:2]))
    assert list(back.texts) == ["apple was juicy", ""]


async def test_tokens_without_special_ones(stubs):
    reply = await stubs.encoder.Tokenize(
        encoder_pb2.TokenizeRequest(inputs=["an apple"], special_tokens=False)
    )

    assert [token.text for token in reply.results[0].tokens] == ["an", "apple"]


async def test_a_token_that_does_not_exist_is_refused(stubs):
    error = await refused(
        stubs.encoder.Detokenize(
            encoder_pb2.DetokenizeRequest(inputs=[encoder_pb2.TokenIds(ids=[101, 10**9])])
        )
    )

    assert bad_field(error) == "inputs[0].ids"
