import io
import json
import logging

import pytest

from server.log import start_logging

GRPC = logging.getLogger("grpc._cython.cygrpc")


@pytest.fixture
def lines():
    """What is logged, line by line; afterwards logging is as it was."""
    root = logging.getLogger()
    before, filters = (root.handlers, root.level), list(GRPC.filters)
    stream = io.StringIO()
    start_logging("info", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers, root.level = before
    GRPC.filters[:] = filters


def test_a_caller_who_went_while_being_answered_leaves_no_stack(lines):
    GRPC.error("ExecuteBatchError raised in core by servicer method [/polyseme.v1.X/Y]")
    GRPC.error("something else")

    assert [line["message"] for line in lines()] == ["something else"]
