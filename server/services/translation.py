"""Texts in another language."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from functools import partial

from encoder.beam import LENGTH_PENALTY_MAX
from encoder.sentences import Splitting
from encoder.translated import LanguageUnknown, Prepared, Translated
from encoder.translation import BeamPlan, Translator
from polyseme.v1 import translation_pb2, translation_pb2_grpc
from server.batching import Lane
from server.call import request_id
from server.embedded import Timings
from server.errors import CallRefused, ModelLacks, RequestInvalid, status_of
from server.limits import check_count, check_texts, text_error
from server.messages import fingerprint_to, lane_from
from server.settings import Settings
from server.streams import in_order
from server.translating import (
    NO_TRANSLATION,
    NO_TRANSLATION_PROBLEM,
    TranslatedTexts,
    TranslatePlan,
    Translating,
    primary,
)
from server.translations import sentence_to, translate_reply

DEFAULT_BEAMS = 4
DEFAULT_LENGTH_PENALTY = 1.0

_SPLITTINGS: Mapping[int, Splitting] = {
    translation_pb2.SENTENCE_SPLITTING_UNSPECIFIED: Splitting.SENTENCES_AND_LINES,
    translation_pb2.SENTENCE_SPLITTING_SENTENCES_AND_LINES: Splitting.SENTENCES_AND_LINES,
    translation_pb2.SENTENCE_SPLITTING_SENTENCES: Splitting.SENTENCES,
    translation_pb2.SENTENCE_SPLITTING_NONE: Splitting.NONE,
}

Errors = dict[int, RequestInvalid]


class TranslationService(translation_pb2_grpc.TranslationServiceServicer):
    """What the translation model says, sentence by sentence. Without one every call is refused."""

    def __init__(self, translating: Translating | None, settings: Settings) -> None:
        self._translating = translating
        self._settings = settings

    async def Translate(
        self, request: translation_pb2.TranslateRequest, context: object
    ) -> translation_pb2.TranslateResponse:
        return await self._translate(request, Lane.INTERACTIVE)

    async def TranslateStream(
        self,
        request_iterator: AsyncIterator[translation_pb2.TranslateStreamRequest],
        context: object,
    ) -> AsyncIterator[translation_pb2.TranslateStreamResponse]:
        self._model()
        async for answers in in_order(
            request_iterator,
            self._begun,
            in_flight_max=self._settings.stream_requests_max,
        ):
            async with aclosing(answers):
                async for answer in answers:
                    yield answer

    async def ListLanguagePairs(
        self, request: translation_pb2.ListLanguagePairsRequest, context: object
    ) -> translation_pb2.ListLanguagePairsResponse:
        translator = self._model().translator
        return translation_pb2.ListLanguagePairsResponse(
            pairs=[
                translation_pb2.LanguagePair(source_language=source, target_language=target)
                for source, target in sorted(translator.pairs)
            ],
            fingerprint=fingerprint_to(translator.fingerprint()),
            tokens_max=translator.tokens_max,
        )

    async def _translate(
        self, request: translation_pb2.TranslateRequest, lane: Lane, *, patient: bool = False
    ) -> translation_pb2.TranslateResponse:
        translating = self._model()
        plan, prepared, errors = await self._prepared(request)
        lane = lane_from(request.priority, lane)
        found = await translating.translate(prepared, plan, lane, patient=patient)
        return await self._reply(found, errors)

    async def _begun(
        self, message: translation_pb2.TranslateStreamRequest
    ) -> AsyncGenerator[translation_pb2.TranslateStreamResponse, None]:
        """The answers to one message of a stream. Without parts they are there when this returns,
        so that several messages are worked on at a time."""
        if message.partial:
            return self._in_parts(message)
        try:
            response = await self._translate(message.request, Lane.BULK, patient=True)
        except CallRefused as error:
            return _one(_failed(message.tag, error))
        return _one(translation_pb2.TranslateStreamResponse(tag=message.tag, response=response))

    async def _in_parts(
        self, message: translation_pb2.TranslateStreamRequest
    ) -> AsyncGenerator[translation_pb2.TranslateStreamResponse, None]:
        try:
            async for answer in self._parts(message):
                yield answer
        except CallRefused as error:
            yield _failed(message.tag, error)

    async def _parts(
        self, message: translation_pb2.TranslateStreamRequest
    ) -> AsyncGenerator[translation_pb2.TranslateStreamResponse, None]:
        translating = self._model()
        plan, prepared, errors = await self._prepared(message.request)
        numbers = [i for i in range(len(message.request.inputs)) if i not in errors]
        whole: list[Translated] = []
        lane = lane_from(message.request.priority, Lane.BULK)
        async with aclosing(translating.sentences(prepared, plan, lane)) as parts:
            async for part in parts:
                if isinstance(part, Translated):
                    whole.append(part)
                    continue
                partial = translation_pb2.PartialTranslation(
                    input=numbers[len(whole)], sentence=sentence_to(part)
                )
                yield translation_pb2.TranslateStreamResponse(tag=message.tag, partial=partial)
        response = await self._reply(TranslatedTexts(whole, Timings()), errors)
        yield translation_pb2.TranslateStreamResponse(tag=message.tag, response=response)

    async def _prepared(
        self, request: translation_pb2.TranslateRequest
    ) -> tuple[TranslatePlan, list[Prepared], Errors]:
        """The good texts, cut into sentences, and with `partial_success` the others' errors."""
        translating = self._model()
        if request.partial_success and request.inputs:
            check_count("inputs", len(request.inputs), self._settings.inputs_max, "texts")
        else:
            check_texts("inputs", request.inputs, self._settings)
        plan = plan_from(request.options, translating.translator, self._settings)
        errors: Errors = {}
        for index, text in enumerate(request.inputs):
            error = text_error(f"inputs[{index}]", text, self._settings)
            if error is not None:
                errors[index] = error
        good = [index for index in range(len(request.inputs)) if index not in errors]
        each = await translating.prepare([request.inputs[index] for index in good], plan)
        for index, one in zip(good, each, strict=True):
            if isinstance(one, LanguageUnknown):
                errors[index] = RequestInvalid(f"inputs[{index}]", str(one))
        if errors and not request.partial_success:
            raise errors[min(errors)]
        prepared = [one for one in each if isinstance(one, Prepared)]
        translating.admit(prepared, plan, "inputs")
        return plan, prepared, errors

    async def _reply(
        self, found: TranslatedTexts, errors: Errors
    ) -> translation_pb2.TranslateResponse:
        translating = self._model()
        statuses = {index: status_of(error, request_id()) for index, error in errors.items()}
        fingerprint = translating.translator.fingerprint()
        return await translating.aside(partial(translate_reply, found, statuses, fingerprint))

    def _model(self) -> Translating:
        """Raises ModelLacks where nothing translates."""
        if self._translating is None:
            raise ModelLacks(NO_TRANSLATION, NO_TRANSLATION_PROBLEM)
        return self._translating


