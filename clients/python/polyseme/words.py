"""Words in their contexts, tokens, and the way between texts and tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from polyseme import methods
from polyseme.batches import Load, pieces
from polyseme.embedding import (
    ITEM_OVERHEAD_BYTES,
    one_fingerprint,
    request_limit,
    text_loads,
)
from polyseme.errors import PolysemeError, invalid, renamed
from polyseme.plans import Plan, call
from polyseme.retry import Budget
from polyseme.service import ServerInfo, known_info
from polyseme.v1 import common_pb2, encoder_pb2
from polyseme.vectors import (
    Fingerprint,
    Priority,
    Span,
    TokenCount,
    Truncation,
    VectorEncoding,
    check_fields,
    choice,
    encoding_number,
    fingerprint_from,
    matrix_array,
    priority_number,
    span_from,
    texts_list,
    tokens_from,
    truncation_number,
    vector_array,
)

SubwordPooling = Literal["mean", "first", "last"]
_SUBWORD_POOLING = {
    "mean": encoder_pb2.SUBWORD_POOLING_MEAN,
    "first": encoder_pb2.SUBWORD_POOLING_FIRST,
    "last": encoder_pb2.SUBWORD_POOLING_LAST,
}

WordSpace = Literal["context", "sense"]
_SPACE = {
    "context": encoder_pb2.WORD_SPACE_CONTEXT,
    "sense": encoder_pb2.WORD_SPACE_SENSE,
}

# A word of a text: itself (its first occurrence), itself and which occurrence (0 is the first),
# or where it stands.
Target: TypeAlias = str | tuple[str, int] | Span | slice


@dataclass(frozen=True, slots=True, eq=False)
class Word:
    """A word and what it means where it stands."""

    word: str
    span: Span
    vector: NDArray[np.float32]  # (dimensions,)
    tokens: int  # how many sub-word tokens it has
    layers: tuple[int, ...]  # the encoder layers averaged, counted from 0
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the model's vocabulary."""

    id: int
    text: str
    span: Span | None  # None for special tokens
    special: bool


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """The tokens of a text, special ones included, and their states."""

    tokens: tuple[Token, ...]
    states: NDArray[np.float32]  # (tokens, dimensions)
    layers: tuple[int, ...]
    count: TokenCount
    fingerprint: Fingerprint

    def __array__(
        self, dtype: np.dtype[np.generic] | None = None, copy: bool | None = None
    ) -> NDArray[np.generic]:
        return np.array(self.states, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.tokens)


def target_message(target: Target, field: str) -> encoder_pb2.WordTarget:
    """A target for the wire. Raises InvalidRequest for what is none."""
    match target:
        case str():
            check_fields(**{field: target})
            return encoder_pb2.WordTarget(word=encoder_pb2.WordOccurrence(word=target))
        case (str(word), int(occurrence)):
            if occurrence < 0:
                raise invalid(field, f"occurrence {occurrence} is below 0; 0 is the first")
            check_fields(**{field: word, f"{field}[1]": occurrence})
            wanted = encoder_pb2.WordOccurrence(word=word, occurrence=occurrence)
            return encoder_pb2.WordTarget(word=wanted)
        case Span(start, end) | slice(start=int(start), stop=int(end), step=None):
            if not 0 <= start < end:
                raise invalid(field, f"span {start}..{end} is empty or begins below 0")
            check_fields(**{field: end})
            return encoder_pb2.WordTarget(span=common_pb2.Span(start=start, end=end))
    raise invalid(field, f"{target!r} is no word, (word, occurrence), Span or slice(start, stop)")


