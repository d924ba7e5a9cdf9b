import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import f1_score, ndcg_score

from encoder.evaluation.scores import (
    accuracy,
    fuse,
    fuse_scores,
    macro_f1,
    mining_f1,
    ndcg,
    ranks,
    spearman,
)
from index.fusion import fused, relative_bm25, relative_similarities

few_values = st.lists(st.integers(0, 6).map(float), min_size=3, max_size=40)
labels = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=50)


@given(few_values)
def test_ranks_are_scipys_ties_included(values):
    np.testing.assert_allclose(ranks(np.array(values)), rankdata(values))


@given(st.data())
def test_spearman_is_scipys(data):
    first = data.draw(few_values.filter(lambda v: len(set(v)) > 1))
    second = data.draw(
        st.lists(st.floats(-5, 5, width=16), min_size=len(first), max_size=len(first)).filter(
            lambda v: len(set(v)) > 1
        )
    )

    ours = spearman(np.array(first), np.array(second))

    assert ours == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)


def test_spearman_by_hand():
    # ranks 1 2 3 4 against 1 3 2 4: 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15)
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([10.0, 30, 20, 40])) == pytest.approx(0.8)


@pytest.mark.parametrize("constant", [[1.0, 1.0, 1.0], [1.0]])
def test_spearman_of_what_has_no_ranking_is_refused(constant):
    with pytest.raises(ValueError, match=r"constant|two pairs"):
        spearman(np.array(constant), np.arange(len(constant), dtype=float))


@given(labels)
def test_macro_f1_is_scikit_learns(pairs):
    gold, predicted = np.array(pairs).T

    expected = f1_score(gold, predicted, average="macro", zero_division=0)

    assert macro_f1(gold, predicted) == pytest.approx(expected)


def test_macro_f1_by_hand():
    # sense 0: precision 2/3, recall 1, F1 0.8; sense 1: precision 1, recall 1/2, F1 2/3
    gold, predicted = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])

    assert macro_f1(gold, predicted) == pytest.approx((0.8 + 2 / 3) / 2)
    assert accuracy(gold, predicted) == 0.75


@given(
    st.integers(1, 12).flatmap(lambda n: st.lists(st.integers(0, n - 1), min_size=n, max_size=n))
)
def test_mining_f1_is_the_weighted_f1_of_line_numbers(chosen):
    gold = np.arange(len(chosen))

    ours = mining_f1(np.array(chosen))

    assert ours == pytest.approx(f1_score(gold, chosen, average="weighted", zero_division=0))
    assert ours <= accuracy(gold, np.array(chosen)) + 1e-12


def test_ndcg_by_hand():
    # gains 0, 3, 1 at ranks 1, 2, 3 against the ideal 3, 1, 1
    gained = 3 / math.log2(3) + 1 / math.log2(4)
    ideal = 3 + 1 / math.log2(3) + 1 / math.log2(4)

    found = ndcg(["x", "a", "b"], {"a": 3, "b": 1, "c": 1, "z": 0})

    assert found == pytest.approx(gained / ideal)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=30).filter(any), st.randoms())
def test_ndcg_is_scikit_learns_with_linear_gains(grades, random):
    order = list(range(len(grades)))
    random.shuffle(order)
    scores = np.zeros(len(grades))
    scores[order] = np.arange(len(grades), 0, -1)

    ours = ndcg([str(i) for i in order], {str(i): grade for i, grade in enumerate(grades)})

    assert ours == pytest.approx(ndcg_score([grades], [scores], k=10))


def test_documents_beyond_the_tenth_rank_gain_nothing():
    assert ndcg([*"0123456789", "a"], {"a": 1}) == 0


def test_a_query_without_a_relevant_document_has_no_ndcg():
    with pytest.raises(ValueError, match="no document is relevant"):
        ndcg(["a"], {"a": 0})


def test_fusion_by_hand():
    # b: 1/62 + 1/61; a: 1/61; c: 1/63
    assert fuse([["a", "b", "c"], ["b"]]) == ["b", "a", "c"]


@given(st.lists(st.integers(0, 20), unique=True))
def test_fusing_one_ranking_keeps_it(ranking):
    assert fuse([[str(i) for i in ranking]]) == [str(i) for i in ranking]


def test_relative_scores_are_fused_as_the_server_does():
    dense = [("a", 0.9), ("b", 0.6), ("c", 0.4)]
    lexical = [("b", 8.0), ("d", 2.0)]

    for share in (0.0, 0.2, 0.4, 0.9):
        server = fused(relative_similarities(dense, share), relative_bm25(lexical, 1 - share))
        by_score = sorted(server, key=lambda id: (-server[id], id))
        assert fuse_scores(dense, lexical, share) == by_score
    assert fuse_scores(dense, [], 0.4) == ["a", "b", "c"]
    assert fuse_scores([], lexical, 0.4) == ["b", "d"]
