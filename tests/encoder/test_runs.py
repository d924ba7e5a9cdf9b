from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from encoder.runs import runs_of


@given(sizes=st.lists(st.integers(0, 12)), size_max=st.integers(1, 20))
def test_runs_hold_everything_in_order_and_are_small_enough_and_no_smaller(sizes, size_max):
    runs = [sizes[run] for run in runs_of(sizes, size_max)]

    assert [size for run in runs for size in run] == sizes
    assert all(run and (sum(run) <= size_max or len(run) == 1) for run in runs)
    for run, after in pairwise(runs):
        assert sum(run) + after[0] > size_max
