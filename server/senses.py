"""Sense inventories of the API from and to the encoder's, and which word a request means. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from encoder.runtime import Fingerprint
from encoder.senses import Sense, SensesInvalid, WordSenses, fit, margin
from encoder.words import Span, find_any_case
from polyseme.v1 import common_pb2, sense_pb2
from server.embedded import EmbeddedWord, TokenCounts
from server.errors import InventoryMismatch, LimitExceeded, RequestInvalid
from server.limits import check_count
from server.messages import counts_to, fingerprint_to, matrix_to, span_to, target_from
from server.settings import Settings

NOT_READ = "the model does not read this word: it was cut away, or has no tokens"

_FINGERPRINT_FIELDS = (
    "model", "weights_sha256", "tokenizer_sha256", "dimensions", "normalized", "numeric_class",
)  # fmt: skip


# ---- examples


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled use of a word: `word` as the inventory shall name it."""

    text: str
    span: Span
    word: str
    sense: str


def examples_from(messages: Sequence[sense_pb2.SenseExample], settings: Settings) -> list[Example]:
    """The examples of a request whose texts are checked. Raises RequestInvalid by field.

    Two senses of a word or more, and no use with two of them.
    """
    examples = [_example(message, f"examples[{i}]") for i, message in enumerate(messages)]
    for index, (message, example) in enumerate(zip(messages, examples, strict=True)):
        for field, name in (("sense", message.sense), ("word", example.word)):
            check_name(f"examples[{index}].{field}", name, settings)
    _refuse_contradictions(examples)
    senses = {word: {examples[i].sense for i in rows} for word, rows in by_word(examples).items()}
    total = sum(map(len, senses.values()))
    check_count("examples", total, settings.senses_max, "senses together")
    for word, names in senses.items():
        if len(names) == 1:
            problem = f"{word!r} has one sense, {names.pop()!r}; give two or more"
            raise RequestInvalid("examples", problem)
    return examples


def _example(message: sense_pb2.SenseExample, field: str) -> Example:
    if message.HasField("target"):
        span = target_from(message.text, message.target, f"{field}.target")
        word = message.word or message.text[span.start : span.end]
        return Example(message.text, span, word, message.sense)
    if not message.word:
        raise RequestInvalid(f"{field}.word", "give the word, or its place as the target")
    span = _span_of(message.text, [message.word], field)
    return Example(message.text, span, message.word, message.sense)


def _span_of(text: str, spellings: Sequence[str], field: str) -> Span:
    span = find_any_case(text, spellings)
    if span is None:
        problem = f"does not hold the word {spellings[0]!r}; of another form give the target"
        raise RequestInvalid(f"{field}.text", problem)
    return span


def _refuse_contradictions(examples: Sequence[Example]) -> None:
    seen: dict[tuple[str, str, Span], int] = {}
    for index, example in enumerate(examples):
        use = (example.word.casefold(), example.text, example.span)
        first = seen.setdefault(use, index)
        if examples[first].sense != example.sense:
            problem = f"{example.sense!r}, but in examples[{first}] the same use is of sense "
            raise RequestInvalid(f"examples[{index}].sense", f"{problem}{examples[first].sense!r}")


def check_name(field: str, name: str, settings: Settings) -> None:
    """Of a sense or a word: something to read, on one line, not endless."""
    if not name.strip():
        raise RequestInvalid(field, "the name is empty")
    if not name.isprintable():
        raise RequestInvalid(field, "the name holds a character that is not printable")
    size = len(name.encode("utf-8"))
    if size > settings.id_bytes_max:
        raise LimitExceeded(field, size, settings.id_bytes_max, "bytes of UTF-8")


def by_word(examples: Sequence[Example]) -> dict[str, list[int]]:
    """Each word, as it is first spelled, to its examples; case makes no other word."""
    spelled: dict[str, str] = {}
    rows: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        word = spelled.setdefault(example.word.casefold(), example.word)
        rows.setdefault(word, []).append(index)
    return rows