def words(
    budget: Budget,
    texts: Sequence[str],
    targets: Sequence[Sequence[Target]],
    *,
    layers: Sequence[int] = (),
    subword_pooling: SubwordPooling | None = None,
    normalize: bool = True,
    encoding: VectorEncoding | None = None,
    truncation: Truncation | None = None,
    space: WordSpace | None = None,
    priority: Priority | None = None,
) -> Plan[list[list[Word]]]:
    """For each text the words of its `targets`; of no targets all its words."""
    check_fields(layers=layers)
    inputs = _inputs(texts, targets)
    template = encoder_pb2.EmbedWordsRequest(
        layers=layers,
        subword_pooling=choice(
            "subword_pooling",
            subword_pooling,
            _SUBWORD_POOLING,
            encoder_pb2.SUBWORD_POOLING_UNSPECIFIED,
        ),
        normalize=normalize,
        encoding=encoding_number(encoding),
        truncation=truncation_number(truncation),
        priority=priority_number(priority),
        space=choice("space", space, _SPACE, encoder_pb2.WORD_SPACE_UNSPECIFIED),
    )
    known = yield from known_info(budget)
    found: list[list[Word]] = []
    answers: list[encoder_pb2.EmbedWordsResponse] = []
    for start, piece in pieces(inputs, _words_loads(inputs, known, space), _words_limit(known)):
        request = encoder_pb2.EmbedWordsRequest(inputs=piece)
        request.MergeFrom(template)
        try:
            answer = yield from call(budget, methods.EMBED_WORDS, request)
        except PolysemeError as error:
            raise renamed(error, {"inputs": "texts"}, start) from error
        answers.append(answer)
        found += _words_from(answer)
    one_fingerprint(fingerprint_from(a.fingerprint) for a in answers)
    return found


def nested(
    text: str | Sequence[str],
    targets: str | Sequence[Target] | Sequence[Sequence[Target]] | None,
) -> str | Sequence[Sequence[Target]] | None:
    """The targets of one text as those of a list of one."""
    if isinstance(text, str) and targets is not None and not isinstance(targets, str):
        return [cast("Sequence[Target]", targets)]
    return cast("str | Sequence[Sequence[Target]] | None", targets)


def per_text(
    texts: Sequence[str], targets: str | Sequence[Sequence[Target]] | None
) -> list[list[Target]]:
    """The targets of each text: one word means that word in every text, None all words."""
    if targets is None:
        return [[] for _ in texts]
    if isinstance(targets, str):
        return [[targets] for _ in texts]
    if len(targets) != len(texts):
        raise invalid("targets", f"has {len(targets)} lists for {len(texts)} texts")
    return [[t] if isinstance(t, str) else list(t) for t in targets]


def _inputs(
    texts: Sequence[str], targets: Sequence[Sequence[Target]]
) -> list[encoder_pb2.WordsInput]:
    text_loads(texts)  # raises for what UTF-8 cannot carry, before protobuf does so less clearly
    return [
        encoder_pb2.WordsInput(
            text=text,
            targets=[target_message(t, f"targets[{i}][{j}]") for j, t in enumerate(wanted)],
        )
        for i, (text, wanted) in enumerate(zip(texts, targets, strict=True))
    ]


# One word at most: runs of letters, or one sign. Scripts without spaces count by the letter.
_WORD = re.compile(r"[぀-ヿ㐀-鿿가-힯฀-๿]|[^\W぀-ヿ㐀-鿿가-힯฀-๿]+|[^\w\s]")


def _words_loads(
    inputs: Sequence[encoder_pb2.WordsInput], known: ServerInfo, space: WordSpace | None
) -> Iterator[Load]:
    model = known.model
    dimensions = model.sense_dimensions if space == "sense" else model.dimensions
    vector_bytes = 4 * dimensions + ITEM_OVERHEAD_BYTES
    for item in inputs:
        count = len(item.targets) or sum(1 for _ in _WORD.finditer(item.text))
        yield Load(
            1,
            item.ByteSize() + ITEM_OVERHEAD_BYTES,
            count * vector_bytes + len(item.text),
            units=count,
        )


def _words_limit(known: ServerInfo) -> Load:
    texts = request_limit(known)
    return Load(texts.items, texts.send_bytes, texts.receive_bytes, known.limits.spans_max)


def _words_from(answer: encoder_pb2.EmbedWordsResponse) -> Iterator[list[Word]]:
    layers = tuple(answer.layers)
    fingerprint = fingerprint_from(answer.fingerprint)
    for result in answer.results:
        yield [
            Word(w.word, span_from(w.span), vector_array(w.vector), w.tokens, layers, fingerprint)
            for w in result.words
        ]


