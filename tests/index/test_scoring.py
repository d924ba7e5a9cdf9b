import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from index.scoring import dot, prepared, rounding_error_max
from index.spec import Metric

finite = st.floats(-100, 100, width=32)


def matrices():
    return st.tuples(st.integers(1, 40), st.integers(1, 70)).flatmap(
        lambda shape: st.tuples(
            arrays.arrays(np.float32, shape, elements=finite),
            arrays.arrays(np.float32, shape[1], elements=finite),
        )
    )


@given(matrices(), st.randoms())
def test_a_score_has_the_same_bits_in_any_company(pair, rng):
    vectors, query = pair
    together = dot(vectors, query)

    alone = [dot(vector[np.newaxis], query)[0] for vector in vectors]
    order = rng.sample(range(len(vectors)), len(vectors))
    shuffled = dot(np.asfortranarray(vectors[order]), query)

    assert alone == together.tolist()
    assert shuffled.tolist() == together[order].tolist()


@given(matrices())
def test_a_score_is_right(pair):
    vectors, query = pair

    for vector, score in zip(vectors, dot(vectors, query), strict=True):
        true = math.fsum(float(a) * float(b) for a, b in zip(vector, query, strict=True))
        assert math.isclose(score, true, rel_tol=1e-12, abs_tol=1e-9)


@given(matrices())
def test_float32_products_stay_within_the_error_that_exact_search_allows_for(pair):
    vectors, query = pair
    norms = np.linalg.norm(vectors.astype(float), axis=1) * np.linalg.norm(query.astype(float))

    errors = np.abs((vectors @ query).astype(float) - dot(vectors, query))

    assert (errors <= rounding_error_max(len(query), 1.0) * norms + 1e-37).all()


@given(matrices())
def test_cosine_vectors_get_length_1_and_keep_their_bytes_when_they_have_it(pair):
    vectors, _ = pair
    vectors = vectors[np.linalg.norm(vectors, axis=1) > 1e-3]

    once = prepared(vectors, Metric.COSINE)

    np.testing.assert_allclose(np.linalg.norm(once, axis=1), 1, rtol=1e-5)
    assert prepared(once, Metric.COSINE).tobytes() == once.tobytes()
    assert prepared(vectors, Metric.DOT).tobytes() == vectors.tobytes()
