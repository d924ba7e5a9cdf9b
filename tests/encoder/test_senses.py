import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.discriminant import nearest_centroid, unit
from encoder.senses import Sense, SensesInvalid, WordSenses, fit, margin

WIDTH = 6


def uses(counts, seed=0, apart=3.0):
    """So many vectors of length 1 of each sense, around a point of its own."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(len(counts), WIDTH)) * apart
    labels = [f"sense {i}" for i, count in enumerate(counts) for _ in range(count)]
    rows = np.repeat(np.arange(len(counts)), counts)
    return unit(centres[rows] + random.normal(size=(len(rows), WIDTH))), labels


counts_of_senses = st.lists(st.integers(1, 12), min_size=2, max_size=5)


@settings(deadline=None)
@given(counts_of_senses, st.booleans(), st.integers(0, 10**6))
def test_probabilities_sum_to_one_whatever_was_taught(counts, counted, seed):
    vectors, labels = uses(counts, seed)
    senses = fit("apple", vectors, labels, counted_priors=counted)

    found = senses.probabilities(vectors)

    assert found.shape == (sum(counts), len(counts))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found >= 0).all()
    assert ((margin(found) >= 0) & (margin(found) <= 1)).all()
    assert [sense.examples for sense in senses.senses] == counts
    assert 0 <= senses.right <= senses.checked == sum(c for c in counts if c >= 4)


@settings(deadline=None)
@given(counts_of_senses, st.integers(0, 10**6))
def test_the_order_of_examples_changes_nothing(counts, seed):
    vectors, labels = uses(counts, seed)
    order = np.random.default_rng(seed).permutation(len(labels))

    one = fit("apple", vectors, labels)
    other = fit("apple", vectors[order], [labels[place] for place in order])

    assert one.senses == other.senses
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-4, atol=1e-4)
    assert one.temperature == pytest.approx(other.temperature, rel=1e-3)
    assert (one.checked, one.right) == (other.checked, other.right)


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 10**6))
def test_with_one_example_a_sense_the_nearest_one_wins_and_nothing_is_calibrated(senses, seed):
    vectors, labels = uses([1] * senses, seed)
    unseen, _ = uses([20], seed + 1)

    found = fit("apple", vectors, labels)

    nearest = nearest_centroid(vectors, np.arange(senses)).predict(unseen)
    np.testing.assert_array_equal(found.probabilities(unseen).argmax(axis=1), nearest)
    assert not found.calibrated
    assert found.temperature == 1


@settings(deadline=None)
@given(st.integers(2, 3), st.integers(0, 10**6))
def test_two_or_three_examples_are_too_few_to_say_how_good_the_senses_are(shots, seed):
    vectors, labels = uses([shots] * 3, seed)

    senses = fit("apple", vectors, labels)

    assert not senses.calibrated
    assert senses.temperature > 0


def test_what_can_be_told_apart_is_told_apart_and_known_to_be():
    vectors, labels = uses([30, 30, 30])
    unseen, truth = uses([60, 60, 60])

    senses = fit("apple", vectors, labels)

    found = senses.probabilities(unseen)
    names = [sense.name for sense in senses.senses]
    right = [
        names[place] == label for place, label in zip(found.argmax(axis=1), truth, strict=True)
    ]
    assert np.mean(right) > 0.95
    assert senses.checked == 90
    assert senses.right / senses.checked > 0.95
    assert found.max(axis=1).mean() == pytest.approx(np.mean(right), abs=0.05)


def test_what_cannot_be_told_apart_is_not_said_to_be():
    random = np.random.default_rng(0)
    vectors, labels = unit(random.normal(size=(60, WIDTH))), ["fruit", "firm"] * 30

    senses = fit("apple", vectors, labels)

    found = senses.probabilities(unit(random.normal(size=(500, WIDTH))))
    assert found.max() < 0.85
    assert margin(found).mean() < 0.3


def test_the_same_sentence_again_and_again_is_no_division_by_zero():
    vectors = unit(np.array([[1.0, 2, 3]] * 5 + [[3.0, 1, 2]] * 5))

    senses = fit("apple", vectors, ["fruit"] * 5 + ["firm"] * 5)

    found = senses.probabilities(vectors)
    assert [senses.senses[i].name for i in found.argmax(axis=1)] == ["fruit"] * 5 + ["firm"] * 5
    assert senses.checked == senses.right == 10


def test_priors_can_be_those_of_the_examples():
    vectors, labels = uses([3, 27], apart=0.0)
    between = unit(np.random.default_rng(5).normal(size=(200, WIDTH)))

    even = fit("apple", vectors, labels).probabilities(between)
    counted = fit("apple", vectors, labels, counted_priors=True).probabilities(between)

    assert counted[:, 1].mean() > even[:, 1].mean()


@pytest.mark.parametrize(
    ("vectors", "labels", "message"),
    [
        (np.ones((3, 2)), ["fruit"] * 3, "one sense, 'fruit'; give two or more"),
        (np.ones((1, 2)), ["fruit"], "one sense"),
        (np.ones((0, 2)), [], "no sense"),
        (np.ones((2, 2)), ["fruit"], "1 labels for 2 vectors"),
        (np.array([[1.0], [np.nan]]), ["fruit", "firm"], "not finite"),
        (np.array([[1.0], [np.inf]]), ["fruit", "firm"], "not finite"),
    ],
)
def test_examples_that_teach_nothing_are_refused(vectors, labels, message):
    with pytest.raises(SensesInvalid, match=message):
        fit("apple", vectors, labels)


TWO = (Sense("firm", 1), Sense("fruit", 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"senses": TWO[:1]}, "one sense"),
        ({"senses": (TWO[0], TWO[0])}, "'firm' is there twice"),
        ({"weights": np.ones((3, 4), np.float32)}, "do not fit 2 senses"),
        ({"weights": np.ones(4, np.float32)}, "do not fit 2 senses"),
        ({"bias": np.ones(3)}, "3 biases do not fit 2 senses"),
        ({"weights": np.full((2, 4), np.nan, np.float32)}, "not a finite number"),
        ({"bias": np.array([0, np.inf])}, "not a finite number"),
        ({"temperature": 0.0}, "not above 0"),
        ({"temperature": float("nan")}, "not above 0"),
    ],
)
def test_senses_that_cannot_be_used_are_refused(changes, message):
    whole = {"word": "apple", "senses": TWO, "weights": np.ones((2, 4), np.float32)}
    with pytest.raises(SensesInvalid, match=message):
        WordSenses(**{**whole, "bias": np.zeros(2), **changes})
