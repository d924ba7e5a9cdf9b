"""Hits in the language of who searches."""

from collections.abc import Sequence

from encoder.sentences import Splitting
from encoder.translated import LanguageUnknown
from encoder.translation import BeamPlan
from index.documents import Hit
from polyseme.v1 import search_pb2
from server.batching import Lane
from server.errors import LimitExceeded, ModelLacks, RequestInvalid
from server.translating import (
    NO_TRANSLATION,
    NO_TRANSLATION_PROBLEM,
    TranslatePlan,
    Translating,
    primary,
)

HITS_MAX = 100  # of a call, whose texts are translated
BEAM = BeamPlan(beams=2)  # half the work of the service's default: hits are there to be skimmed


def plan_from(
    translate_to: str, hits: int, translating: Translating | None
) -> TranslatePlan | None:
    """How up to so many hits are translated; None for not at all.

    Raises ModelLacks, RequestInvalid, LimitExceeded.
    """
    if not translate_to:
        return None
    if translating is None:
        raise ModelLacks(NO_TRANSLATION, NO_TRANSLATION_PROBLEM)
    targets = translating.translator.targets
    target = primary(translate_to)
    if target not in targets:
        problem = f"{translate_to!r} is unknown; the model translates into {', '.join(targets)}"
        raise RequestInvalid("options.translate_to", problem)
    if hits > HITS_MAX:
        raise LimitExceeded("options.k", hits, HITS_MAX, "hits with translations")
    return TranslatePlan(
        target=target,
        source="",
        beam=BEAM,
        alignment=False,
        splitting=Splitting.SENTENCES_AND_LINES,
    )


async def translate_hits(
    translating: Translating,
    plan: TranslatePlan,
    responses: Sequence[search_pb2.SearchResponse],
    hits: Sequence[Sequence[Hit]],
    lane: Lane,
) -> None:
    """Give the hits of each response their translations, and the first response the time.

    A text in a language that the model does not translate has none.
    """
    found = [
        (message, hit.document.text if hit.document else "")
        for response, of_query in zip(responses, hits, strict=True)
        for message, hit in zip(response.hits, of_query, strict=True)
    ]
    each = await translating.prepare([text for _, text in found], plan)
    prepared, messages = [], []
    for (message, _), one in zip(found, each, strict=True):
        message.translation.SetInParent()
        if not isinstance(one, LanguageUnknown):
            prepared.append(one)
            messages.append(message)
    translating.admit(prepared, plan, "options.translate_to")
    translated = await translating.translate(prepared, plan, lane)
    for message, text in zip(messages, translated.texts, strict=True):
        message.translation.text = text.text
        message.translation.source_language = text.source or plan.target
    if responses:
        timing = responses[0].timing
        timing.queue_s += translated.timing.queue_s
        timing.compute_s += translated.timing.compute_s
