"""Semantic, lexical and hybrid search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polyseme import methods
from polyseme.batches import Load, pieces
from polyseme.document import Document, document_from
from polyseme.embedding import ITEM_OVERHEAD_BYTES, MESSAGE_OVERHEAD_BYTES, Embeddings
from polyseme.errors import PolysemeError, from_status, invalid, renamed
from polyseme.filters import Filter
from polyseme.plans import Plan, call
from polyseme.retry import Budget
from polyseme.service import known_info
from polyseme.v1 import search_pb2
from polyseme.vectors import (
    Fingerprint,
    Priority,
    Span,
    Timing,
    TokenCount,
    check_fields,
    choice,
    fingerprint_from,
    priority_number,
    put_vector,
    span_from,
    timing_from,
    tokens_from,
    utf8_bytes,
)
from polyseme.words import Target, target_message

SearchMode = Literal["dense", "lexical", "hybrid"]
Fusion = Literal["relative_score", "reciprocal_rank"]
HighlightKind = Literal["lexical", "semantic"]
_MODES = {
    "dense": search_pb2.SEARCH_MODE_DENSE,
    "lexical": search_pb2.SEARCH_MODE_LEXICAL,
    "hybrid": search_pb2.SEARCH_MODE_HYBRID,
}
_FUSIONS = {
    "relative_score": search_pb2.FUSION_RELATIVE_SCORE,
    "reciprocal_rank": search_pb2.FUSION_RECIPROCAL_RANK,
}
HITS_PER_REQUEST_MAX = 10_000  # of `search_many`: keeps an answer of 1 kB texts under 16 MiB


@dataclass(frozen=True, slots=True)
class Like:
    """A query: documents like this one; it is not among its own hits."""

    id: str


@dataclass(frozen=True, slots=True)
class WordIn:
    """A query: a word in a sentence, for collections of word vectors."""

    text: str
    target: Target


@dataclass(frozen=True, slots=True, eq=False)
class ByVector:
    """A query: a vector and the combined fingerprint of what made it."""

    vector: ArrayLike
    fingerprint: str = ""  # required where the server made the collection's vectors


# A text, a vector, or one of the above. One row of `embed` brings its fingerprint along.
Query: TypeAlias = "str | Like | WordIn | ByVector | Embeddings | NDArray[Any] | Sequence[float]"


class SearchOptions(TypedDict, total=False):
    """How to search; each may be left out."""

    mode: SearchMode  # default "dense": by meaning
    fusion: Fusion  # hybrid only: how its two lists become one; default "relative_score"
    dense_share: float | None  # of its relative scores, 0 to 1; default: the server's model's
    filter: Filter | None  # only documents that match
    k: int  # how many hits; default 10
    exact: bool  # compare with every vector instead of using the approximate index
    min_sequence: int  # see at least the write with this sequence
    highlight: bool  # say where the hits' texts match
    explain: bool  # say how the hits were scored
    ids_only: bool  # leave texts and metadata out
    with_vectors: bool  # send the hits' vectors
    score_min: float | None  # leave out lower scores; dense only
    lexical_text: str  # hybrid with a vector, document or word: the text for the lexical side
    translate_to: str  # send the hits' texts in this language too, such as "en"


@dataclass(frozen=True, slots=True)
class Highlight:
    """A place in a hit's text, and why it is shown."""

    span: Span
    kind: HighlightKind  # a word of the query, or the passage nearest in meaning
    score: float  # semantic: cosine of passage and query; lexical: 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """How a hit was scored; None where it was not on that list."""

    dense_score: float | None
    dense_rank: int | None  # 1 for the best
    lexical_score: float | None
    lexical_rank: int | None
    text: str