def tokens(
    budget: Budget,
    texts: Iterable[str],
    *,
    layers: Sequence[int] = (),
    normalize: bool = False,
    truncation: Truncation | None = None,
    priority: Priority | None = None,
) -> Plan[list[Tokens]]:
    """For each text its tokens, one state a token."""
    check_fields(layers=layers)
    inputs = texts_list(texts)
    template = encoder_pb2.EmbedTokensRequest(
        layers=layers,
        normalize=normalize,
        truncation=truncation_number(truncation),
        priority=priority_number(priority),
    )
    sent = text_loads(inputs)
    known = yield from known_info(budget)
    found: list[Tokens] = []
    loads = (_tokens_load(load, known) for load in sent)
    for start, piece in pieces(inputs, loads, request_limit(known)):
        request = encoder_pb2.EmbedTokensRequest(inputs=piece)
        request.MergeFrom(template)
        try:
            answer = yield from call(budget, methods.EMBED_TOKENS, request)
        except PolysemeError as error:
            raise renamed(error, {"inputs": "texts"}, start) from error
        found += _tokens_from(answer)
    return found


def _tokens_load(sent: Load, known: ServerInfo) -> Load:
    count = min(sent.units, known.model.tokens_max)
    state_bytes = 4 * known.model.dimensions + ITEM_OVERHEAD_BYTES
    return Load(1, sent.send_bytes, count * state_bytes, sent.units)


def _tokens_from(answer: encoder_pb2.EmbedTokensResponse) -> Iterator[Tokens]:
    layers = tuple(answer.layers)
    fingerprint = fingerprint_from(answer.fingerprint)
    for result in answer.results:
        yield Tokens(
            tokens=tuple(token_from(t) for t in result.tokens),
            states=matrix_array(result.states),
            layers=layers,
            count=tokens_from(result.count),
            fingerprint=fingerprint,
        )


def token_from(token: encoder_pb2.Token) -> Token:
    """A token as the server gave it."""
    span = span_from(token.span) if token.HasField("span") else None
    return Token(token.id, token.text, span, token.special)


def tokenize(
    budget: Budget, texts: Iterable[str], *, special_tokens: bool = True
) -> Plan[list[list[Token]]]:
    """For each text its tokens, without the model."""
    inputs = texts_list(texts)
    sent = text_loads(inputs)
    known = yield from known_info(budget)
    # A token with its text and span takes about a hundred bytes at most.
    loads = (Load(1, load.send_bytes, 100 * load.units, load.units) for load in sent)
    found: list[list[Token]] = []
    for start, piece in pieces(inputs, loads, request_limit(known)):
        request = encoder_pb2.TokenizeRequest(inputs=piece, special_tokens=special_tokens)
        try:
            answer = yield from call(budget, methods.TOKENIZE, request)
        except PolysemeError as error:
            raise renamed(error, {"inputs": "texts"}, start) from error
        found += [[token_from(t) for t in result.tokens] for result in answer.results]
    return found


def detokenize(
    budget: Budget, ids: Iterable[Sequence[int]], *, keep_special_tokens: bool = False
) -> Plan[list[str]]:
    """For each token sequence its text."""
    sequences = [encoder_pb2.TokenIds(ids=sequence) for sequence in ids]
    known = yield from known_info(budget)
    # A vocabulary's longest entries are words; 32 bytes a token is more than any text needs.
    loads = (
        Load(1, s.ByteSize() + ITEM_OVERHEAD_BYTES, 32 * len(s.ids), len(s.ids)) for s in sequences
    )
    found: list[str] = []
    for start, piece in pieces(sequences, loads, request_limit(known)):
        request = encoder_pb2.DetokenizeRequest(
            inputs=piece, keep_special_tokens=keep_special_tokens
        )
        try:
            answer = yield from call(budget, methods.DETOKENIZE, request)
        except PolysemeError as error:
            raise renamed(error, {"inputs": "ids"}, start) from error
        found += answer.texts
    return found
