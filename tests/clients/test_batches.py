"""Cutting long inputs."""

from hypothesis import given
from hypothesis import strategies as st

from polyseme.batches import Load, pieces

LIMIT = Load(5, 100, 100, 100)


@given(st.lists(st.builds(Load, st.just(1), *[st.integers(0, 120)] * 3), max_size=40))
def test_pieces_keep_order_lose_nothing_fit_the_limit_and_are_as_long_as_can_be(loads):
    items = list(range(len(loads)))

    cut = list(pieces(items, loads, LIMIT))

    assert [i for _, piece in cut for i in piece] == items
    for start, piece in cut:
        assert piece[0] == start
        total = sum((loads[i] for i in piece), Load(0))
        assert total.fits(LIMIT) or len(piece) == 1
        following = start + len(piece)
        if following < len(loads):
            assert not (total + loads[following]).fits(LIMIT)