def fitted(
    examples: Sequence[Example],
    vectors: NDArray[np.float32],
    *,
    counted_priors: bool,
) -> list[WordSenses]:
    """The senses of each word, in the order in which words come.

    vectors: (examples, width). The same use given again counts once: it would prove itself right
    when examples are left out.
    """
    words = []
    for word, rows in by_word(examples).items():
        first: dict[tuple[str, Span], int] = {}
        for row in rows:
            first.setdefault((examples[row].text, examples[row].span), row)
        once = list(first.values())
        labels = [examples[i].sense for i in once]
        try:
            senses = fit(word, vectors[once], labels, counted_priors=counted_priors)
        except SensesInvalid as error:
            raise RequestInvalid("examples", str(error)) from None
        words.append(replace(senses, forms=_forms(word, [examples[i] for i in rows])))
    return words


def _forms(word: str, examples: Sequence[Example]) -> tuple[str, ...]:
    """Other spellings of the word, case folded, in alphabetic order."""
    spelled = {e.text[e.span.start : e.span.end].casefold() for e in examples}
    return tuple(sorted(spelled - {word.casefold()}))


# ---- inventories


@dataclass(frozen=True)
class Inventory:
    """The senses of words by their case-folded names."""

    words: Mapping[str, WordSenses]

    def of(self, name: str) -> WordSenses | None:
        """The senses of a word, case ignored; None for an unknown one."""
        return self.words.get(name.casefold())

    def spelled(self, spelling: str) -> WordSenses | None:
        """Of the word with this name, or else of the first word that has this form."""
        known = self.of(spelling) or self.by_form.get(spelling.casefold())
        if known is not None:
            return known
        # Rarely full case folding finds more than `casefold`: a dotted capital I, in Turkish.
        return next((s for f, s in self.by_form.items() if find_any_case(spelling, [f])), None)

    @cached_property
    def by_form(self) -> Mapping[str, WordSenses]:
        """The words by all of their spellings, case folded; of one that two have, the first."""
        found: dict[str, WordSenses] = {}
        for senses in self.words.values():
            for form in spellings_of(senses):
                found.setdefault(form.casefold(), senses)
        return found


def spellings_of(senses: WordSenses) -> list[str]:
    """A word's name and its other forms."""
    return [senses.word, *senses.forms]


def inventory_to(words: Sequence[WordSenses], fingerprint: Fingerprint) -> sense_pb2.SenseInventory:
    return sense_pb2.SenseInventory(
        words=[
            sense_pb2.WordSenses(
                word=word.word,
                senses=[sense_pb2.Sense(name=s.name, examples=s.examples) for s in word.senses],
                weights=matrix_to(word.weights),
                bias=word.bias.tolist(),
                temperature=word.temperature,
                checked=word.checked,
                checked_right=word.right,
                forms=word.forms,
            )
            for word in words
        ],
        fingerprint=fingerprint_to(fingerprint),
    )


def inventory_from(
    message: sense_pb2.SenseInventory, fingerprint: Fingerprint, settings: Settings
) -> Inventory:
    """Raises RequestInvalid by field, InventoryMismatch for one made by other vectors."""
    if not message.words:
        raise RequestInvalid("inventory.words", "give an inventory, as FitSenses makes it")
    total = sum(len(word.senses) for word in message.words)
    check_count("inventory.words", total, settings.senses_max, "senses together")
    forms = sum(len(word.forms) for word in message.words)
    check_count("inventory.words", forms, settings.inputs_max, "forms together")
    check_fingerprint(message.fingerprint, fingerprint)
    words: dict[str, WordSenses] = {}
    for index, word in enumerate(message.words):
        field = f"inventory.words[{index}]"
        check_name(f"{field}.word", word.word, settings)
        for number, sense in enumerate(word.senses):
            check_name(f"{field}.senses[{number}].name", sense.name, settings)
        for number, form in enumerate(word.forms):
            check_name(f"{field}.forms[{number}]", form, settings)
        if word.word.casefold() in words:
            raise RequestInvalid(f"{field}.word", f"{word.word!r} is there already")
        words[word.word.casefold()] = _word_from(word, field, fingerprint.dimensions)
    return Inventory(words)


def _word_from(message: sense_pb2.WordSenses, field: str, width: int) -> WordSenses:
    try:
        return WordSenses(
            word=message.word,
            senses=tuple(Sense(sense.name, sense.examples) for sense in message.senses),
            weights=_weights_from(message.weights, f"{field}.weights", width),
            bias=np.array(message.bias, dtype=np.float64),
            temperature=message.temperature,
            checked=message.checked,
            right=message.checked_right,
            forms=tuple(message.forms),
        )
    except SensesInvalid as error:
        raise RequestInvalid(field, str(error)) from None


