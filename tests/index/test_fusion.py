"""Two rankings become one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.fusion import fused, reciprocal_ranks, relative_bm25, relative_similarities


def falling(low, high):
    scores = st.lists(st.floats(low, high, allow_nan=False), max_size=20)
    return scores.map(lambda s: [(f"d{i}", v) for i, v in enumerate(sorted(s, reverse=True))])


def test_ranks_by_hand():
    scores = fused(reciprocal_ranks([("a", 0.9), ("b", 0.1)]), reciprocal_ranks([("b", 7.0)]))

    assert scores == {"a": 1 / 61, "b": pytest.approx(1 / 62 + 1 / 61)}


def test_relative_scores_by_hand():
    near = relative_similarities([("a", 0.9), ("b", 0.6), ("c", 0.4)])
    same = relative_bm25([("b", 8.0), ("d", 2.0)])

    assert near == {"a": pytest.approx(0.4), "b": pytest.approx(0.16), "c": 0}
    assert same == {"b": pytest.approx(0.6), "d": pytest.approx(0.15)}
    assert fused(near, same)["b"] == pytest.approx(0.76)


@given(falling(-1, 1), falling(0, 50))
def test_relative_scores_are_from_0_to_1_and_keep_the_order_of_each_list(near, same):
    for parts in (relative_similarities(near), relative_bm25(same)):
        values = list(parts.values())
        assert values == sorted(values, reverse=True)
    scores = fused(relative_similarities(near), relative_bm25(same))
    assert set(scores) == {id for id, _ in (*near, *same)}
    assert all(0 <= score <= 1 + 1e-9 for score in scores.values())


@given(falling(-1, 1), falling(0.1, 50))
def test_what_leads_both_lists_leads_the_fused_one(near, same):
    if not near or not same:
        return
    scores = fused(relative_similarities(near), relative_bm25(same))

    assert scores["d0"] == pytest.approx(1) == pytest.approx(max(scores.values()))


def test_meaning_alone_never_outweighs_the_best_words():
    # A model that does not understand the texts gives nearly equal similarities; ranks would let
    # its first place count as much as BM25's.
    near = relative_similarities([("noise", 0.31), *((f"n{i}", 0.30) for i in range(99))])
    same = relative_bm25([("right", 20.0), ("half", 10.0)])

    scores = fused(near, same)

    assert max(scores, key=scores.__getitem__) == "right"
    assert relative_similarities([("only", 0.2)]) == {"only": 0.4}
