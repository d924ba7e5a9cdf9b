import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics.pairwise import cosine_similarity

from encoder.discriminant import (
    discriminant,
    fitted_discriminant,
    fitted_temperature,
    log_softmax,
    nearest_centroid,
    shrinkage,
    unit,
)

sizes = st.tuples(st.integers(2, 60), st.integers(2, 40), st.integers(0, 10**6))


def two_senses(n: int, width: int, seed: int = 0, apart: float = 1.0):
    random = np.random.default_rng(seed)
    senses = np.arange(n) % 2
    vectors = random.normal(size=(n, width)) * np.linspace(0.2, 2, width)
    vectors[senses == 1, 0] += apart
    return vectors, senses


@settings(deadline=None)
@given(sizes)
def test_the_shrinkage_is_scikit_learns_ledoit_wolf(size):
    n, width, seed = size
    vectors = np.random.default_rng(seed).normal(size=(n, width)) * np.linspace(0.5, 2, width)

    share, scale = shrinkage(vectors)

    covariance = (1 - share) * vectors.T @ vectors / n + share * scale * np.eye(width)
    expected, expected_share = ledoit_wolf(vectors, assume_centered=True)
    assert share == pytest.approx(expected_share, abs=1e-9)
    np.testing.assert_allclose(covariance, expected, atol=1e-9)


def test_examples_that_contradict_one_another_are_told_apart_by_nobody_and_break_nothing():
    one, other = np.array([1.0, 0.0, 0.0]), np.array([0.6, 0.8, 0.0])
    vectors = np.stack([one, other, one, other])  # the same two uses taught as either sense

    fitted = fitted_discriminant(vectors, np.array([0, 0, 1, 1]))

    scores = fitted.classifier.scores(vectors)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[:, 0], scores[:, 1])


@pytest.mark.parametrize("n", [3, 6, 30, 200])  # below and above the width: two ways to solve
def test_the_discriminant_is_the_textbooks_with_its_covariance(n):
    vectors, senses = two_senses(n, width=20, seed=3)

    fitted = fitted_discriminant(vectors, senses)

    rule = fitted.classifier
    means = np.stack([vectors[senses == s].mean(axis=0) for s in (0, 1)])
    scatter = vectors - means[senses]
    scale = np.sum(scatter**2) / scatter.size
    covariance = (1 - fitted.share) * scatter.T @ scatter / n + fitted.share * scale * np.eye(20)
    inverse = np.linalg.inv(covariance)
    expected = vectors @ inverse @ means.T - np.sum(means @ inverse * means, axis=1) / 2
    expected += np.log(np.bincount(senses) / n)
    np.testing.assert_allclose(rule.scores(vectors), expected, rtol=1e-6, atol=1e-6)


def test_with_many_examples_it_answers_as_scikit_learns():
    vectors, senses = two_senses(4000, width=8, seed=1)
    unseen, _ = two_senses(1000, width=8, seed=2)

    ours = discriminant(vectors, senses).predict(unseen)

    theirs = LinearDiscriminantAnalysis().fit(vectors, senses).predict(unseen)
    assert np.mean(ours == theirs) > 0.995


def test_the_covariance_is_what_helps():
    # The senses differ in a quiet direction; a loud one drowns it for the nearest centroid.
    random = np.random.default_rng(0)
    senses = np.arange(200) % 2
    vectors = random.normal(size=(200, 2)) * [50, 1]
    vectors[:, 1] += 6 * senses

    by_centroid = nearest_centroid(vectors, senses).predict(vectors)
    by_discriminant = discriminant(vectors, senses).predict(vectors)

    assert np.mean(by_centroid == senses) < 0.8
    assert np.mean(by_discriminant == senses) > 0.98


def test_the_nearest_centroid_has_the_highest_cosine():
    vectors, senses = two_senses(80, width=6)
    unseen, _ = two_senses(40, width=6, seed=9)

    ours = nearest_centroid(vectors, senses).predict(unseen)

    rows = unit(vectors)
    means = np.stack([rows[senses == s].mean(axis=0) for s in (0, 1)])
    np.testing.assert_array_equal(ours, cosine_similarity(unseen, means).argmax(axis=1))


def test_with_one_example_a_sense_the_nearest_wins():
    rule = discriminant(np.array([[0.0, 0], [2, 0]]), np.array([4, 7]), even_priors=True)

    assert rule.predict(np.array([[0.9, 5], [1.1, -5]])).tolist() == [4, 7]


