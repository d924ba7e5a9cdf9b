"""One search over one view: dense, lexical or both, filtered, ranked the same way every time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.bm25 import read_totals, scored
from index.dense import Ranked, nearest, nearest_exactly
from index.documents import Fusion, Hit, Query, SearchMode, SearchResult
from index.filter import Filter, matches
from index.filter_sql import rows_sql
from index.fusion import fused, reciprocal_ranks, relative_bm25, relative_similarities
from index.lexical import query_words
from index.reading import View
from index.room import Room
from index.settings import StoreSettings

FUSED_MIN = 100  # each list that is fused is at least so deep
FUSED_FACTOR = 4  # and so many times k
WIDENED_MAX = 4_096  # candidates looked at before a filtered search becomes an exact one


class Scored(NamedTuple):
    """A document that one side found. A tuple, for the reason of `Hit`."""

    row: int
    id: str
    score: float


@dataclass(frozen=True, slots=True)
class Side:
    """What one side found, best first; `candidates`: how many it looked at closely."""

    found: list[Scored]
    candidates: int
    exact: bool


NO_SIDE = Side([], 0, exact=True)


class Search:
    """One query on one view; `vector` is as the collection stores vectors, `room` what the
    answer may hold, which may be one of several queries' answer."""

    def __init__(
        self,
        view: View,
        query: Query,
        vector: NDArray[np.float32] | None,
        settings: StoreSettings,
        room: Room,
    ) -> None:
        self._view = view
        self._query = query
        self._vector = vector
        self._settings = settings
        self._room = room

    def run(
        self, ranked: Ranked | None = None, ids: Mapping[int, str] | None = None
    ) -> SearchResult:
        """ranked: the dense side's answer, where a batch found it already; ids: of its rows"""
        k = self._query.k
        dense, lexical = NO_SIDE, NO_SIDE
        match self._query.mode:
            case SearchMode.DENSE:
                dense = self._dense(k, ranked, ids)
                hits = self._single(dense, is_dense=True)
            case SearchMode.LEXICAL:
                lexical = self._lexical(k)
                hits = self._single(lexical, is_dense=False)
            case SearchMode.HYBRID:
                depth = max(FUSED_MIN, FUSED_FACTOR * k)
                dense, lexical = self._dense(depth), self._lexical(depth)
                hits = self._fused(dense.found, lexical.found)
        return SearchResult(
            hits=tuple(self._with_documents(self._good_enough(hits))),
            sequence=self._view.generation.sequence,
            exhausted=len(hits) < k,
            exact=dense.exact,
            candidates=dense.candidates + lexical.candidates,
            search_s=0.0,
        )

    def _single(self, side: Side, *, is_dense: bool) -> list[tuple[int, Hit]]:
        ranked = enumerate(side.found, start=1)
        if is_dense:
            return [
                (row, Hit(id=id, score=score, dense_score=score, dense_rank=rank))
                for rank, (row, id, score) in ranked
            ]
        return [
            (row, Hit(id=id, score=score, lexical_score=score, lexical_rank=rank))
            for rank, (row, id, score) in ranked
        ]

    def _fused(self, dense: list[Scored], lexical: list[Scored]) -> list[tuple[int, Hit]]:
        near = [(found.id, found.score) for found in dense]
        same = [(found.id, found.score) for found in lexical]
        if self._query.fusion is Fusion.RECIPROCAL_RANK:
            dense_parts, lexical_parts = reciprocal_ranks(near), reciprocal_ranks(same)
        else:
            share = self._query.dense_share
            dense_parts = relative_similarities(near, share)
            lexical_parts = relative_bm25(same, 1 - share)
        scores = fused(dense_parts, lexical_parts)
        # By falling score; reversed or not, a sort leaves equal ones as they stood: by rising id.
        best = sorted(sorted(scores), key=scores.__getitem__, reverse=True)[: self._query.k]
        hits = {
            id: Hit(
                id=id,
                score=scores[id],
                dense_part=dense_parts.get(id),
                lexical_part=lexical_parts.get(id),
            )
            for id in best
        }
        rows = {}
        for rank, found in enumerate(dense, start=1):
            if hit := hits.get(found.id):
                rows[found.id] = found.row
                hits[found.id] = hit._replace(dense_score=found.score, dense_rank=rank)
        for rank, found in enumerate(lexical, start=1):
            if hit := hits.get(found.id):
                rows[found.id] = found.row
                hits[found.id] = hit._replace(lexical_score=found.score, lexical_rank=rank)
        return [(rows[id], hit) for id, hit in hits.items()]

    # The dense side

    def _dense(
        self, k: int, ranked: Ranked | None = None, ids: Mapping[int, str] | None = None
    ) -> Side:
        assert self._vector is not None
        exact = self._query.exact
        if ranked is None and self._query.filter is not None:
            ranked, exact = self._filtered(self._query.filter, k, self._vector)
        elif ranked is None and exact:
            ranked = nearest_exactly(self._view.generation, self._vector, k)
        elif ranked is None:
            ranked = nearest(self._view.generation, self._vector, k, self._settings)
        rows, scores = ranked[0].tolist(), ranked[1].tolist()
        known = self._view.reader.ids(rows) if ids is None else ids
        pairs = zip(rows, scores, strict=True)
        found = [Scored(row, known[row], score) for row, score in pairs]
        if len(set(scores)) < len(scores):  # ties, which are ordered by row so far
            found.sort(key=lambda scored: (-scored.score, scored.id))
        return Side(found[:k], len(rows), exact or self._all_exact())

    def _all_exact(self) -> bool:
        return not any(segment.live for segment in self._view.generation.segments)

    def _filtered(self, filter: Filter, k: int, vector: NDArray[np.float32]) -> tuple[Ranked, bool]:
        """The k nearest that pass, and whether every one that passes was compared.

        A filter that passes few is answered by comparing all of these. One that passes many is
        checked on the nearest candidates, more and more of them, until k have passed.
        """
        limit = -1 if self._query.exact else self._settings.filtered_exact_max + 1
        allowed = self._allowed(filter, limit)
        if limit < 0 or len(allowed) < limit:
            return nearest_exactly(self._view.generation, vector, k, allowed), True
        verdicts: dict[int, bool] = {}
        wanted = 4 * k
        while wanted <= WIDENED_MAX:
            rows, scores = nearest(self._view.generation, vector, wanted, self._settings)
            passed = self._passed(rows, filter, verdicts)
            if np.count_nonzero(passed) >= k:
                return (rows[passed], scores[passed]), False
            wanted *= 4
        allowed = self._allowed(filter, -1)
        return nearest_exactly(self._view.generation, vector, k, allowed), True

    def _allowed(self, filter: Filter, limit: int) -> NDArray[np.int64]:
        sql, parameters = rows_sql(filter)
        select = f"SELECT row AS n FROM ({sql}) LIMIT ?"
        return np.sort(self._view.reader.numbers(select, (*parameters, limit)))

    def _passed(
        self, rows: NDArray[np.int64], filter: Filter, verdicts: dict[int, bool]
    ) -> NDArray[np.bool_]:
        """Which of `rows` pass; verdicts: those that are known, and then these too."""
        unknown = [row for row in rows.tolist() if row not in verdicts]
        for row, record in self._view.reader.by_rows(unknown).items():
            verdicts[row] = matches(filter, json.loads(record.metadata))
        return np.array([verdicts[row] for row in rows.tolist()], np.bool_)

    # The lexical side

    def _lexical(self, k: int) -> Side:
        """The k best by bm25. Very common words count only when the others find too little: they
        say little, and ranking all that has them takes most of the time. Beside a dense side,
        which has hits of its own, one found by its telling words is enough."""
        words = query_words(self._query.text or "", self._settings.query_terms_max)
        telling = self._without_common(words)
        found = self._ranked(telling, k)
        enough = k if self._query.mode is SearchMode.LEXICAL else 1
        if len(found) < enough and len(telling) < len(words):
            found = self._ranked(words, k)
        return Side(found, len(found), exact=True)

    def _without_common(self, words: list[str]) -> list[str]:
        documents = self._view.generation.live
        if documents < self._settings.common_words_documents_min:
            return words
        frequent = self._settings.common_words_share * documents
        lexicon, reader = self._view.generation.lexicon, self._view.reader
        return [word for word in words if lexicon.count(reader, word) < frequent]

    def _ranked(self, words: list[str], k: int) -> list[Scored]:
        rows, scores = self._matches(words)
        if len(rows) and self._query.filter is not None:
            passed = np.isin(rows, self._allowed(self._query.filter, -1))
            rows, scores = rows[passed], scores[passed]
        if len(rows) > k:  # ties at the k-th place are kept, so that they can be ordered by id
            kept = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
            rows, scores = rows[kept], scores[kept]
        score_of = dict(zip(rows.tolist(), scores.tolist(), strict=True))
        living = self._view.generation.living(rows).tolist()  # FTS5's tables are only derived
        ids = self._view.reader.ids(living)
        found = [Scored(row, ids[row], score_of[row]) for row in living]
        return sorted(found, key=lambda scored: (-scored.score, scored.id))[:k]

    def _matches(self, words: list[str]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The rows, rising, that have any of `words`, and their bm25."""
        view = self._view
        every = (view.generation.lexicon.postings(view.reader, word) for word in words)
        known = (postings for postings in every if len(postings.rows))
        first = next(known, None)
        if first is None:
            return np.empty(0, np.int64), np.empty(0)
        totals = read_totals(view.reader)
        # One after the other, so that those of all words need not be in memory at once.
        return scored(
            (
                (postings, view.lengths.of(view.reader, postings.rows, totals.texts))
                for postings in chain([first], known)
            ),
            totals,
        )

    def _good_enough(self, hits: list[tuple[int, Hit]]) -> list[tuple[int, Hit]]:
        score_min = self._query.score_min
        if score_min is None:
            return hits
        return [(row, hit) for row, hit in hits if float(np.float32(hit.score)) >= score_min]

    def _with_documents(self, hits: list[tuple[int, Hit]]) -> list[Hit]:
        if not self._query.with_documents:
            return [hit for _, hit in hits]
        rows = [row for row, _ in hits]
        reader = self._view.reader
        records = reader.by_rows(rows, self._room.holding)
        vectors = {}
        if self._query.with_vectors:
            self._room.take_vectors(len(rows), reader.dimensions)
            vectors = reader.vectors(rows)
        return [hit._replace(document=records[row].stored(vectors.get(row))) for row, hit in hits]
