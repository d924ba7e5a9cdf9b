"""What is wrong with one item, and whether it fails the others."""

import pytest

from index.errors import DocumentNotFound
from server.errors import QueueFull, RequestInvalid
from server.refusals import Refusals


def test_what_is_wrong_with_items_is_kept_under_each_of_them():
    refused = Refusals(partial=True)

    with refused.of(0):
        pass
    with refused.of(1, 2):
        raise RequestInvalid("queries", "both are wrong")
    with refused.of(4):
        raise DocumentNotFound("nobody")

    assert sorted(refused) == [1, 2, 4]
    assert refused[1] is refused[2]


def test_a_call_that_is_one_whole_fails_for_one_item():
    refused = Refusals(partial=False)

    with pytest.raises(RequestInvalid), refused.of(1):
        raise RequestInvalid("queries[1]", "is wrong")
    assert not refused


@pytest.mark.parametrize("error", [QueueFull(2, 1, 0.5), KeyboardInterrupt()])
def test_what_concerns_the_whole_call_is_no_refusal_of_an_item(error):
    refused = Refusals(partial=True)

    with pytest.raises(type(error)), refused.of(1):
        raise error
    assert not refused