def plan_from(
    options: translation_pb2.TranslateOptions, translator: Translator, settings: Settings
) -> TranslatePlan:
    """How `options` want texts translated, filled in. Raises RequestInvalid, LimitExceeded."""
    source, target = languages_from(options, translator)
    if options.splitting not in _SPLITTINGS:
        raise RequestInvalid("options.splitting", f"{options.splitting} is no known value")
    return TranslatePlan(
        target=target,
        source=source,
        beam=beam_from(options, settings),
        alignment=options.alignment,
        splitting=_SPLITTINGS[options.splitting],
    )


def languages_from(
    options: translation_pb2.TranslateOptions, translator: Translator
) -> tuple[str, str]:
    """Source, empty to detect it, and target. Raises RequestInvalid for what there is not."""
    source, target = primary(options.source_language), primary(options.target_language)
    targets = ", ".join(translator.targets)
    if not target:
        raise RequestInvalid("options.target_language", f"give one of {targets}")
    if target not in translator.targets:
        problem = f"{options.target_language!r} is unknown; the model translates into {targets}"
        raise RequestInvalid("options.target_language", problem)
    if source == target:
        problem = f"{options.source_language!r} is the language to translate into, too"
        raise RequestInvalid("options.source_language", problem)
    if source and (source, target) not in translator.pairs:
        sources = ", ".join(sorted(a for a, b in translator.pairs if b == target))
        problem = f"{options.source_language!r} is not translated into {target!r}; {sources} are"
        raise RequestInvalid("options.source_language", problem)
    return source, target


def beam_from(options: translation_pb2.TranslateOptions, settings: Settings) -> BeamPlan:
    """Raises RequestInvalid, LimitExceeded."""
    for name in ("beams", "alternatives"):
        if getattr(options, name) < 0:
            raise RequestInvalid(f"options.{name}", f"{getattr(options, name)} is below 0")
    check_count("options.beams", options.beams, settings.beams_max, "beams")
    alternatives = options.alternatives or 1
    beams = options.beams or max(min(DEFAULT_BEAMS, settings.beams_max), alternatives)
    check_count("options.alternatives", alternatives, min(beams, settings.beams_max), "beams")
    penalty = options.length_penalty
    if not options.HasField("length_penalty"):
        penalty = DEFAULT_LENGTH_PENALTY
    if not 0 <= penalty <= LENGTH_PENALTY_MAX:  # a NaN is not
        problem = f"{penalty} is not within 0 to {LENGTH_PENALTY_MAX:g}"
        raise RequestInvalid("options.length_penalty", problem)
    return BeamPlan(beams=beams, alternatives=alternatives, length_penalty=penalty)


async def _one(
    answer: translation_pb2.TranslateStreamResponse,
) -> AsyncGenerator[translation_pb2.TranslateStreamResponse, None]:
    yield answer


def _failed(tag: str, error: CallRefused) -> translation_pb2.TranslateStreamResponse:
    return translation_pb2.TranslateStreamResponse(tag=tag, error=status_of(error, request_id()))
