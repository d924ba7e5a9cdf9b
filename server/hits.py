"""Search results as messages: the documents, how they were scored, where they match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from index.documents import Hit, SearchMode, SearchResult
from index.spec import CollectionSpec
from polyseme.v1 import document_pb2, search_pb2
from server.documents import document_to
from server.embedder import Timings
from server.highlight import Highlight, HighlightKind
from server.messages import counts_to, fingerprint_to, span_to, timing_to
from server.queries import Sought
from server.recipes import fingerprint_of

_KINDS = {
    HighlightKind.LEXICAL: search_pb2.HIGHLIGHT_KIND_LEXICAL,
    HighlightKind.SEMANTIC: search_pb2.HIGHLIGHT_KIND_SEMANTIC,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a search's caller wants to see of its hits."""

    mode: SearchMode
    k: int
    score_min: float | None
    ids_only: bool
    with_vectors: bool
    explain: bool


def kept(result: SearchResult, sought: Sought, wanted: Wanted) -> list[Hit]:
    """The hits that the caller gets: not the query itself, at most k."""
    return [hit for hit in result.hits if hit.id != sought.excluded][: wanted.k]


def response_to(
    result: SearchResult,
    hits: Sequence[Hit],
    sought: Sought,
    wanted: Wanted,
    *,
    spec: CollectionSpec,
    highlights: Sequence[Sequence[Highlight]],
    highlighting: Timings,
) -> search_pb2.SearchResponse:
    """The answer to one query. highlights: of each of `hits`, or empty; highlighting: the time
    it took."""
    timings = sought.timings + highlighting + Timings(search_s=result.search_s)
    places = highlights or [()] * len(hits)
    response = search_pb2.SearchResponse(
        hits=[_hit_to(hit, wanted, spec, lit) for hit, lit in zip(hits, places, strict=True)],
        exhausted=len(hits) < wanted.k,
        sequence=result.sequence,
        exact=result.exact,
        timing=timing_to(timings),
    )
    made_by = sought.fingerprint or (fingerprint_of(spec) if wanted.with_vectors else None)
    if made_by is not None:
        response.fingerprint.CopyFrom(fingerprint_to(made_by))
    if sought.counts is not None:
        response.tokens.CopyFrom(counts_to(sought.counts))
    return response


def _hit_to(
    hit: Hit, wanted: Wanted, spec: CollectionSpec, highlights: Sequence[Highlight]
) -> search_pb2.SearchHit:
    message = search_pb2.SearchHit(
        document=_document_to(hit, wanted, spec),
        score=hit.score,
        highlights=[
            search_pb2.Highlight(
                span=span_to(place.span), kind=_KINDS[place.kind], score=place.score
            )
            for place in highlights
        ],
    )
    if wanted.explain:
        message.explanation.CopyFrom(_explanation(hit))
    return message


def _document_to(hit: Hit, wanted: Wanted, spec: CollectionSpec) -> document_pb2.Document:
    if hit.document is None:
        return document_pb2.Document(id=hit.id)
    document = document_to(hit.document, spec)
    if wanted.ids_only:
        document.ClearField("text")
        document.ClearField("metadata")
    return document


def _explanation(hit: Hit) -> search_pb2.Explanation:
    explanation = search_pb2.Explanation(text=explained(hit))
    for name in ("dense_score", "dense_rank", "lexical_score", "lexical_rank"):
        value = getattr(hit, name)
        if value is not None:
            setattr(explanation, name, value)
    return explanation


def explained(hit: Hit) -> str:
    """How `hit` came by its score, in words."""
    sides = []
    if hit.dense_rank is not None:
        found = f"number {hit.dense_rank} by meaning ({hit.dense_score:.4f})"
        sides.append(found + _part(hit.dense_part))
    if hit.lexical_rank is not None:
        found = f"number {hit.lexical_rank} by words (BM25 {hit.lexical_score:.4f})"
        sides.append(found + _part(hit.lexical_part))
    return ", ".join(sides) + (f", in all {hit.score:.5f}" if len(sides) > 1 else "")


def _part(part: float | None) -> str:
    return "" if part is None else f" gives {part:.5f}"
