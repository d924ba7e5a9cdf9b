import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.training.rows import Rows, RowSource, cut_windows

BEGIN = 60_000


def source(first, tokens, share, starts=None):
    ids = np.arange(first, first + tokens).astype(np.uint16)
    return RowSource(ids, None if starts is None else np.array(starts, dtype=np.int64), share)


def rows_of(sources, row_tokens=9, seed=1):
    return Rows(sources, row_tokens, BEGIN, [seed])


def test_a_row_is_begun_by_its_mark_and_full_of_consecutive_tokens():
    rows = rows_of([source(0, 200, 1.0)]).read(0, 30)

    assert rows.shape == (30, 9)
    assert (rows[:, 0] == BEGIN).all()
    assert (np.diff(rows[:, 1:], axis=1) == 1).all()


def test_an_epoch_reads_every_row_once_and_the_next_one_cuts_elsewhere():
    rows = rows_of([source(0, 8 * 101, 1.0)]).read(0, 200)
    first, second = rows[:100, 1], rows[100:, 1]

    assert len(set(first)) == len(set(second)) == 100
    assert len(set(first % 8)) == len(set(second % 8)) == 1
    assert list(first) != sorted(first)
    assert set(first) != set(second)


@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=6), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_rows_do_not_depend_on_how_a_run_was_interrupted(cuts, seed):
    sources = [source(0, 300, 0.6), source(1000, 90, 0.3), source(2000, 50, 0.1)]
    total = sum(cuts)
    whole = rows_of(sources, seed=seed).read(0, total)

    parts, first = [], 0
    for count in cuts:
        parts.append(rows_of(sources, seed=seed).read(first, count))  # each time anew
        first += count

    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_sources_get_their_shares_in_any_stretch_of_a_thousand_rows():
    sources = [source(0, 3000, 7.0), source(10_000, 3000, 2.0), source(20_000, 3000, 1.0)]
    which = rows_of(sources).read(0, 4000)[:, 1] // 10_000

    for begin in range(0, 3000, 500):
        counts = np.bincount(which[begin : begin + 1000], minlength=3)
        np.testing.assert_allclose(counts, [700, 200, 100], atol=5)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60), length=st.integers(4, 20))
def test_rows_of_pairs_begin_with_a_pair_and_lose_only_the_tails_of_long_ones(lengths, length):
    starts = np.cumsum([0, *lengths])[:-1]
    tokens = sum(lengths)

    begins = cut_windows(starts, tokens, length)

    assert set(begins) <= set(starts)
    assert list(begins) == sorted(set(begins))
    assert all(begin + length <= tokens for begin in begins)
    seen = {place for begin in begins for place in range(begin, begin + length)}
    last = max(seen, default=0)
    for start, size in zip(starts, lengths, strict=True):
        if size <= length and start + size <= last:
            assert set(range(start, start + size)) <= seen


def test_sources_too_short_for_a_row_are_left_out_and_none_at_all_is_an_error():
    rows = rows_of([source(0, 10, 0.9), source(1000, 200, 0.1)]).read(0, 20)

    assert (rows[:, 1] >= 1000).all()
    with pytest.raises(ValueError, match="two rows of 9"):
        rows_of([source(0, 10, 1.0)])
