"""Senses of words: learnt from a few labelled sentences, kept in a file, told in others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from google.protobuf import json_format

from polyseme import methods
from polyseme.batches import Load, pieces
from polyseme.embedding import ITEM_OVERHEAD_BYTES, request_limit
from polyseme.errors import PolysemeError, from_status, invalid, renamed
from polyseme.plans import Plan, call
from polyseme.retry import Budget
from polyseme.service import ServerInfo, known_info
from polyseme.v1 import sense_pb2
from polyseme.vectors import (
    Fingerprint,
    Priority,
    Span,
    TokenCount,
    Truncation,
    fingerprint_from,
    priority_number,
    span_from,
    texts_list,
    tokens_from,
    truncation_number,
    utf8_bytes,
)
from polyseme.words import Target, target_message

PROBABILITY_BYTES = 24  # of a sense in an answer, beside its name


@dataclass(frozen=True, slots=True)
class SenseExample:
    """A sentence in which a word has a known sense."""

    text: str
    sense: str  # its name; equal names mean one sense
    word: str = (
        ""  # as the inventory shall name it; "": the call's `word`, or what is at the target
    )
    target: Target | None = None  # where it stands; None: its first occurrence, case ignored


# Or the sentence and the sense alone, where the call says of which word.
SenseExampleLike: TypeAlias = SenseExample | tuple[str, str]


@dataclass(frozen=True, slots=True)
class Sense:
    """A sense of a word."""

    name: str
    examples: int  # that taught it


@dataclass(frozen=True, slots=True)
class WordSenses:
    """What was learnt about one word."""

    word: str
    senses: tuple[Sense, ...]  # in the order of their names
    checked: int  # examples left out in turn and told by the others, of senses with four or more
    checked_right: int  # of those, how many were given their own sense
    forms: tuple[str, ...] = ()  # its other spellings in the examples, such as `apples`

    @property
    def calibrated(self) -> bool:
        """Whether probabilities are meant as frequencies; otherwise they are too modest."""
        return self.checked > 0


class SenseInventory:
    """The senses of one or several words, as a server has learnt them. Yours to keep.

    inventory.save("apple.senses"); SenseInventory.load("apple.senses")
    """

    def __init__(self, message: sense_pb2.SenseInventory) -> None:
        self._message = message

    @property
    def words(self) -> tuple[WordSenses, ...]:
        """What was learnt, word by word."""
        return tuple(
            WordSenses(
                word.word,
                tuple(Sense(sense.name, sense.examples) for sense in word.senses),
                word.checked,
                word.checked_right,
                tuple(word.forms),
            )
            for word in self._message.words
        )

    @property
    def fingerprint(self) -> Fingerprint:
        """What made the vectors; a server with another one refuses the inventory."""
        return fingerprint_from(self._message.fingerprint)

    def message(self) -> sense_pb2.SenseInventory:
        """For the wire."""
        return self._message

    def to_json(self) -> str:
        """By protobuf's mapping, which every language with protobuf can read."""
        return json_format.MessageToJson(self._message, preserving_proto_field_name=True)

    @classmethod
    def from_json(cls, text: str) -> SenseInventory:
        """Raises ValueError for what is no inventory."""
        message = sense_pb2.SenseInventory()
        try:
            json_format.Parse(text, message)
        except json_format.ParseError as error:
            raise ValueError(f"this is no sense inventory: {error}") from None
        if not message.words:
            raise ValueError("this is no sense inventory: it has no words")
        return cls(message)

    def save(self, file: str | Path) -> None:
        """Write it as JSON, whole or not at all."""
        file = Path(file)
        temporary = file.with_name(f".{file.name}.new")
        temporary.write_text(self.to_json() + "\n", encoding="utf-8")
        temporary.replace(file)

    @classmethod
    def load(cls, file: str | Path) -> SenseInventory:
        """Raises OSError, and ValueError for what is no inventory."""
        return cls.from_json(Path(file).read_text(encoding="utf-8"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SenseInventory) and self._message == other._message

    __hash__ = None  # type: ignore[assignment]  # as of other values that hold arrays

    def __repr__(self) -> str:
        words = ", ".join(f"{word.word} ({len(word.senses)})" for word in self.words)
        return f"SenseInventory({words})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldSense:
    """What a word means in one text; with `error` set, why nobody knows."""

    text: str
    sense: str = ""  # the most probable
    probabilities: Mapping[str, float]  # of all senses, the most probable first
    margin: float = 0.0  # how far the first is ahead of the second, 0 to 1
    word: str = ""  # the inventory's
    span: Span | None = None
    count: TokenCount | None = None
    error: PolysemeError | None = None


def fit_senses(
    budget: Budget,
    examples: Iterable[SenseExampleLike],
    *,
    word: str = "",
    counted_priors: bool = False,
    truncation: Truncation | None = None,
    priority: Priority | None = None,
) -> Plan[SenseInventory]:
    """The inventory, in one request: all examples teach together."""
    request = sense_pb2.FitSensesRequest(
        examples=[_example(each, word, f"examples[{i}]") for i, each in enumerate(examples)],
        counted_priors=counted_priors,
        truncation=truncation_number(truncation),
        priority=priority_number(priority),
    )
    answer = yield from call(budget, methods.FIT_SENSES, request)
    return SenseInventory(answer.inventory)


def classify_senses(
    budget: Budget,
    inventory: SenseInventory,
    texts: Iterable[str],
    targets: Sequence[Target | None] | None = None,
    *,
    word: str = "",
    partial: bool = False,
    truncation: Truncation | None = None,
    priority: Priority | None = None,
) -> Plan[list[ToldSense]]:
    """For each text the sense of its word, in as many requests as the limits ask for."""
    inputs = _inputs(texts_list(texts), targets, word)
    template = sense_pb2.ClassifySensesRequest(
        inventory=inventory.message(),
        truncation=truncation_number(truncation),
        priority=priority_number(priority),
        partial_success=partial,
    )
    known = yield from known_info(budget)
    found: list[ToldSense] = []
    for start, piece in pieces(inputs, _loads(inputs, inventory), _limit(known, inventory)):
        request = sense_pb2.ClassifySensesRequest(inputs=piece)
        request.MergeFrom(template)
        try:
            answer = yield from call(budget, methods.CLASSIFY_SENSES, request)
        except PolysemeError as error:
            raise renamed(error, {"inputs": "texts"}, start) from error
        found += _told_from(piece, answer, start)
    return found


def _example(given: SenseExampleLike, word: str, field: str) -> sense_pb2.SenseExample:
    match given:
        case SenseExample():
            example = given
        case (str(text), str(sense)):
            example = SenseExample(text, sense)
        case _:
            raise invalid(field, f"{given!r} is no SenseExample and no (text, sense)")
    utf8_bytes(example.text, f"{field}.text")
    utf8_bytes(example.sense, f"{field}.sense")
    utf8_bytes(example.word or word, f"{field}.word")
    message = sense_pb2.SenseExample(
        text=example.text, sense=example.sense, word=example.word or word
    )
    if example.target is not None:
        message.target.CopyFrom(target_message(example.target, f"{field}.target"))
    return message


def _inputs(
    texts: Sequence[str], targets: Sequence[Target | None] | None, word: str
) -> list[sense_pb2.SenseInput]:
    if targets is not None and (isinstance(targets, str) or len(targets) != len(texts)):
        count = "is one str" if isinstance(targets, str) else f"has {len(targets)}"
        raise invalid("targets", f"{count} for {len(texts)} texts; give one a text, or None")
    utf8_bytes(word, "word")
    inputs = []
    for i, text in enumerate(texts):
        utf8_bytes(text, f"texts[{i}]")
        item = sense_pb2.SenseInput(text=text, word=word)
        target = targets[i] if targets is not None else None
        if target is not None:
            item.target.CopyFrom(target_message(target, f"targets[{i}]"))
        inputs.append(item)
    return inputs


def _loads(inputs: Sequence[sense_pb2.SenseInput], inventory: SenseInventory) -> Iterator[Load]:
    names = max(
        sum(len(sense.name.encode()) + PROBABILITY_BYTES for sense in word.senses)
        for word in inventory.words
    )
    for item in inputs:
        size = item.ByteSize()
        # A tokenizer makes at most a token a byte, and two special ones: an upper bound.
        answer_bytes = 2 * names + ITEM_OVERHEAD_BYTES
        yield Load(1, size + ITEM_OVERHEAD_BYTES, answer_bytes, len(item.text.encode()) + 2)


def _limit(known: ServerInfo, inventory: SenseInventory) -> Load:
    texts = request_limit(known)
    send_bytes = texts.send_bytes - inventory.message().ByteSize()
    return Load(texts.items, send_bytes, texts.receive_bytes, texts.units)


def _told_from(
    inputs: Sequence[sense_pb2.SenseInput], answer: sense_pb2.ClassifySensesResponse, start: int
) -> Iterator[ToldSense]:
    for item, result in zip(inputs, answer.results, strict=True):
        if result.HasField("error"):
            error = renamed(from_status(result.error), {"inputs": "texts"}, start)
            yield ToldSense(text=item.text, probabilities={}, error=error)
            continue
        yield ToldSense(
            text=item.text,
            sense=result.sense,
            probabilities={each.sense: each.probability for each in result.probabilities},
            margin=result.margin,
            word=result.word,
            span=span_from(result.span),
            count=tokens_from(result.tokens),
        )
