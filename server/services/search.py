"""SearchService: one query, or several against one collection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from google.rpc import status_pb2

import server.store_errors  # noqa: F401  puts the index's errors into the table
from index.collection import Collection
from index.documents import Fusion, Hit, Query, SearchMode, SearchResult
from index.errors import SequenceNotReached
from index.filter import Filter
from index.fusion import DENSE_SHARE
from index.spec import CollectionSpec
from index.store import Store
from polyseme.v1 import search_pb2, search_pb2_grpc
from server.call import request_id
from server.embedder import Embedder, Lane, Timings
from server.errors import LimitExceeded, RequestInvalid, status_of
from server.filters import filter_from
from server.highlight import Highlight, lexical_highlights, semantic_highlights
from server.hits import Wanted, kept, put_response
from server.limits import check_count
from server.messages import lane_from
from server.queries import Asked, Resolver, Sought
from server.recipes import can_highlight
from server.settings import Settings
from server.threads import in_thread
from server.translated_hits import plan_from, translate_hits
from server.translating import Translating

K = 10  # hits where the caller does not say how many
HIGHLIGHTED_HITS_MAX = 100  # of a call: each costs the model up to 1,000 tokens

_MODES = {
    search_pb2.SEARCH_MODE_UNSPECIFIED: SearchMode.DENSE,
    search_pb2.SEARCH_MODE_DENSE: SearchMode.DENSE,
    search_pb2.SEARCH_MODE_LEXICAL: SearchMode.LEXICAL,
    search_pb2.SEARCH_MODE_HYBRID: SearchMode.HYBRID,
}
_FUSIONS = {
    search_pb2.FUSION_UNSPECIFIED: Fusion.RELATIVE_SCORE,
    search_pb2.FUSION_RECIPROCAL_RANK: Fusion.RECIPROCAL_RANK,
    search_pb2.FUSION_RELATIVE_SCORE: Fusion.RELATIVE_SCORE,
}

# Of one query: each hit's highlights, none at all where nobody asked; and the time they took.
Highlighted = tuple[Sequence[Sequence[Highlight]], Timings]
_UNLIT: Highlighted = ((), Timings())


@dataclass(frozen=True, slots=True)
class Options:
    """SearchOptions, checked."""

    wanted: Wanted
    fusion: Fusion
    dense_share: float | None  # None: what suits the collection
    filter: Filter | None
    lexical_text: str
    exact: bool
    min_sequence: int
    highlight: bool
    translate_to: str


class SearchService(search_pb2_grpc.SearchServiceServicer):
    """Parse, resolve the queries to vectors, ask the collection, answer."""

    def __init__(
        self,
        embedder: Embedder,
        store: Store,
        settings: Settings,
        executor: Executor,
        translating: Translating | None = None,
    ) -> None:
        self._translating = translating
        self._embedder = embedder
        self._dense_share = embedder.encoder.dense_share
        self._store = store
        self._settings = settings
        self._executor = executor
        self._resolver = Resolver(embedder, settings, store.settings, executor)

    async def Search(
        self, request: search_pb2.SearchRequest, context: object
    ) -> search_pb2.SearchResponse:
        options = options_from(request.options, 1, self._settings)
        lane = lane_from(request.priority, Lane.INTERACTIVE)
        collection = await self._collection(request.collection, options)
        asked = [Asked(request.query, "query")]
        sought = await self._resolve(collection, asked, options, lane)
        response = search_pb2.SearchResponse()
        await self._answer(collection, sought, options, lane, [response])
        return response

    async def BatchSearch(
        self, request: search_pb2.BatchSearchRequest, context: object
    ) -> search_pb2.BatchSearchResponse:
        if not request.queries:
            raise RequestInvalid("queries", "give at least one")
        check_count("queries", len(request.queries), self._settings.inputs_max, "queries")
        options = options_from(request.options, len(request.queries), self._settings)
        lane = lane_from(request.priority, Lane.INTERACTIVE)
        collection = await self._collection(request.collection, options)
        asked = [Asked(query, f"queries[{i}]") for i, query in enumerate(request.queries)]
        if request.partial_success:
            found = await self._resolve_each(collection, asked, options, lane)
        else:
            found = list(await self._resolve(collection, asked, options, lane))
        answerable = [one for one in found if isinstance(one, Sought)]
        reply = search_pb2.BatchSearchResponse()
        responses = []
        for one in found:
            result = reply.results.add()
            if isinstance(one, Sought):
                result.response.SetInParent()
                responses.append(result.response)
            else:
                result.error.CopyFrom(one)
        await self._answer(collection, answerable, options, lane, responses)
        return reply

    async def _collection(self, name: str, options: Options) -> Collection:
        """Raises CollectionNotFound; SequenceNotReached for a write that never happened."""
        collection = self._store.collection_at_hand(name)
        if collection is None:
            collection = await in_thread(self._executor, self._store.collection, name)
        # A write is visible before it is answered, so nobody can know of one that is not here.
        if options.min_sequence > collection.sequence:
            raise SequenceNotReached(options.min_sequence, collection.sequence)
        return collection

    async def _resolve(
        self, collection: Collection, asked: Sequence[Asked], options: Options, lane: Lane
    ) -> Sequence[Sought]:
        return await self._resolver.resolve(
            collection, asked, options.wanted.mode, options.lexical_text, lane
        )

    async def _resolve_each(
        self, collection: Collection, asked: Sequence[Asked], options: Options, lane: Lane
    ) -> list[Sought | status_pb2.Status]:
        """With a status for each that cannot be answered."""
        found = await self._resolver.resolve_each(
            collection, asked, options.wanted.mode, options.lexical_text, lane
        )
        return [one if isinstance(one, Sought) else status_of(one, request_id()) for one in found]

    async def _answer(
        self,
        collection: Collection,
        sought: Sequence[Sought],
        options: Options,
        lane: Lane,
        responses: Sequence[search_pb2.SearchResponse],
    ) -> None:
        """Fill the empty `responses`, one for each of `sought`."""
        if not sought:
            return
        asked = options.wanted.k * len(sought)  # what is too much is refused before any work
        plan = plan_from(options.translate_to, asked, self._translating)
        share = share_of(options.dense_share, collection.spec, self._dense_share)
        queries = [query_of(one, options, share) for one in sought]
        put = partial(_put_responses, responses, sought, wanted=options.wanted)

        def found() -> tuple[list[SearchResult], list[list[Hit]]]:
            results = collection.search_batch(queries)
            hits = [
                kept(result, one, options.wanted)
                for result, one in zip(results, sought, strict=True)
            ]
            if not options.highlight:  # all in one visit to the thread
                put(results, hits, [_UNLIT] * len(hits), spec=collection.spec)
            return results, hits

        results, hits = await in_thread(self._executor, found)
        if options.highlight:
            highlighted = await asyncio.gather(
                *(
                    self._highlights(collection, one, found, lane)
                    for one, found in zip(sought, hits, strict=True)
                )
            )
            lit = partial(put, results, hits, highlighted, spec=collection.spec)
            await in_thread(self._executor, lit)
        if plan is not None and self._translating is not None:
            await translate_hits(self._translating, plan, responses, hits, lane)

    async def _highlights(
        self,
        collection: Collection,
        sought: Sought,
        hits: Sequence[Hit],
        lane: Lane,
    ) -> Highlighted:
        """Of each hit: passages near the query in meaning, then words of the query.

        There are passages only where the query's vector is one that the loaded model makes of
        texts: not for external vectors, and not after another model was loaded.
        """
        found: list[list[Highlight]] = [[] for _ in hits]
        timings = Timings()
        texts = [hit.document.text if hit.document else "" for hit in hits]
        if sought.vector is not None and can_highlight(collection.spec, self._embedder):
            found, timings = await semantic_highlights(self._embedder, texts, sought.vector, lane)
        if sought.text is not None:
            words = await in_thread(self._executor, _words_in, sought.text, texts)
            found = [[*near, *same] for near, same in zip(found, words, strict=True)]
        return found, timings


def options_from(options: search_pb2.SearchOptions, queries: int, settings: Settings) -> Options:
    """Checked and filled in. Raises RequestInvalid, LimitExceeded."""
    mode = _MODES.get(options.mode)
    if mode is None:
        raise RequestInvalid("options.mode", f"{options.mode} is no known value")
    fusion = _FUSIONS.get(options.fusion)
    if fusion is None:
        raise RequestInvalid("options.fusion", f"{options.fusion} is no known value")
    if options.min_sequence < 0:
        raise RequestInvalid("options.min_sequence", f"{options.min_sequence} is negative")
    if options.HasField("score_min") and mode is not SearchMode.DENSE:
        raise RequestInvalid("options.score_min", f"a {mode} search's scores have no such scale")
    share = options.dense_share if options.HasField("dense_share") else None
    if share is not None and not (mode is SearchMode.HYBRID and fusion is Fusion.RELATIVE_SCORE):
        problem = "only a hybrid search by relative scores has shares"
        raise RequestInvalid("options.dense_share", problem)
    if share is not None and not 0 <= share <= 1:
        raise RequestInvalid("options.dense_share", f"{share:g} is not between 0 and 1")
    wanted = Wanted(
        mode=mode,
        k=k_from(options.k, settings),
        score_min=options.score_min if options.HasField("score_min") else None,
        ids_only=options.ids_only,
        with_vectors=options.with_vectors,
        explain=options.explain,
    )
    if wanted.k * queries > settings.hits_max:
        hits = wanted.k * queries
        raise LimitExceeded("options.k", hits, settings.hits_max, "hits of all queries")
    if options.highlight and wanted.k * queries > HIGHLIGHTED_HITS_MAX:
        raise LimitExceeded(
            "options.k", wanted.k * queries, HIGHLIGHTED_HITS_MAX, "hits with highlights"
        )
    return Options(
        wanted=wanted,
        fusion=fusion,
        dense_share=share,
        filter=_filter_from(options, settings),
        lexical_text=options.lexical_text,
        exact=options.exact,
        min_sequence=options.min_sequence,
        highlight=options.highlight,
        translate_to=options.translate_to,
    )


def k_from(k: int, settings: Settings) -> int:
    """0 is the default. Raises RequestInvalid, LimitExceeded."""
    if k < 0:
        raise RequestInvalid("options.k", f"{k} is negative")
    check_count("options.k", k, settings.k_max, "hits")
    return k or min(K, settings.k_max)


def share_of(asked: float | None, spec: CollectionSpec, suits_model: float) -> float:
    """The dense side's of a hybrid score: what suits the model, unless the caller says; of the
    callers' own vectors the model knows nothing."""
    if asked is not None:
        return asked
    return suits_model if spec.embedding else DENSE_SHARE


