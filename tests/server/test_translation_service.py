"""TranslationService against a small model that knows a few sentences by heart."""

import asyncio
import shutil
import threading
import time

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from encoder.decoding import SessionStepper
from encoder.manifest import read_manifest, write_manifest
from polyseme.v1 import admin_pb2, translation_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

FRENCH = "Le chat voit la maison."
ENGLISH = "The cat sees the house."
GERMAN = "Die Katze sieht das Haus."


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def translating(serving, translating_directory):
    async with serving(model=translating_directory) as stubs:
        yield stubs.translation


def request(*inputs, to="en", **options):
    outside = {name: options.pop(name) for name in ("partial_success",) if name in options}
    return translation_pb2.TranslateRequest(
        inputs=inputs,
        options=translation_pb2.TranslateOptions(target_language=to, **options),
        **outside,
    )


async def refusal(call):
    """The code, reason and field of a call that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    details = await_details(refused.value)
    return refused.value.code(), details.reason, details.metadata.get("field", "")


def await_details(error):
    (packed, *_) = rpc_status.from_call(error_call(error)).details
    info = error_details_pb2.ErrorInfo()
    packed.Unpack(info)
    return info


def error_call(error):
    class Ended:
        def code(self):
            return error.code()

        def details(self):
            return error.details()

        def trailing_metadata(self):
            return error.trailing_metadata()

    return Ended()


async def test_each_text_is_translated_from_its_own_language(translating):
    reply = await translating.Translate(request(FRENCH, GERMAN))

    assert [result.text for result in reply.results] == [ENGLISH, ENGLISH]
    assert [result.source_language for result in reply.results] == ["fr", "de"]
    assert all(result.detection_confidence > 0.9 for result in reply.results)
    assert reply.fingerprint.model == "toy"
    assert reply.fingerprint.numeric_class == "fp32"


async def test_a_language_that_is_given_is_not_detected(translating):
    reply = await translating.Translate(request(FRENCH, to="de", source_language="fr-CA"))

    (result,) = reply.results
    assert result.text == GERMAN
    assert not result.HasField("detection_confidence")


async def test_what_lies_between_sentences_is_kept(translating):
    text = f"  <p>{FRENCH}</p>\r\n\r\n\t{FRENCH}  Je suis étudiant.\n12:30 — 45 %\n"

    (result,) = (await translating.Translate(request(text))).results

    expected = f"  <p>{ENGLISH}</p>\r\n\r\n\t{ENGLISH}  I am a student.\n12:30 — 45 %\n"
    assert result.text == expected
    assert [sentence.copied for sentence in result.sentences] == [False, False, False, True]


async def test_spans_point_at_sentences_in_code_points_and_in_bytes(translating):
    text = f"Je suis étudiant. {FRENCH}"

    (result,) = (await translating.Translate(request(text, to="de"))).results

    for side, whole in (("source", text), ("target", result.text)):
        for sentence in result.sentences:
            span = getattr(sentence, side)
            by_bytes = whole.encode()[span.byte_start : span.byte_end].decode()
            assert whole[span.start : span.end] == by_bytes
    first = result.sentences[0]
    assert text[first.source.start : first.source.end] == "Je suis étudiant."
    assert result.text[first.target.start : first.target.end] == first.hypotheses[0].text


async def test_alternatives_come_best_first_with_their_scores(translating):
    (result,) = (await translating.Translate(request(FRENCH, beams=4, alternatives=3))).results

    (sentence,) = result.sentences
    scores = [hypothesis.score for hypothesis in sentence.hypotheses]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert sentence.hypotheses[0].text == ENGLISH
    for hypothesis in sentence.hypotheses:
        assert hypothesis.score == pytest.approx(hypothesis.log_probability / hypothesis.tokens)


async def test_alignment_names_words_on_both_sides(translating):
    text = f"Je suis étudiant. {FRENCH}"

    (result,) = (await translating.Translate(request(text, alignment=True))).results

    hypothesis = result.sentences[1].hypotheses[0]
    alignment = hypothesis.alignment
    words = [text[span.start : span.end] for span in alignment.source_words]
    written = [hypothesis.text[span.start : span.end] for span in alignment.target_words]
    assert words == ["Le", "chat", "voit", "la", "maison"]
    assert written == ["The", "cat", "sees", "the", "house"]
    shape = (alignment.weights.rows, alignment.weights.columns)
    weights = np.frombuffer(alignment.weights.data, "<f4").reshape(shape)
    assert weights.shape == (5, 5)
    assert weights.min() >= 0
    assert weights.sum(axis=1).max() <= 1.0001
    for pair in alignment.pairs:
        assert pair.weight == pytest.approx(
            weights.max(axis=1)[list(alignment.target_words).index(pair.target)], rel=0.25
        )


async def test_no_alignment_where_nobody_asked(translating):
    (result,) = (await translating.Translate(request(FRENCH))).results

    assert not result.sentences[0].hypotheses[0].HasField("alignment")


async def test_a_text_in_the_target_language_is_copied(translating):
    (result,) = (await translating.Translate(request(ENGLISH))).results

    assert (result.text, result.source_language) == (ENGLISH, "en")
    assert [sentence.copied for sentence in result.sentences] == [True]


async def test_a_text_with_nothing_to_translate_is_copied(translating):
    (result,) = (await translating.Translate(request("12:30 ... <br/>"))).results

    assert (result.text, result.source_language) == ("12:30 ... <br/>", "")


async def test_a_sentence_longer_than_the_model_reads_is_cut_and_not_dropped(translating):
    text = " ".join(["le chat voit la maison"] * 40)

    (result,) = (await translating.Translate(request(text, source_language="fr"))).results

    spans = [sentence.source for sentence in result.sentences]
    assert len(spans) > 1
    assert "".join(text[span.start : span.end] for span in spans).replace(" ", "") == text.replace(
        " ", ""
    )
    assert result.tokens >= 200


async def test_mixed_scripts_are_translated_when_their_language_is_given(translating):
    text = "Le chat voit la maison 日本語 🙂 и ещё."

    (result,) = (await translating.Translate(request(text, source_language="fr"))).results

    assert result.text


async def test_a_thousand_sentences_in_one_call(translating):
    reply = await translating.Translate(request(*[FRENCH, "Je suis étudiant"] * 500, beams=1))

    texts = [result.text for result in reply.results]
    assert texts == [ENGLISH, "I am a student"] * 500


@pytest.mark.parametrize(
    ("asked", "reason", "field"),
    [
        (request(), "INVALID_FIELD", "inputs"),
        (request(FRENCH, ""), "INVALID_FIELD", "inputs[1]"),
        (request(" \n"), "INVALID_FIELD", "inputs[0]"),
        (request("a\0b"), "INVALID_FIELD", "inputs[0]"),
        (request(FRENCH, to=""), "INVALID_FIELD", "options.target_language"),
        (request(FRENCH, to="xx"), "INVALID_FIELD", "options.target_language"),
        (request(FRENCH, source_language="ja"), "INVALID_FIELD", "options.source_language"),
        (request(ENGLISH, source_language="en"), "INVALID_FIELD", "options.source_language"),
        (request("Привет мир, как дела?"), "INVALID_FIELD", "inputs[0]"),
        (request(FRENCH, beams=17), "LIMIT_EXCEEDED", "options.beams"),
        (request(FRENCH, beams=-1), "INVALID_FIELD", "options.beams"),
        (request(FRENCH, beams=2, alternatives=3), "LIMIT_EXCEEDED", "options.alternatives"),
        (request(FRENCH, length_penalty=3.0), "INVALID_FIELD", "options.length_penalty"),
        (request(FRENCH, length_penalty=float("nan")), "INVALID_FIELD", "options.length_penalty"),
        (request(FRENCH, splitting=9), "INVALID_FIELD", "options.splitting"),
        (request(f"{FRENCH} " * 9000, beams=4), "LIMIT_EXCEEDED", "inputs"),
        (request("é" * 2**20), "LIMIT_EXCEEDED", "inputs[0]"),
    ],
)
async def test_what_cannot_be_translated_is_refused_by_its_field(translating, asked, reason, field):
    assert await refusal(translating.Translate(asked)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        reason,
        field,
    )


async def test_one_bad_text_need_not_fail_the_others(translating):
    asked = request(FRENCH, "", "Привет мир, как дела?", GERMAN, partial_success=True)

    results = (await translating.Translate(asked)).results

    assert [result.text for result in results] == [ENGLISH, "", "", ENGLISH]
    assert [result.HasField("error") for result in results] == [False, True, True, False]


async def test_a_stream_answers_in_order_and_goes_on_after_a_bad_message(translating):
    asked = [request(FRENCH), request(FRENCH, to="xx"), request(GERMAN)]

    async def messages():
        for number, one in enumerate(asked):
            yield translation_pb2.TranslateStreamRequest(request=one, tag=str(number))

    answers = [answer async for answer in translating.TranslateStream(messages())]

    assert [answer.tag for answer in answers] == ["0", "1", "2"]
    assert [answer.WhichOneof("answer") for answer in answers] == ["response", "error", "response"]
    assert answers[2].response.results[0].text == ENGLISH


async def test_a_stream_sends_sentences_before_the_whole(translating):
    asked = request(f"{FRENCH} Je suis étudiant.", "12", FRENCH)

    async def messages():
        yield translation_pb2.TranslateStreamRequest(request=asked, tag="a", partial=True)

    answers = [answer async for answer in translating.TranslateStream(messages())]

    kinds = [answer.WhichOneof("answer") for answer in answers]
    assert kinds == ["partial"] * 4 + ["response"]
    assert [answer.partial.input for answer in answers[:4]] == [0, 0, 1, 2]
    results = answers[-1].response.results
    assert [sentence for result in results for sentence in result.sentences] == [
        answer.partial.sentence for answer in answers[:4]
    ]


async def test_the_pairs_are_listed(translating):
    reply = await translating.ListLanguagePairs(translation_pb2.ListLanguagePairsRequest())

    pairs = [(pair.source_language, pair.target_language) for pair in reply.pairs]
    assert pairs == sorted((a, b) for a in ("de", "en", "fr") for b in ("de", "en", "fr") if a != b)
    assert reply.tokens_max == 64


async def test_callers_share_batches_and_get_their_own_translations(translating):
    calls = [
        translating.Translate(request(text, to=to))
        for text, to in [(FRENCH, "en"), (ENGLISH, "de"), (GERMAN, "fr")] * 8
    ]

    replies = await asyncio.gather(*calls)

    assert [reply.results[0].text for reply in replies] == [ENGLISH, GERMAN, FRENCH] * 8


async def test_a_call_that_is_cancelled_in_mid_beam_leaves_no_work_running(
    serving, translating_directory, monkeypatch
):
    steps, begun = [], threading.Event()
    real = SessionStepper.step

    def slow(self, tokens, parents):
        steps.append(len(tokens))
        begun.set()
        time.sleep(0.05)
        return real(self, tokens, parents)

    async with serving(model=translating_directory, translation_workers=1) as stubs:
        monkeypatch.setattr(SessionStepper, "step", slow)
        call = stubs.translation.Translate(request(*[FRENCH] * 8, beams=4))
        sent = asyncio.ensure_future(await_anyway(call))
        await asyncio.to_thread(begun.wait, 30)
        call.cancel()
        await sent
        await asyncio.sleep(0.3)
        seen = len(steps)
        await asyncio.sleep(0.3)

        assert len(steps) == seen < 8


async def await_anyway(call):
    try:
        await call
    except (asyncio.CancelledError, grpc.aio.AioRpcError):
        return


async def test_a_deadline_ends_a_translation(serving, translating_directory, monkeypatch):
    real = SessionStepper.step

    def slow(self, tokens, parents):
        time.sleep(0.1)
        return real(self, tokens, parents)

    async with serving(model=translating_directory, translation_workers=1) as stubs:
        monkeypatch.setattr(SessionStepper, "step", slow)
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await stubs.translation.Translate(request(FRENCH), timeout=0.35)

    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_server_without_a_translator_says_so(serving, translating_directory, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(translating_directory, plain)
    shutil.rmtree(plain / "translation")
    write_manifest(plain, read_manifest(plain))

    async with serving(model=plain) as stubs:
        for call in (
            stubs.translation.Translate(request(FRENCH)),
            stubs.translation.ListLanguagePairs(translation_pb2.ListLanguagePairsRequest()),
        ):
            assert (await refusal(call))[:2] == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "MODEL_HAS_NO_TRANSLATION",
            )
        health = health_pb2_grpc.HealthStub(stubs.channel)
        asked = health_pb2.HealthCheckRequest(service="polyseme.v1.TranslationService")
        assert (await health.Check(asked)).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_limits_are_published(serving, translating_directory):
    async with serving(model=translating_directory, beams_max=2) as stubs:
        info = await stubs.admin.GetServerInfo(admin_pb2.GetServerInfoRequest())
        assert info.limits.beams_max == 2
        refused = await refusal(stubs.translation.Translate(request(FRENCH, beams=3)))
        assert refused[1] == "LIMIT_EXCEEDED"
        (result,) = (await stubs.translation.Translate(request(FRENCH))).results
        assert result.text == ENGLISH