@dataclass(frozen=True, slots=True)
class HitTranslation:
    """A hit's text in another language."""

    text: str  # the text itself where it is in that language already
    source_language: str  # empty, and no text: none that the server translates


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A document found. Higher scores are better; ties are ordered by id."""

    document: Document
    score: float
    highlights: tuple[Highlight, ...]
    explanation: Explanation | None
    translation: HitTranslation | None  # with translate_to

    @property
    def id(self) -> str:
        """The document's."""
        return self.document.id

    @property
    def text(self) -> str:
        """The document's."""
        return self.document.text


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The hits, best first."""

    hits: tuple[Hit, ...]
    exhausted: bool  # fewer than k match: these are all
    sequence: int  # the write that this search saw last
    exact: bool  # every vector was compared
    fingerprint: Fingerprint | None
    tokens: TokenCount | None  # of the query; None without text
    timing: Timing

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, index: int) -> Hit:
        return self.hits[index]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)


def search(
    budget: Budget,
    collection: str,
    query: Query,
    *,
    priority: Priority | None = None,
    **options: Any,
) -> Plan[SearchResult]:
    """One query."""
    check_fields(collection=collection)
    request = search_pb2.SearchRequest(
        collection=collection,
        query=query_message(query, "query"),
        options=_options_message(**options),
        priority=priority_number(priority),
    )
    try:
        return _result_from((yield from call(budget, methods.SEARCH, request)))
    except PolysemeError as error:
        raise renamed(error, {}) from error


def search_many(
    budget: Budget,
    collection: str,
    queries: Sequence[Query],
    *,
    priority: Priority | None = None,
    **options: Any,
) -> Plan[list[SearchResult]]:
    """Several queries, answered in order."""
    check_fields(collection=collection)
    wanted = _options_message(**options)
    lane = priority_number(priority)
    messages = [query_message(q, f"queries[{i}]") for i, q in enumerate(queries)]
    limits = (yield from known_info(budget)).limits
    per_request = max(1, min(limits.inputs_max, HITS_PER_REQUEST_MAX // (wanted.k or 10)))
    limit = Load(
        per_request,
        limits.message_bytes_max - MESSAGE_OVERHEAD_BYTES,
        units=limits.call_tokens_max,
    )
    loads = (_load(message) for message in messages)
    found: list[SearchResult] = []
    for start, piece in pieces(messages, loads, limit):
        request = search_pb2.BatchSearchRequest(
            collection=collection, queries=piece, options=wanted, priority=lane
        )
        try:
            answer = yield from call(budget, methods.BATCH_SEARCH, request)
        except PolysemeError as error:
            raise renamed(error, {"queries": "queries"}, start) from error
        found += map(_one_from, answer.results)
    return found


def _load(query: search_pb2.SearchQuery) -> Load:
    tokens = len(query.text) or len(query.word.text)
    return Load(1, query.ByteSize() + ITEM_OVERHEAD_BYTES, units=tokens)


def query_message(query: Query, field: str) -> search_pb2.SearchQuery:
    """A query for the wire. Raises InvalidRequest for what is none."""
    match query:
        case str():
            utf8_bytes(query, field)
            return search_pb2.SearchQuery(text=query)
        case Like(id):
            utf8_bytes(id, f"{field}.id")
            return search_pb2.SearchQuery(document_id=id)
        case WordIn(text, target):
            utf8_bytes(text, f"{field}.text")
            target_ = target_message(target, f"{field}.target")
            return search_pb2.SearchQuery(word=search_pb2.WordInText(text=text, target=target_))
        case Embeddings(array=array, fingerprint=fingerprint):
            if len(array) != 1:
                raise invalid(field, f"holds {len(array)} vectors; a query is one of them")
            combined = fingerprint.combined if fingerprint else ""
            return _vector_query(array[0], combined, field)
        case ByVector(vector=vector, fingerprint=combined):
            return _vector_query(vector, combined, field)
    return _vector_query(query, "", field)


def _vector_query(vector: ArrayLike, fingerprint: str, field: str) -> search_pb2.SearchQuery:
    message = search_pb2.SearchQuery()
    put_vector(message.vector.vector, vector, field)
    utf8_bytes(fingerprint, f"{field}.fingerprint")
    message.vector.fingerprint = fingerprint
    return message


def _options_message(
    *,
    mode: SearchMode | None = None,
    fusion: Fusion | None = None,
    filter: Filter | None = None,
    k: int = 10,
    exact: bool = False,
    min_sequence: int = 0,
    highlight: bool = False,
    explain: bool = False,
    ids_only: bool = False,
    with_vectors: bool = False,
    score_min: float | None = None,
    lexical_text: str = "",
    translate_to: str = "",
    dense_share: float | None = None,
) -> search_pb2.SearchOptions:
    if k < 1:
        raise invalid("k", f"{k} is below 1")
    if not 0 <= min_sequence < 2**63:
        raise invalid("min_sequence", f"{min_sequence} is no sequence of a write")
    check_fields(lexical_text=lexical_text, translate_to=translate_to)
    message = search_pb2.SearchOptions(
        mode=choice("mode", mode, _MODES, search_pb2.SEARCH_MODE_UNSPECIFIED),
        fusion=choice("fusion", fusion, _FUSIONS, search_pb2.FUSION_UNSPECIFIED),
        k=min(k, np.iinfo(np.int32).max),
        exact=exact,
        min_sequence=min_sequence,
        highlight=highlight,
        explain=explain,
        ids_only=ids_only,
        with_vectors=with_vectors,
        lexical_text=lexical_text,
        translate_to=translate_to,
    )
    if filter is not None:
        message.filter.CopyFrom(filter.message())
    if score_min is not None:
        message.score_min = score_min
    if dense_share is not None:
        message.dense_share = dense_share
    return message


def _one_from(result: search_pb2.BatchSearchResult) -> SearchResult:
    if result.HasField("error"):
        raise from_status(result.error)
    return _result_from(result.response)


def _result_from(answer: search_pb2.SearchResponse) -> SearchResult:
    return SearchResult(
        hits=tuple(map(_hit_from, answer.hits)),
        exhausted=answer.exhausted,
        sequence=answer.sequence,
        exact=answer.exact,
        fingerprint=fingerprint_from(answer.fingerprint)
        if answer.HasField("fingerprint")
        else None,
        tokens=tokens_from(answer.tokens) if answer.HasField("tokens") else None,
        timing=timing_from(answer.timing),
    )


def _hit_from(hit: search_pb2.SearchHit) -> Hit:
    return Hit(
        document=document_from(hit.document),
        score=hit.score,
        highlights=tuple(map(_highlight_from, lit)) if (lit := hit.highlights) else (),
        explanation=_explanation_from(hit.explanation) if hit.HasField("explanation") else None,
        translation=HitTranslation(hit.translation.text, hit.translation.source_language)
        if hit.HasField("translation")
        else None,
    )


def _highlight_from(h: search_pb2.Highlight) -> Highlight:
    kind: HighlightKind = "lexical" if h.kind == search_pb2.HIGHLIGHT_KIND_LEXICAL else "semantic"
    return Highlight(span_from(h.span), kind, h.score)


def _explanation_from(e: search_pb2.Explanation) -> Explanation:
    return Explanation(
        dense_score=e.dense_score if e.HasField("dense_score") else None,
        dense_rank=e.dense_rank if e.HasField("dense_rank") else None,
        lexical_score=e.lexical_score if e.HasField("lexical_score") else None,
        lexical_rank=e.lexical_rank if e.HasField("lexical_rank") else None,
        text=e.text,
    )