def test_examples_that_never_differ_but_by_rounding_are_no_division_by_zero():
    vectors = np.full((6, 3), 0.1) + np.random.default_rng(0).normal(size=(6, 3)) * 1e-17

    rule = discriminant(vectors, np.array([0, 0, 0, 0, 1, 1]))

    assert rule.predict(vectors).tolist() == [0] * 6  # nothing to go by but how frequent


def test_a_word_with_one_sense_always_has_it():
    vectors, _ = two_senses(5, width=3)

    assert set(discriminant(vectors, np.full(5, 3)).predict(vectors)) == {3}


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="examples"):
        discriminant(np.empty((0, 3)), np.empty(0, dtype=np.int64))


@settings(deadline=None)
@given(
    n=st.integers(4, 40),
    width=st.integers(2, 50),
    senses=st.integers(2, 4),
    even=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_leaving_out_in_one_go_is_leaving_out_one_by_one(n, width, senses, even, seed):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(n, width)) * np.linspace(0.3, 2, width)
    labels = np.concatenate([np.arange(senses), random.integers(0, senses, n)])[:n] % senses

    fitted = fitted_discriminant(vectors, labels, even_priors=even)

    classes, counts = np.unique(labels, return_counts=True)
    means = np.stack([vectors[labels == label].mean(axis=0) for label in classes])
    _, scale = shrinkage(vectors - means[np.searchsorted(classes, labels)])
    share = fitted.share
    priors = np.log(np.full(len(classes), 1 / len(classes)) if even else counts / n)
    for row in range(n):
        assert fitted.checked[row] == (counts[classes == labels[row]] > 1)
        if not fitted.checked[row]:
            continue
        rest = np.arange(n) != row
        left = np.stack([vectors[rest & (labels == label)].mean(axis=0) for label in classes])
        scatter = vectors[rest] - left[np.searchsorted(classes, labels[rest])]
        covariance = (1 - share) * scatter.T @ scatter / n + share * scale * np.eye(width)
        ways = vectors[row] - left
        distances = np.einsum("ij,ij->i", ways, np.linalg.solve(covariance, ways.T).T)
        np.testing.assert_allclose(
            fitted.left_out[row], priors - distances / 2, rtol=1e-5, atol=1e-5
        )


def test_few_examples_are_shrunk_as_ledoit_and_wolf_say():
    vectors, senses = two_senses(3, width=5)

    means = np.stack([vectors[senses == s].mean(axis=0) for s in (0, 1)])
    assert fitted_discriminant(vectors, senses).share == shrinkage(vectors - means[senses])[0]


def test_of_the_shares_that_one_is_taken_by_which_examples_left_out_are_told_best():
    # One loud direction that says nothing: the covariance is worth knowing, little shrunk.
    random = np.random.default_rng(0)
    senses = np.arange(60) % 2
    vectors = random.normal(size=(60, 10)) * ([30] + 9 * [1])
    vectors[:, 1] += 4 * senses

    loud = fitted_discriminant(vectors, senses)
    even = fitted_discriminant(vectors / ([30] + 9 * [1]), senses)

    assert loud.share < 0.1 < even.share
    assert np.mean(loud.left_out.argmax(axis=1) == senses) > 0.9


def test_the_temperature_makes_probabilities_as_sure_as_they_are_right():
    random = np.random.default_rng(0)
    right = random.integers(0, 3, 4000)
    true = random.normal(size=(4000, 3))
    right = np.array([random.choice(3, p=np.exp(row)) for row in log_softmax(true)])

    assert fitted_temperature(5 * true, right) == pytest.approx(5, rel=0.1)
    assert fitted_temperature(true / 5, right) == pytest.approx(1 / 5, rel=0.1)


@pytest.mark.parametrize("n", [2, 10, 100])
def test_few_right_answers_are_no_proof_of_certainty(n):
    scores = np.tile([50.0, 0.0], (n, 1))

    sure = np.exp(log_softmax(scores / fitted_temperature(scores, np.zeros(n, dtype=int))))

    np.testing.assert_allclose(sure[:, 0], 1 - 1 / (n + 2), atol=1e-3)


def test_scores_that_know_nothing_become_even():
    random = np.random.default_rng(0)
    scores, right = random.normal(size=(500, 2)) * 10, random.integers(0, 2, 500)

    even = np.exp(log_softmax(scores / fitted_temperature(scores, right)))

    np.testing.assert_allclose(even, 0.5, atol=0.15)
