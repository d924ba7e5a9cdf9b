import numpy as np
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from index import vectors
from index.dense import nearest, nearest_exactly, nearest_to_each
from index.generation import Generation, Part, length_max
from index.scoring import dot
from index.settings import StoreSettings
from index.vectors import inner_products_of_each

WIDTH = 8


def segment(rng, first_row, count, settings):
    """A part with an index, of which every third vector is dead."""
    values = rng.normal(size=(count, WIDTH)).astype(np.float32)
    rows = np.arange(first_row, first_row + count)
    index = vectors.build(values, settings, lambda: False)
    return Part(rows, values, np.arange(count) % 3 > 0, length_max(values), index, f"{first_row}")


def generation_of(rng, settings, sizes):
    starts = np.cumsum([1, *sizes])
    parts = [segment(rng, int(a), n, settings) for a, n in zip(starts, sizes, strict=False)]
    newest = np.arange(starts[-1], starts[-1] + 40)
    buffer = rng.normal(size=(40, WIDTH)).astype(np.float32)
    return Generation.of(1, parts, newest, buffer)


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


@given(seed=st.integers(0, 2**32 - 1), k=st.sampled_from([1, 10, 150, 900]))
@examples(max_examples=10, deadline=None)
def test_several_queries_at_once_get_what_each_gets_alone(seed, k):
    settings = StoreSettings(scan_candidates_min=1_000)  # every vector is a candidate
    rng = np.random.default_rng(seed)
    generation = generation_of(rng, settings, [120, 300])
    queries = rng.normal(size=(7, WIDTH)).astype(np.float32)

    together = nearest_to_each(generation, queries, k, settings)

    for query, (rows, scores) in zip(queries, together, strict=True):
        alone_rows, alone_scores = nearest(generation, query, k, settings)
        true_rows, true_scores = nearest_exactly(generation, query, k)
        assert rows.tolist() == alone_rows.tolist() == true_rows.tolist()
        assert scores.tolist() == alone_scores.tolist() == true_scores.tolist()


def test_the_candidates_of_all_segments_compete_for_their_places():
    settings = StoreSettings(scan_candidates_min=60, scan_candidates_factor=6)
    rng = np.random.default_rng(0)
    generation = generation_of(rng, settings, [400, 400, 400])
    queries = rng.normal(size=(50, WIDTH)).astype(np.float32)

    found = nearest_to_each(generation, queries, 10, settings)

    right = sum(
        len(np.intersect1d(rows, nearest_exactly(generation, query, 10)[0]))
        for query, (rows, _) in zip(queries, found, strict=True)
    )
    assert right >= 0.95 * 10 * len(queries)


def test_a_place_without_a_candidate_scores_minus_infinity():
    values = np.ones((3, WIDTH), np.float32)

    scores = inner_products_of_each(values, values[:2], np.array([[0, -1], [-1, 2]]), threads=2)

    assert scores.tolist() == [[WIDTH, -np.inf], [-np.inf, WIDTH]]
