import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from server.torture.workload import (
    BUCKETS,
    PLANS,
    Bulk,
    Put,
    Write,
    bucket_of,
    content_of,
    steps,
)

plans = st.sampled_from(PLANS)
seeds = st.integers(0, 2**31)


def puts_of(seed, plan, count=100):
    for step in itertools.islice(steps(seed, plan), count):
        if isinstance(step, Bulk):
            yield from step.puts
        elif isinstance(step, Write) and isinstance(step.change, Put):
            yield step.change


@given(seeds, plans)
def test_the_same_seed_asks_for_the_same(seed, plan):
    first, second = (list(itertools.islice(steps(seed, plan), 100)) for _ in range(2))

    assert first == second


@given(seeds, plans)
def test_no_version_and_no_request_id_is_used_twice(seed, plan):
    puts = list(puts_of(seed, plan))
    request_ids = [put.request_id for put in puts if put.request_id]

    assert len({put.version for put in puts}) == len(puts)
    assert len(set(request_ids)) == len(request_ids)


@given(seeds, plans)
def test_only_what_can_be_repeated_safely_is_given_up(seed, plan):
    for step in itertools.islice(steps(seed, plan), 100):
        if isinstance(step, Write) and step.timeout_s is not None:
            assert step.change.request_id


@given(st.text(min_size=1), st.integers(0, 10**6))
def test_a_documents_content_follows_from_its_name_and_version(id, version):
    first, second = content_of(id, version), content_of(id, version)

    assert first.text == second.text
    np.testing.assert_array_equal(first.vector, second.vector)
    assert abs(np.linalg.norm(first.vector) - 1) < 1e-5
    assert 0 <= bucket_of(id) < BUCKETS
    assert content_of(id, version + 1).text != first.text


def test_lanes_never_share_a_document():
    owners = {}
    for plan in PLANS:
        for put in puts_of(1, plan):
            for id in put.ids:
                assert owners.setdefault((plan.collection, id), plan.lane) == plan.lane
