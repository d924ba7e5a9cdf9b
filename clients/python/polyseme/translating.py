"""Texts in another language, with the words that correspond."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from polyseme import methods
from polyseme.batches import Load, pieces
from polyseme.embedding import (
    ITEM_OVERHEAD_BYTES,
    MESSAGE_OVERHEAD_BYTES,
    STREAM_FLIGHTS_MAX,
    TextSource,
)
from polyseme.errors import PolysemeError, from_status, invalid, renamed
from polyseme.plans import Emit, Flight, Plan, call, pipeline
from polyseme.retry import Budget
from polyseme.service import ServerInfo, known_info
from polyseme.v1 import translation_pb2
from polyseme.vectors import (
    Fingerprint,
    Priority,
    Span,
    check_fields,
    choice,
    fingerprint_from,
    matrix_array,
    priority_number,
    span_from,
    texts_list,
    utf8_bytes,
)

Splitting = Literal["sentences and lines", "sentences", "none"]
_SPLITTINGS = {
    "sentences and lines": translation_pb2.SENTENCE_SPLITTING_SENTENCES_AND_LINES,
    "sentences": translation_pb2.SENTENCE_SPLITTING_SENTENCES,
    "none": translation_pb2.SENTENCE_SPLITTING_NONE,
}
BEAMS = 4  # unless the caller says otherwise
# Bytes of an answer for each byte of a text, by the most that was seen: a translation and its
# numbers, and with alignment a matrix and places of words.
_ANSWER_BYTES, _ALIGNED_BYTES = 8, 200
_NAMES = {"inputs": "texts", "target_language": "to", "source_language": "source"}


class TranslateOptions(TypedDict, total=False):
    """How texts are translated; each may be left out."""

    source: str  # their language; default: detected, of each by itself
    beams: int  # hypotheses followed side by side; 1 is greedy; default 4
    alternatives: int  # translations of each sentence, at most `beams`; default 1
    length_penalty: float | None  # scores are divided by tokens to this power, 0 to 2; default 1
    alignment: bool  # say which words correspond
    splitting: Splitting | None  # where texts are cut; default "sentences and lines"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Alignment:
    """Which words correspond, by the model's cross-attention.

    weights: (target words, source words), how much of each target word's attention each source
             word has; rows sum to one less what is not on words
    pairs:   places in the text as given and in the hypothesis, with their weight
    """

    source_words: tuple[Span, ...]
    target_words: tuple[Span, ...]
    weights: NDArray[np.float32]
    pairs: tuple[tuple[Span, Span, float], ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Hypothesis:
    """One way to translate a sentence. Higher scores are better."""

    text: str
    score: float
    log_probability: float
    tokens: int
    cut: bool  # it reached the longest length instead of its end
    alignment: Alignment | None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TranslatedSentence:
    """A sentence and its translations, best first; none for what was copied."""

    source: Span  # in the text as given
    target: Span  # in the translated text
    hypotheses: tuple[Hypothesis, ...]
    copied: bool  # nothing in it to translate, or it is in the target language already


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Translation:
    """A text translated."""

    text: str
    source_language: str  # empty where there was nothing to translate
    detection_confidence: float | None  # None where you said the language
    sentences: tuple[TranslatedSentence, ...]
    tokens: int  # of the source
    cut: int  # sentences whose translation reached the longest length
    fingerprint: Fingerprint

    def __str__(self) -> str:
        return self.text


def translate(
    budget: Budget,
    texts: Iterable[str],
    to: str,
    *,
    priority: Priority | None = None,
    **options: Any,
) -> Plan[list[Translation]]:
    """Each text translated, in as many requests as the limits ask for."""
    inputs = texts_list(texts)
    template = _template(to, priority, **options)
    sent = [_load(text, f"texts[{i}]", template.options) for i, text in enumerate(inputs)]
    known = yield from known_info(budget)
    found: list[Translation] = []
    for start, piece in pieces(inputs, sent, _limit(known)):
        request = translation_pb2.TranslateRequest(inputs=piece)
        request.MergeFrom(template)
        try:
            answer = yield from call(budget, methods.TRANSLATE, request)
        except PolysemeError as error:
            raise renamed(error, _NAMES, start) from error
        found += _translations(answer)
    return found


def translate_iter(
    budget: Budget,
    to: str,
    *,
    batch_texts: int = 32,
    priority: Priority | None = None,
    **options: Any,
) -> Plan[None]:
    """Pull texts, emit a `Translation` of each, in order."""
    if batch_texts < 1:
        raise invalid("batch_texts", f"{batch_texts} is below 1")
    template = _template(to, priority, **options)
    known = yield from known_info(budget)
    limit = _limit(known, items_max=batch_texts)
    source = TextSource(lambda text, field: _load(text, field, template.options), limit)

    def next_flight() -> Plan[Flight | None]:
        start, texts = yield from source.next_texts()
        if not texts:
            return None
        request = translation_pb2.TranslateRequest(inputs=texts)
        request.MergeFrom(template)
        message = translation_pb2.TranslateStreamRequest(request=request, tag=str(start))
        return Flight(message, context=start)

    flights = STREAM_FLIGHTS_MAX
    yield from pipeline(budget, methods.TRANSLATE_STREAM, next_flight, _landed, flights)


def language_pairs(budget: Budget) -> Plan[list[tuple[str, str]]]:
    """What can be translated into what."""
    request = translation_pb2.ListLanguagePairsRequest()
    answer = yield from call(budget, methods.LIST_LANGUAGE_PAIRS, request)
    return [(pair.source_language, pair.target_language) for pair in answer.pairs]


def _landed(flight: Flight, answer: translation_pb2.TranslateStreamResponse) -> Plan[None]:
    if answer.HasField("error"):
        raise renamed(from_status(answer.error), _NAMES, flight.context)
    for translation in _translations(answer.response):
        yield Emit(translation)


def _template(
    to: str,
    priority: Priority | None,
    *,
    source: str = "",
    beams: int = 0,
    alternatives: int = 0,
    length_penalty: float | None = None,
    alignment: bool = False,
    splitting: Splitting | None = None,
) -> translation_pb2.TranslateRequest:
    if not to:
        raise invalid("to", "is empty: name the language to translate into")
    check_fields(to=to, source=source, beams=beams, alternatives=alternatives)
    unspecified = translation_pb2.SENTENCE_SPLITTING_UNSPECIFIED
    return translation_pb2.TranslateRequest(
        options=translation_pb2.TranslateOptions(
            target_language=to,
            source_language=source,
            beams=beams,
            alternatives=alternatives,
            length_penalty=length_penalty,
            alignment=alignment,
            splitting=choice("splitting", splitting, _SPLITTINGS, unspecified),
        ),
        priority=priority_number(priority),
    )


def _load(text: str, field: str, options: translation_pb2.TranslateOptions) -> Load:
    """A tokenizer makes at most a token a byte, and two special ones: an upper bound."""
    size = utf8_bytes(text, field)
    answer = (_ALIGNED_BYTES if options.alignment else _ANSWER_BYTES) * (options.alternatives or 1)
    return Load(
        1,
        size + ITEM_OVERHEAD_BYTES,
        answer * size + ITEM_OVERHEAD_BYTES,
        units=(size + 2) * (options.beams or BEAMS),
    )


def _limit(known: ServerInfo, items_max: int | None = None) -> Load:
    limits = known.limits
    message_bytes = limits.message_bytes_max - MESSAGE_OVERHEAD_BYTES
    items = limits.inputs_max if items_max is None else min(items_max, limits.inputs_max)
    return Load(items, message_bytes, message_bytes, limits.translation_tokens_max)


def _translations(answer: translation_pb2.TranslateResponse) -> Iterator[Translation]:
    fingerprint = fingerprint_from(answer.fingerprint)
    for result in answer.results:
        detected = result.HasField("detection_confidence")
        yield Translation(
            text=result.text,
            source_language=result.source_language,
            detection_confidence=result.detection_confidence if detected else None,
            sentences=tuple(map(_sentence, result.sentences)),
            tokens=result.tokens,
            cut=result.cut,
            fingerprint=fingerprint,
        )


def _sentence(sentence: translation_pb2.TranslatedSentence) -> TranslatedSentence:
    return TranslatedSentence(
        source=span_from(sentence.source),
        target=span_from(sentence.target),
        hypotheses=tuple(map(_hypothesis, sentence.hypotheses)),
        copied=sentence.copied,
    )


def _hypothesis(one: translation_pb2.TranslationHypothesis) -> Hypothesis:
    return Hypothesis(
        text=one.text,
        score=one.score,
        log_probability=one.log_probability,
        tokens=one.tokens,
        cut=one.cut,
        alignment=_alignment(one.alignment) if one.HasField("alignment") else None,
    )


def _alignment(alignment: translation_pb2.WordAlignment) -> Alignment:
    return Alignment(
        source_words=tuple(map(span_from, alignment.source_words)),
        target_words=tuple(map(span_from, alignment.target_words)),
        weights=matrix_array(alignment.weights),
        pairs=tuple(
            (span_from(pair.source), span_from(pair.target), pair.weight)
            for pair in alignment.pairs
        ),
    )
