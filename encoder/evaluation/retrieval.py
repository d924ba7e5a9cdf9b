"""Search judged: dense vectors, BM25, and the fusion of both, by nDCG@10 on BEIR-shaped sets."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from encoder.evaluation.bm25 import K1, B, Bm25
from encoder.evaluation.data import RetrievalSet, read_retrieval_set, retrieval_folders
from encoder.evaluation.result import Score, TaskResult
from encoder.evaluation.scores import RRF_K, fuse, fuse_scores, ndcg
from encoder.evaluation.vectors import Subject, embed

Ranking: TypeAlias = list[tuple[str, float]]  # ids with scores, best first

HITS_MAX = 100  # of each side, before fusion

# sentence-transformers' names for what a model wants written before a question or a passage.
QUERY_PROMPTS = ("query",)
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


def retrieval(subject: Subject, data: Path, *, column: str, limit: int | None) -> TaskResult:
    """nDCG@10 on every set of `data`/retrieval. Raises DataMissing, DataMalformed."""
    scores = []
    for folder in retrieval_folders(data):
        subset = reduced(read_retrieval_set(folder), limit)
        near, same = dense_rankings(subject, subset, column), lexical_rankings(subset)
        pairs = list(zip(near, same, strict=True))
        dense, lexical = ([ids_of(ranking) for ranking in side] for side in (near, same))
        hybrid = [fuse_scores(*pair, subject.dense_share) for pair in pairs]
        by_ranks = [fuse([ids_of(ranking) for ranking in pair]) for pair in pairs]
        for way, rankings in (
            ("hybrid", hybrid),
            ("hybrid by ranks", by_ranks),
            ("dense", dense),
            ("bm25", lexical),
        ):
            score = mean_ndcg(subset, rankings)
            label = f"{subset.name}, {way}, nDCG@10"
            key = f"retrieval.{subset.name}.{way.replace(' ', '_')}"
            scores.append(Score(key, label, 100 * score))
    note = (
        f"Retrieval: {HITS_MAX} hits a side; hybrid adds {subject.dense_share:g} of the relative "
        f"similarity to {1 - subject.dense_share:g} of the relative BM25 score, as the server does "
        "(chosen on these sets, see bench/fusion.py); by ranks it is "
        f"reciprocal-rank fusion with k = {RRF_K}; BM25 has k1 = {K1}, b = {B}, no stemming and "
        "no stop words."
    )
    return TaskResult(scores, [note])


def dense_rankings(subject: Subject, subset: RetrievalSet, column: str) -> list[Ranking]:
    """For each query the nearest documents by cosine, best first."""
    ids = list(subset.documents)
    documents = embed(
        subject,
        list(subset.documents.values()),
        label=f"{subset.name} documents, {column}",
        prompt=prompt_of(subject, DOCUMENT_PROMPTS),
    )
    queries = embed(
        subject,
        list(subset.queries.values()),
        label=f"{subset.name} queries, {column}",
        prompt=prompt_of(subject, QUERY_PROMPTS),
    )
    every = (documents @ query for query in queries)
    return [[(ids[row], float(scores[row])) for row in best(scores)] for scores in every]


def lexical_rankings(subset: RetrievalSet) -> list[Ranking]:
    """For each query BM25's best documents, best first."""
    ids = list(subset.documents)
    index = Bm25(list(subset.documents.values()))
    return [
        [(ids[row], score) for row, score in index.search(text, HITS_MAX)]
        for text in subset.queries.values()
    ]


def ids_of(ranking: Ranking) -> list[str]:
    """The ids alone."""
    return [id for id, _ in ranking]


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


def prompt_of(subject: Subject, names: Sequence[str]) -> str:
    """The first prompt that the model has by one of these names; empty for none."""
    return next((subject.prompts[name] for name in names if name in subject.prompts), "")
