"""Search judged: dense vectors, BM25, and the fusion of both, by nDCG@10 on BEIR-shaped sets."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder.evaluation.bm25 import K1, B, Bm25
from encoder.evaluation.data import RetrievalSet, read_retrieval_set, retrieval_folders
from encoder.evaluation.result import Score, TaskResult
from encoder.evaluation.scores import RRF_K, fuse, ndcg
from encoder.evaluation.vectors import Subject, embed

HITS_MAX = 100  # of each side, before fusion

# sentence-transformers' names for what a model wants written before a question or a passage.
_QUERY_PROMPTS = ("query",)
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


def retrieval(subject: Subject, data: Path, *, column: str, limit: int | None) -> TaskResult:
    """nDCG@10 on every set of `data`/retrieval. Raises DataMissing, DataMalformed."""
    scores = []
    for folder in retrieval_folders(data):
        subset = reduced(read_retrieval_set(folder), limit)
        dense, lexical = dense_rankings(subject, subset, column), lexical_rankings(subset)
        hybrid = [fuse(pair) for pair in zip(dense, lexical, strict=True)]
        for way, rankings in (("hybrid", hybrid), ("dense", dense), ("bm25", lexical)):
            score = mean_ndcg(subset, rankings)
            label = f"{subset.name}, {way}, nDCG@10"
            scores.append(Score(f"retrieval.{subset.name}.{way}", label, 100 * score))
    note = (
        f"Retrieval: {HITS_MAX} hits a side; hybrid is reciprocal-rank fusion with k = {RRF_K}; "
        f"BM25 has k1 = {K1}, b = {B}, no stemming and no stop words."
    )
    return TaskResult(scores, [note])


def dense_rankings(subject: Subject, subset: RetrievalSet, column: str) -> list[list[str]]:
    """For each query the ids of the nearest documents by cosine, best first."""
    ids = list(subset.documents)
    documents = embed(
        subject,
        list(subset.documents.values()),
        label=f"{subset.name} documents, {column}",
        prompt=_prompt(subject, _DOCUMENT_PROMPTS),
    )
    queries = embed(
        subject,
        list(subset.queries.values()),
        label=f"{subset.name} queries, {column}",
        prompt=_prompt(subject, _QUERY_PROMPTS),
    )
    return [[ids[row] for row in best(documents @ query)] for query in queries]


def lexical_rankings(subset: RetrievalSet) -> list[list[str]]:
    """For each query the ids of BM25's best documents, best first."""
    ids = list(subset.documents)
    index = Bm25(list(subset.documents.values()))
    return [[ids[row] for row in index.search(text, HITS_MAX)] for text in subset.queries.values()]


def best(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """The rows of the highest scores, best first, ties in their order."""
    return np.argsort(-scores, kind="stable")[:HITS_MAX]


def mean_ndcg(subset: RetrievalSet, rankings: Sequence[Sequence[str]]) -> float:
    """The mean over queries, each counting once."""
    judged = zip(subset.queries, rankings, strict=True)
    return float(np.mean([ndcg(ranking, subset.relevance[query]) for query, ranking in judged]))


def reduced(subset: RetrievalSet, limit: int | None) -> RetrievalSet:
    """The first `limit` queries, with their judged documents and the first `limit` others."""
    if limit is None:
        return subset
    queries = dict(list(subset.queries.items())[:limit])
    judged = {document for query in queries for document in subset.relevance[query]}
    others = [document for document in subset.documents if document not in judged][:limit]
    kept: Callable[[str], bool] = (judged | set(others)).__contains__
    documents = {id: text for id, text in subset.documents.items() if kept(id)}
    return replace(subset, queries=queries, documents=documents)


def _prompt(subject: Subject, names: Sequence[str]) -> str:
    return next((subject.prompts[name] for name in names if name in subject.prompts), "")
