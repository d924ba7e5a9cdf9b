"""What the translation RPCs answer, from what was translated. Pure functions."""

from collections.abc import Mapping

from google.rpc import status_pb2

from encoder.alignment import Aligned
from encoder.runtime import Fingerprint
from encoder.translated import Sentence, Translated
from encoder.translation import Written
from polyseme.v1 import translation_pb2
from server.messages import fingerprint_to, matrix_to, span_to, timing_to
from server.translating import TranslatedTexts


def translate_reply(
    found: TranslatedTexts, errors: Mapping[int, status_pb2.Status], fingerprint: Fingerprint
) -> translation_pb2.TranslateResponse:
    """errors: of the texts that have no translation, by their index among all"""
    results = [result_to(text) for text in found.texts]
    for index in sorted(errors):  # rising, so that each finds its place
        results.insert(index, translation_pb2.TranslateResult(error=errors[index]))
    return translation_pb2.TranslateResponse(
        results=results,
        fingerprint=fingerprint_to(fingerprint),
        timing=timing_to(found.timing),
    )


def result_to(text: Translated) -> translation_pb2.TranslateResult:
    return translation_pb2.TranslateResult(
        text=text.text,
        source_language=text.source,
        detection_confidence=text.confidence,
        sentences=map(sentence_to, text.sentences),
        tokens=text.tokens,
        cut=text.cut,
    )


def sentence_to(sentence: Sentence) -> translation_pb2.TranslatedSentence:
    alignments = sentence.alignments or [None] * len(sentence.written)
    return translation_pb2.TranslatedSentence(
        source=span_to(sentence.source),
        target=span_to(sentence.target),
        hypotheses=[
            _hypothesis(written, aligned)
            for written, aligned in zip(sentence.written, alignments, strict=True)
        ],
        copied=not sentence.written,
        tokens=sentence.tokens,
    )


def _hypothesis(written: Written, aligned: Aligned | None) -> translation_pb2.TranslationHypothesis:
    return translation_pb2.TranslationHypothesis(
        text=written.text,
        score=written.score,
        log_probability=written.log_probability,
        tokens=written.tokens,
        cut=not written.finished,
        alignment=None if aligned is None else _alignment(aligned),
    )


def _alignment(aligned: Aligned) -> translation_pb2.WordAlignment:
    return translation_pb2.WordAlignment(
        source_words=map(span_to, aligned.source),
        target_words=map(span_to, aligned.target),
        weights=matrix_to(aligned.weights),
        pairs=[
            translation_pb2.WordPair(
                source=span_to(aligned.source[source]),
                target=span_to(aligned.target[target]),
                weight=float(aligned.weights[target, source]),
            )
            for source, target in aligned.links
        ],
    )