def query_of(sought: Sought, options: Options, share: float) -> Query:
    """What the index is asked. A document finds itself, so one more hit than wanted is.

    share: the dense side's of a hybrid score
    """
    wanted = options.wanted
    return Query(
        mode=wanted.mode,
        fusion=options.fusion,
        dense_share=share,
        vector=sought.vector,
        text=sought.text,
        filter=options.filter,
        k=wanted.k + (sought.excluded is not None),
        exact=options.exact,
        min_sequence=options.min_sequence,
        score_min=wanted.score_min,
        with_documents=not wanted.ids_only
        or wanted.with_vectors
        or options.highlight
        or bool(options.translate_to),
        with_vectors=wanted.with_vectors,
    )


def _filter_from(options: search_pb2.SearchOptions, settings: Settings) -> Filter | None:
    if not options.HasField("filter"):
        return None
    return filter_from(options.filter, "options.filter", settings)


def _words_in(query: str, texts: Sequence[str]) -> list[list[Highlight]]:
    return [lexical_highlights(query, text) for text in texts]


def _put_responses(
    responses: Sequence[search_pb2.SearchResponse],
    sought: Sequence[Sought],
    results: Sequence[SearchResult],
    hits: Sequence[Sequence[Hit]],
    highlighted: Sequence[Highlighted],
    *,
    wanted: Wanted,
    spec: CollectionSpec,
) -> None:
    every = zip(responses, results, hits, sought, highlighted, strict=True)
    for response, result, found, one, (highlights, timings) in every:
        put_response(
            response,
            result,
            found,
            one,
            wanted,
            spec=spec,
            highlights=highlights,
            highlighting=timings,
        )