def _weights_from(matrix: common_pb2.Matrix, field: str, width: int) -> NDArray[np.float32]:
    if matrix.columns != width:
        problem = f"{matrix.columns} columns; the vectors have {width} values"
        raise RequestInvalid(f"{field}.columns", problem)
    if matrix.rows < 0 or matrix.rows * width * 4 != len(matrix.data):
        problem = f"{len(matrix.data)} bytes do not make up {matrix.rows} rows of {width} values"
        raise RequestInvalid(f"{field}.data", problem)
    return np.frombuffer(matrix.data, dtype="<f4").reshape(matrix.rows, width)


def check_fingerprint(given: common_pb2.ModelFingerprint, ours: Fingerprint) -> None:
    """Raises InventoryMismatch unless both stand for the same vectors."""
    if given.combined == ours.combined:
        return
    expected = fingerprint_to(ours)
    differences = [n for n in _FINGERPRINT_FIELDS if getattr(given, n) != getattr(expected, n)]
    # The layers and the whitening are in no field of the message, but in the hash.
    raise InventoryMismatch(
        given.combined, ours.combined, differences or ["how words' vectors are made"]
    )


# ---- inputs


@dataclass(frozen=True, slots=True)
class Asked:
    """A use of a word whose sense is asked for."""

    text: str
    span: Span
    senses: WordSenses


def asked_from(message: sense_pb2.SenseInput, inventory: Inventory, field: str) -> Asked:
    """Which word is meant, and where it stands. Raises RequestInvalid."""
    named = None
    if message.word:
        named = inventory.of(message.word)
        if named is None:
            problem = f"{message.word!r} is not in the inventory, which has {_some(inventory)}"
            raise RequestInvalid(f"{field}.word", problem)
    if message.HasField("target"):
        span = target_from(message.text, message.target, f"{field}.target")
        return Asked(message.text, span, named or _at(message.text, span, inventory, field))
    if named is not None:
        return Asked(message.text, _span_of(message.text, spellings_of(named), field), named)
    first = find_any_case(message.text, inventory.by_form.keys())
    if first is None:
        problem = f"holds none of the inventory's words, {_some(inventory)}; of another form give "
        raise RequestInvalid(f"{field}.text", f"{problem}the target")
    return Asked(message.text, first, _at(message.text, first, inventory, field))


def _at(text: str, span: Span, inventory: Inventory, field: str) -> WordSenses:
    surface = text[span.start : span.end]
    found = inventory.spelled(surface)
    if found is None and len(inventory.words) == 1:
        found = next(iter(inventory.words.values()))
    if found is None:
        problem = f"{surface!r} is none of the inventory's words; say which of {_some(inventory)}"
        raise RequestInvalid(f"{field}.word", problem)
    return found


def _some(inventory: Inventory, count: int = 5) -> str:
    """The first words of an inventory, for people."""
    more = len(inventory.words) - count
    names = ", ".join(repr(senses.word) for senses in list(inventory.words.values())[:count])
    return f"{names} and {more} more" if more > 0 else names


# ---- results


def results_to(
    asked: Sequence[Asked], found: Sequence[EmbeddedWord], counts: Sequence[TokenCounts]
) -> list[sense_pb2.SenseResult]:
    """One result a use, from its word's vector."""
    return [
        _result(one, word.vector, count)
        for one, word, count in zip(asked, found, counts, strict=True)
    ]


def _result(
    asked: Asked, vector: NDArray[np.float32], counts: TokenCounts
) -> sense_pb2.SenseResult:
    probabilities = asked.senses.probabilities(vector[np.newaxis])
    order = np.argsort(-probabilities[0], kind="stable")
    names = [asked.senses.senses[place].name for place in order]
    return sense_pb2.SenseResult(
        sense=names[0],
        probabilities=[
            sense_pb2.SenseProbability(sense=name, probability=float(probabilities[0, place]))
            for name, place in zip(names, order, strict=True)
        ],
        margin=float(margin(probabilities)[0]),
        word=asked.senses.word,
        span=span_to(asked.span),
        tokens=counts_to(counts),
    )
