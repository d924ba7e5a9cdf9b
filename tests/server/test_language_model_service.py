"""LanguageModelService over a real socket; transformers judges its guesses."""

import grpc
import numpy as np
import pytest
import pytest_asyncio
import torch
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from polyseme.v1 import common_pb2, encoder_pb2, language_model_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEXT = "The [MASK] fell far from the [MASK]."


def fill(*inputs, **changes):
    return language_model_pb2.FillMaskRequest(inputs=inputs, **changes)


def instead(text, word, **changes):
    occurrence = encoder_pb2.WordOccurrence(word=word)
    target = encoder_pb2.WordTarget(word=occurrence)
    given = language_model_pb2.SubstituteInput(text=text, target=target)
    return language_model_pb2.SubstituteRequest(inputs=[given], **changes)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def guessing(serving, filling_directory):
    async with serving(model=filling_directory) as stubs:
        yield stubs


@pytest.fixture(scope="module")
def judge(filling_directory):
    """Logits (tokens, vocabulary) of a text, by transformers."""
    from transformers import AutoTokenizer, BertForMaskedLM

    model = BertForMaskedLM.from_pretrained(filling_directory, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(filling_directory, local_files_only=True)

    def logits(text):
        with torch.inference_mode():
            return model(**tokenizer(text, return_tensors="pt")).logits[0]

    return logits


async def test_guesses_are_those_of_transformers(guessing, judge):
    reply = await guessing.language_model.FillMask(fill(TEXT, "An apple a [MASK]", top_k=7))

    (both, one) = reply.results
    assert [(m.span.start, m.span.end) for m in both.masks] == [(4, 10), (29, 35)]
    told = judge(TEXT)
    for mask, position in zip(both.masks, (2, 7), strict=True):
        probabilities = told[position].softmax(dim=0).numpy()
        for guess in mask.guesses:
            assert guess.logit == pytest.approx(float(told[position, guess.token_id]), abs=1e-4)
            assert guess.probability == pytest.approx(probabilities[guess.token_id], rel=1e-3)
        assert mask.guesses[0].probability == pytest.approx(probabilities.max(), rel=1e-3)
        assert len(mask.guesses) == 7
        logits = [guess.logit for guess in mask.guesses]
        assert logits == sorted(logits, reverse=True)
    assert len(one.masks) == 1
    assert both.tokens.tokens_used == len(told)
    assert reply.fingerprint.combined


async def test_another_mark_means_the_same_and_places_stay_the_callers(guessing):
    plain = await guessing.language_model.FillMask(fill(TEXT))
    marked = await guessing.language_model.FillMask(fill(TEXT.replace("[MASK]", "_"), mask="_"))

    for ours, theirs in zip(marked.results[0].masks, plain.results[0].masks, strict=True):
        assert ours.guesses == theirs.guesses
    assert [m.span.start for m in marked.results[0].masks] == [4, 24]


async def test_a_choice_of_candidates_keeps_their_probabilities(guessing, judge):
    reply = await guessing.language_model.FillMask(
        fill("An [MASK] fell.", candidates=["apple", "Stone", "dog"])
    )

    (mask,) = reply.results[0].masks
    assert sorted(guess.text for guess in mask.guesses) == ["apple", "dog", "stone"]
    probabilities = judge("An [MASK] fell.")[2].softmax(dim=0).numpy()
    for guess in mask.guesses:
        assert guess.probability == pytest.approx(probabilities[guess.token_id], rel=1e-3)


async def test_no_guess_is_a_special_token(guessing):
    reply = await guessing.language_model.FillMask(fill("A [MASK].", top_k=1000))

    tokens = {guess.token for guess in reply.results[0].masks[0].guesses}
    assert len(tokens) == 1000
    assert not {"[PAD]", "[MASK]", "[CLS]", "[SEP]", "[UNK]"} & tokens


async def test_substitutes_are_words_that_fit_the_place(guessing, judge):
    reply = await guessing.language_model.Substitute(
        instead("Apple stock crashed", "Apple", top_k=50)
    )

    (result,) = reply.results
    assert (result.span.start, result.span.end) == (0, 5)
    told = judge("[MASK] stock crashed")[1]
    assert result.word.text == "apple"
    assert result.word.logit == pytest.approx(float(told[result.word.token_id]), abs=1e-4)
    assert len(result.guesses) == 50
    for guess in result.guesses:
        assert guess.text != "apple"
        assert not guess.token.startswith("##")
        assert any(character.isalnum() for character in guess.text)
        assert guess.logit == pytest.approx(float(told[guess.token_id]), abs=1e-4)


async def test_a_word_of_several_tokens_is_hidden_behind_one_mask(guessing):
    reply = await guessing.language_model.Substitute(instead("A polyseme here", "polyseme"))

    (result,) = reply.results
    assert not result.HasField("word")
    assert len(result.guesses) == 5
    assert result.tokens.tokens_used == 5


async def test_candidates_may_hold_the_word_itself(guessing):
    reply = await guessing.language_model.Substitute(
        instead("The dog ran", "dog", candidates=["dog", "cat"])
    )

    assert {guess.text for guess in reply.results[0].guesses} == {"dog", "cat"}


async def test_guesses_do_not_depend_on_company(guessing):
    together = await guessing.language_model.FillMask(fill(TEXT, "An apple a [MASK]", "[MASK]"))

    alone = await guessing.language_model.FillMask(fill("An apple a [MASK]"))
    assert together.results[1].masks == alone.results[0].masks


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (fill(), "inputs"),
        (fill("A [MASK]", "no mask"), "inputs[1]"),
        (fill("A [MASK]", ""), "inputs[1]"),
        (fill("[MASK] " + "word " * 200), "inputs[0]"),
        (fill("[MASK] " * 65), "inputs"),
        (fill("A [MASK]", top_k=-1), "top_k"),
        (fill("A [MASK]", top_k=1001), "top_k"),
        (fill("A [MASK]", candidates=["apple", "polyseme"]), "candidates[1]"),
        (fill("A [MASK]", candidates=["☃☃"]), "candidates[0]"),
        (fill("A [MASK]", truncation=common_pb2.TRUNCATION_POLICY_WINDOWS), "truncation"),
        (
            fill("word " * 200 + "[MASK]", truncation=common_pb2.TRUNCATION_POLICY_HEAD),
            "inputs[0]",
        ),
        (instead("An apple", "pear"), "inputs[0].target.word"),
        (instead("", "pear"), "inputs[0].text"),
        (language_model_pb2.SubstituteRequest(), "inputs"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_its_field(guessing, given, field):
    error = await refused(ask(guessing, given))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(error, error_details_pb2.BadRequest).field_violations[0].field == field


@pytest.mark.parametrize("given", [fill("A [MASK]"), instead("An apple", "apple")])
async def test_a_model_without_a_head_says_so_and_what_to_do(stubs, given):
    error = await refused(ask(stubs, given))

    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert detail(error, error_details_pb2.ErrorInfo).reason == "MODEL_HAS_NO_HEAD"
    assert "serve a model that has one" in error.details()
    assert await health_of(stubs) == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_model_with_a_head_serves_and_is_healthy(guessing):
    assert await health_of(guessing) == health_pb2.HealthCheckResponse.SERVING


async def test_int8_serves_guesses_too(serving, filling_directory, judge):
    async with serving(model=filling_directory, precision="int8") as small:
        reply = await small.language_model.FillMask(fill(TEXT, top_k=1000))

    guesses = reply.results[0].masks[0].guesses
    told = judge(TEXT)[2, [guess.token_id for guess in guesses]].numpy()
    assert np.corrcoef([guess.logit for guess in guesses], told)[0, 1] > 0.9


async def health_of(stubs):
    asked = health_pb2.HealthCheckRequest(service="polyseme.v1.LanguageModelService")
    return (await health_pb2_grpc.HealthStub(stubs.channel).Check(asked)).status


def ask(stubs, given):
    if isinstance(given, language_model_pb2.FillMaskRequest):
        return stubs.language_model.FillMask(given)
    return stubs.language_model.Substitute(given)


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call
    return refusal.value


def detail(error, kind):
    packed_status = dict(error.trailing_metadata())["grpc-status-details-bin"]
    for packed in status_pb2.Status.FromString(packed_status).details:
        if packed.Is(kind.DESCRIPTOR):
            return kind.FromString(packed.value)
    return None
