"""Embedding that answers each text by itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from encoder.tokenizer import TokenizedText, Truncation
from server.batching import Lane
from server.embedder import Embedded, Embedder, EmbedPlan, Tokenized
from server.errors import RequestInvalid, TextTooLong
from server.limits import text_error
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class EmbeddedEach:
    """The good texts' vectors, in their order, and the bad ones' errors by their index."""

    embedded: Embedded
    errors: Mapping[int, RequestInvalid]


async def embed_each(
    embedder: Embedder,
    texts: Sequence[str],
    plan: EmbedPlan,
    lane: Lane,
    settings: Settings,
    *,
    field_of: Callable[[int], str] = "inputs[{}]".format,
    patient: bool = False,
) -> EmbeddedEach:
    """Embed what can be embedded. What concerns the call as a whole still raises.

    field_of: the request's name for a text, by its index
    """
    errors: dict[int, RequestInvalid] = {}
    for index, text in enumerate(texts):
        error = text_error(field_of(index), text, settings)
        if error is not None:
            errors[index] = error
    kept = [index for index in range(len(texts)) if index not in errors]
    if not patient:
        embedder.check_room(len(kept), lane)
    tokenized = await embedder.tokenize(
        [texts[index] for index in kept], plan.truncation, plan.prompt, places=False
    )
    good: list[TokenizedText] = []
    for index, seen in zip(kept, tokenized.texts, strict=True):
        if seen.truncated and plan.truncation is Truncation.ERROR:
            tokens_max = embedder.encoder.tokens_max
            errors[index] = TextTooLong(field_of(index), seen.tokens_total, tokens_max)
        else:
            good.append(seen)
    embedded = await embedder.embed_tokenized(
        Tokenized(good, tokenized.tokenize_s), plan, lane, patient=patient
    )
    return EmbeddedEach(embedded, errors)
