import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.words import find_any_case
from server.comparison import nearest_same_sense, ranks_of, view_of

FRUIT, COMPANY = [1.0, 0.1], [0.1, 1.0]


def test_the_margin_is_above_zero_when_senses_lie_apart():
    vectors = np.array([FRUIT, FRUIT, COMPANY, COMPANY], dtype=np.float32)

    view = view_of(vectors, ["fruit", "fruit", "company", "company"])

    assert view.same_sense_mean == pytest.approx(1)
    assert view.margin == pytest.approx(1 - view.other_sense_mean)
    assert view.margin > 0.5
    assert view.nearest_same_sense == 1


def test_without_labels_nothing_is_said_of_senses():
    view = view_of(np.array([FRUIT, COMPANY], dtype=np.float32), ["", ""])

    assert view.same_sense_mean is view.other_sense_mean is view.margin is None
    assert view.nearest_same_sense is None


def test_unlabelled_sentences_take_no_part_in_the_means():
    vectors = np.array([FRUIT, FRUIT, COMPANY], dtype=np.float32)

    view = view_of(vectors, ["fruit", "fruit", ""])

    assert view.same_sense_mean == pytest.approx(1)
    assert view.other_sense_mean is None


def test_a_sentence_alone_with_its_sense_is_left_out_of_the_nearest():
    similarities = np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]], dtype=np.float32)

    assert nearest_same_sense(similarities, ["a", "a", "b"]) == 1
    assert nearest_same_sense(similarities, ["a", "b", "c"]) is None


@given(size=st.integers(2, 12), seed=st.integers(0, 1000))
def test_ranks_count_from_oneself_to_the_farthest(size, seed):
    vectors = np.random.default_rng(seed).normal(size=(size, 4)).astype(np.float32)
    view = view_of(vectors, [""] * size)

    for row in range(size):
        order = np.argsort(view.ranks[row])
        assert order[0] == row
        assert sorted(view.ranks[row]) == list(range(size))
        others = view.similarities[row][order[1:]]
        assert np.all(np.diff(others) <= 0)


def test_of_equals_the_earlier_is_nearer():
    assert ranks_of(np.ones((3, 3), dtype=np.float32))[2].tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("text", "word", "found"),
    [
        ("Apple was juicy", "apple", "Apple"),
        ("A pineapple, an APPLE", "apple", "APPLE"),
        ("pineapple", "apple", None),
        ("die STRASSE lang", "straße", "STRASSE"),
        ("in New York today", "new york", "New York"),
        ("C++ or C", "c++", "C++"),
        ("a.b", "a*b", None),
    ],
)
def test_a_word_is_found_whole_and_in_any_case(text, word, found):
    span = find_any_case(text, [word])

    assert (span and text[span.start : span.end]) == found
