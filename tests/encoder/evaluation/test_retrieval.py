import numpy as np
import pytest

from encoder.evaluation.data import RetrievalSet, read_retrieval_set
from encoder.evaluation.retrieval import best, dense_rankings, mean_ndcg, reduced, retrieval
from encoder.tokenizer import Tokenizer


@pytest.fixture
def subset(data):
    return read_retrieval_set(data / "retrieval" / "tiny")


def test_best_first_and_ties_in_their_order():
    assert best(np.array([0.1, 0.9, 0.5, 0.9], dtype=np.float32)).tolist() == [1, 3, 2, 0]


def test_every_way_is_scored_on_every_set(scripted, tokenizer_file, data):
    result = retrieval(scripted(Tokenizer(tokenizer_file)), data, column="test", limit=None)

    scores = {score.key: score.value for score in result.scores}
    ways = ("hybrid", "hybrid_by_ranks", "dense", "bm25")
    assert set(scores) == {f"retrieval.tiny.{way}" for way in ways}
    assert scores["retrieval.tiny.bm25"] > 50
    assert all(0 <= value <= 100 for value in scores.values())


def test_queries_and_documents_get_the_models_prompts(scripted, tokenizer_file, subset):
    prompted = scripted(Tokenizer(tokenizer_file))
    written_out = scripted(Tokenizer(tokenizer_file))
    written_out.prompts = {}
    by_hand = RetrievalSet(
        subset.name,
        {id: f"the {text}" for id, text in subset.documents.items()},
        {id: f"she {text}" for id, text in subset.queries.items()},
        subset.relevance,
    )

    assert dense_rankings(prompted, subset, "t") == dense_rankings(written_out, by_hand, "t")


def test_the_score_is_the_mean_of_queries(subset):
    assert mean_ndcg(subset, [["d0", "d1"], ["d3"]]) == pytest.approx(0.5)


def test_a_reduced_set_keeps_the_judged_documents(subset):
    small = reduced(subset, limit=1)

    assert list(small.queries) == ["q0"]
    assert set(small.documents) == {"d0", "d1", "d2"}  # both judged, and one other
    assert reduced(subset, None) is subset
