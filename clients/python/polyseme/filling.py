"""What could stand in a text: guesses for masks and words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from polyseme import methods
from polyseme.batches import Load, pieces
from polyseme.embedding import ITEM_OVERHEAD_BYTES, request_limit, text_loads
from polyseme.errors import PolysemeError, renamed
from polyseme.plans import Plan, call
from polyseme.retry import Budget
from polyseme.service import ServerInfo, known_info
from polyseme.v1 import language_model_pb2
from polyseme.vectors import (
    Fingerprint,
    Priority,
    Span,
    TokenCount,
    Truncation,
    check_fields,
    fingerprint_from,
    priority_number,
    span_from,
    texts_list,
    tokens_from,
    truncation_number,
)
from polyseme.words import Target, target_message

MASK = "[MASK]"  # what marks a mask for the server, unless the caller says otherwise
GUESS_BYTES = 64  # of a guess as a message: a word, its spelling, its numbers
GUESSES = 5  # of a mask, unless the caller says otherwise


@dataclass(frozen=True, slots=True)
class Guess:
    """A token that could stand there."""

    text: str
    token_id: int
    token: str  # its spelling in the vocabulary: `##ing` continues a word
    probability: float  # among all tokens of the vocabulary, whatever the candidates
    logit: float


@dataclass(frozen=True, slots=True)
class FilledMask:
    """The guesses for one mask, most probable first."""

    span: Span  # where the mask stands in the text
    guesses: tuple[Guess, ...]


@dataclass(frozen=True, slots=True)
class Filled:
    """A text and the guesses for its masks, each made with the others hidden."""

    text: str
    masks: tuple[FilledMask, ...]
    count: TokenCount
    fingerprint: Fingerprint

    def best(self) -> str:
        """The text with the best guess in the place of each mask."""
        text = self.text
        for mask in reversed(self.masks):
            if mask.guesses:
                text = text[: mask.span.start] + mask.guesses[0].text + text[mask.span.end :]
        return text


@dataclass(frozen=True, slots=True)
class Substitutes:
    """What could stand in the place of a word; guesses fit there, and need not mean the same."""

    word: str
    span: Span
    guesses: tuple[Guess, ...]  # words, most probable first, without the word itself
    itself: Guess | None  # the word as a guess; None if it is more than one token
    count: TokenCount
    fingerprint: Fingerprint


def fill_mask(
    budget: Budget,
    texts: Iterable[str],
    *,
    mask: str = MASK,
    k: int = 0,
    candidates: Sequence[str] = (),
    truncation: Truncation | None = None,
    priority: Priority | None = None,
) -> Plan[list[Filled]]:
    """For each text the guesses for its masks, in as many requests as the limits ask for."""
    inputs = texts_list(texts)
    mask = mask or MASK
    check_fields(mask=mask, k=k)
    template = language_model_pb2.FillMaskRequest(
        mask=mask,
        top_k=k,
        candidates=_words_list(candidates),
        truncation=truncation_number(truncation),
        priority=priority_number(priority),
    )
    sent = text_loads(inputs)
    known = yield from known_info(budget)
    guesses = k or len(template.candidates) or GUESSES
    loads = _loads(inputs, sent, mask, guesses)
    found: list[Filled] = []
    for start, piece in pieces(inputs, loads, _limit(known)):
        request = language_model_pb2.FillMaskRequest(inputs=piece)
        request.MergeFrom(template)
        try:
            answer = yield from call(budget, methods.FILL_MASK, request)
        except PolysemeError as error:
            raise renamed(error, {"inputs": "texts", "top_k": "k"}, start) from error
        found += _filled_from(piece, answer)
    return found


def substitute(
    budget: Budget,
    text: str,
    target: Target,
    *,
    k: int = 0,
    candidates: Sequence[str] = (),
    truncation: Truncation | None = None,
    priority: Priority | None = None,
) -> Plan[Substitutes]:
    """What could stand in the place of one word of a text."""
    check_fields(text=text, k=k)
    given = language_model_pb2.SubstituteInput(text=text, target=target_message(target, "target"))
    request = language_model_pb2.SubstituteRequest(
        inputs=[given],
        top_k=k,
        candidates=_words_list(candidates),
        truncation=truncation_number(truncation),
        priority=priority_number(priority),
    )
    try:
        answer = yield from call(budget, methods.SUBSTITUTE, request)
    except PolysemeError as error:
        raise renamed(error, {"inputs": "texts", "top_k": "k"}) from error
    (result,) = answer.results
    span = span_from(result.span)
    return Substitutes(
        word=span.of(text),
        span=span,
        guesses=tuple(map(_guess_from, result.guesses)),
        itself=_guess_from(result.word) if result.HasField("word") else None,
        count=tokens_from(result.tokens),
        fingerprint=fingerprint_from(answer.fingerprint),
    )


def _words_list(candidates: Sequence[str]) -> list[str]:
    words = texts_list(candidates, "candidates")
    check_fields(candidates=words)
    return words


def _loads(texts: Sequence[str], sent: Sequence[Load], mask: str, guesses: int) -> Iterator[Load]:
    for text, load in zip(texts, sent, strict=True):
        masks = text.count(mask) or 1  # or the model's own mark, which is not known here
        answer_bytes = masks * guesses * GUESS_BYTES + ITEM_OVERHEAD_BYTES
        yield Load(1, load.send_bytes, answer_bytes, units=masks)


def _limit(known: ServerInfo) -> Load:
    texts = request_limit(known)
    return Load(texts.items, texts.send_bytes, texts.receive_bytes, known.limits.masks_max)


def _filled_from(
    texts: Sequence[str], answer: language_model_pb2.FillMaskResponse
) -> Iterator[Filled]:
    fingerprint = fingerprint_from(answer.fingerprint)
    for text, result in zip(texts, answer.results, strict=True):
        masks = tuple(
            FilledMask(span_from(mask.span), tuple(map(_guess_from, mask.guesses)))
            for mask in result.masks
        )
        yield Filled(text, masks, tokens_from(result.tokens), fingerprint)


def _guess_from(guess: language_model_pb2.Guess) -> Guess:
    return Guess(guess.text, guess.token_id, guess.token, guess.probability, guess.logit)
