"""Search results as messages: the documents, how they were scored, where they match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from index.documents import Hit, SearchMode, SearchResult
from index.spec import CollectionSpec
from polyseme.v1 import search_pb2
from server.documents import put_document
from server.embedder import Timings
from server.highlight import Highlight, HighlightKind
from server.messages import fingerprint_to, put_counts, put_timing, span_to
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


def put_response(
    into: search_pb2.SearchResponse,
    result: SearchResult,
    hits: Sequence[Hit],
    sought: Sought,
    wanted: Wanted,
    *,
    spec: CollectionSpec,
    highlights: Sequence[Sequence[Highlight]],
    highlighting: Timings,
) -> None:
    """The answer to one query, into an empty message: given to another, a message is written and
    read again, at each depth. highlights: of each of `hits`, or empty; highlighting: the time it
    took."""
    places = highlights or [()] * len(hits)
    add = into.hits.add
    for hit, lit in zip(hits, places, strict=True):
        _put_hit(add(), hit, wanted, spec, lit)
    into.exhausted = len(hits) < wanted.k
    into.sequence = result.sequence
    into.exact = result.exact
    put_timing(into.timing, sought.timings + highlighting)
    into.timing.search_s += result.search_s
    made_by = sought.fingerprint or (fingerprint_of(spec) if wanted.with_vectors else None)
    if made_by is not None:
        into.fingerprint.CopyFrom(fingerprint_to(made_by))
    if sought.counts is not None:
        put_counts(into.tokens, sought.counts)


def _put_hit(
    into: search_pb2.SearchHit,
    hit: Hit,
    wanted: Wanted,
    spec: CollectionSpec,
    highlights: Sequence[Highlight],
) -> None:
    into.score = hit.score
    if hit.document is None:
        into.document.id = hit.id
    else:
        put_document(into.document, hit.document, spec, with_content=not wanted.ids_only)
    for place in highlights:
        lit = into.highlights.add()
        lit.span.CopyFrom(span_to(place.span))
        lit.kind = _KINDS[place.kind]
        lit.score = place.score
    if wanted.explain:
        _put_explanation(into.explanation, hit)


def _put_explanation(into: search_pb2.Explanation, hit: Hit) -> None:
    into.text = explained(hit)
    for name in ("dense_score", "dense_rank", "lexical_score", "lexical_rank"):
        value = getattr(hit, name)
        if value is not None:
            setattr(into, name, value)


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
