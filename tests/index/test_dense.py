import numpy as np
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from index.dense import nearest_exactly
from index.generation import Generation
from index.scoring import dot


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 200),
    k=st.integers(1, 30),
    scale=st.sampled_from([1e-3, 1.0, 1e6]),
    some=st.booleans(),
)
@examples(max_examples=200, deadline=None)
def test_exact_search_finds_the_true_nearest_and_all_that_tie_with_the_last(
    seed, count, k, scale, some
):
    rng = np.random.default_rng(seed)
    # Few different values, so that many scores are equal or differ in their last bits.
    vectors = (scale * rng.integers(-2, 3, (count, 6)) * np.float32(1.1)).astype(np.float32)
    query = rng.normal(size=6).astype(np.float32)
    rows = np.arange(1, count + 1)
    dead = rng.choice(rows, count // 3, replace=False)
    generation = Generation.of(0, (), rows, vectors).after(
        1, np.sort(dead), np.empty(0, np.int64), np.empty((0, 6), np.float32)
    )
    allowed = np.sort(rng.choice(rows, count // 2, replace=False)) if some else None

    found, scores = nearest_exactly(generation, query, k, allowed)

    counting = np.setdiff1d(rows if allowed is None else allowed, dead)
    all_scores = dot(vectors[counting - 1], query)
    if len(counting) > k:
        kept = all_scores >= np.sort(all_scores)[-k]
        counting, all_scores = counting[kept], all_scores[kept]
    order = np.lexsort((counting, -all_scores))
    assert found.tolist() == counting[order].tolist()
    assert scores.tolist() == all_scores[order].tolist()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=30))
def test_a_generation_is_never_changed_by_later_writes(steps):
    """Each step adds some vectors and removes some; older generations stay as they were."""
    empty = np.empty((0, 2), np.float32)
    generation = Generation.of(0, (), np.empty(0, np.int64), empty)
    seen = []
    next_row = 1
    alive: list[int] = []
    for sequence, (adding, removing) in enumerate(steps, start=1):
        rows = np.arange(next_row, next_row + adding)
        next_row += adding
        gone, alive = alive[:removing], [*alive[removing:], *rows.tolist()]
        vectors = np.repeat(rows[:, np.newaxis], 2, axis=1).astype(np.float32)
        generation = generation.after(sequence, np.array(gone, np.int64), rows, vectors)
        seen.append((generation, list(alive)))

    for generation, expected in seen:
        buffer = generation.buffer
        assert buffer.rows[buffer.alive].tolist() == expected
        assert buffer.vectors[buffer.alive][:, 0].tolist() == expected
        assert generation.live == len(expected)
