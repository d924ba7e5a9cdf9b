"""Bulk in threads of its own, which yield the processor to people's texts."""

import asyncio
import os
import sys
import threading
import time

import numpy as np
import pytest

from encoder.runtime import Graph
from encoder.tokenizer import Truncation
from server.batcher import Batcher
from server.batching import Lane
from server.embedded import EmbedPlan
from server.embedder import Embedder
from server.errors import Draining
from server.settings import Settings
from server.speed import Speed
from server.threads import NICENESS_MAX

NICENESS = 7

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux knows the niceness of a thread"
)


class Model:
    """Notes how each batch was computed: whether by all cores, by how nice a thread, its texts."""

    def __init__(self):
        self.seen = []
        self.bulk_may_go_on = threading.Event()

    def all_cores(self, kind, items):
        self._note("all cores", items)
        return items

    def one_core(self, kind, items):
        self._note("one core", items)
        assert "bulk" not in items or self.bulk_may_go_on.wait(10)
        return items

    def _note(self, how, items):
        niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        self.seen.append((how, niceness, list(items)))

    def of(self, item):
        return [(how, niceness) for how, niceness, items in self.seen if item in items]


@pytest.fixture
def model():
    return Model()


@pytest.fixture
async def batcher(model):
    batcher = Batcher(
        model.all_cores,
        lambda item: 1,
        tokens_max=100,
        queue_max=1000,
        bulk_age_s_max=0.0,
        bulk_batch_s_max=1e-9,
        workers=2,
        compute_beside=model.one_core,
        bulk_niceness=NICENESS,
    )
    yield batcher
    model.bulk_may_go_on.set()
    await batcher.close()


def submit(batcher, items, lane=Lane.INTERACTIVE):
    return asyncio.create_task(batcher.submit(items, kind=None, lane=lane))


def niceness():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


async def test_a_person_is_answered_while_bulk_batches_are_computed(batcher, model):
    bulk = submit(batcher, ["bulk"] * 300, Lane.BULK)
    while len(model.seen) < 2:  # one in each thread
        await asyncio.sleep(0.001)

    for number in range(20):  # more than one turn of bulk, if there were turns
        computed = await asyncio.wait_for(submit(batcher, [number]), 10)
        assert computed.results == [number]

    assert not bulk.done()
    model.bulk_may_go_on.set()
    assert (await bulk).results == ["bulk"] * 300


async def test_bulk_batches_stay_large_while_people_call(batcher, model):
    model.bulk_may_go_on.set()
    await submit(batcher, [1])

    await submit(batcher, ["bulk"] * 300, Lane.BULK)

    assert [len(items) for _, _, items in model.seen if "bulk" in items] == [100, 100, 100]


async def test_bulk_takes_one_core_a_batch_and_yields(batcher, model):
    model.bulk_may_go_on.set()
    await submit(batcher, ["bulk"], Lane.BULK)

    assert model.of("bulk") == [("one core", min(niceness() + NICENESS, NICENESS_MAX))]


async def test_bulk_is_computed_too_where_no_thread_may_be_nicer(monkeypatch):
    def forbidden(*_):
        raise PermissionError("a sandbox")

    monkeypatch.setattr(os, "setpriority", forbidden)
    batcher = Batcher(
        lambda kind, items: items,
        lambda item: 1,
        tokens_max=100,
        queue_max=1000,
        bulk_age_s_max=0.0,
        bulk_batch_s_max=1.0,
        compute_beside=lambda kind, items: items,
        bulk_niceness=NICENESS,
    )
    try:
        computed = await asyncio.wait_for(submit(batcher, ["bulk"], Lane.BULK), 10)
    finally:
        await batcher.close()

    assert computed.results == ["bulk"]


async def test_bulk_that_waits_is_not_before_a_person(batcher, model):
    bulk = submit(batcher, ["bulk"] * 300, Lane.BULK)
    while len(model.seen) < 2:
        await asyncio.sleep(0.001)
    batcher._speeds = dict.fromkeys(Lane, Speed.of(0, 10.0))  # measured in a bad moment

    deadline = time.monotonic() + 10
    computed = await batcher.submit([1], kind=None, lane=Lane.INTERACTIVE, deadline=deadline)

    assert computed.results == [1]
    model.bulk_may_go_on.set()
    await bulk


async def test_a_lone_batch_of_people_takes_all_cores_and_yields_to_nobody(batcher, model):
    await submit(batcher, [1])

    assert model.of(1) == [("all cores", niceness())]


async def test_several_batches_of_people_take_a_core_each(batcher, model):
    await submit(batcher, list(range(250)))

    ways = [how for how, _, _ in model.seen]
    assert len(ways) == 3
    assert ways[0] == "one core"  # others wait behind it
    assert {nice for _, nice, _ in model.seen} == {niceness()}


async def test_whoever_waits_in_either_lane_is_told_when_the_queue_closes(batcher, model):
    running = submit(batcher, ["bulk"] * 200, Lane.BULK)
    while len(model.seen) < 2:
        await asyncio.sleep(0.001)
    waiting = submit(batcher, ["bulk"], Lane.BULK)
    await asyncio.sleep(0)

    closing = asyncio.create_task(batcher.close())
    with pytest.raises(Draining):
        await waiting
    model.bulk_may_go_on.set()
    await closing
    assert (await running).results == ["bulk"] * 200


async def test_both_runtimes_are_open_before_anybody_calls(encoder):
    embedder = Embedder(encoder, Settings(bulk_niceness=NICENESS))
    try:
        embedder.warm_up()
    finally:
        await embedder.close()

    assert Graph.POOLED in embedder._narrow._sessions


async def test_vectors_are_the_same_whichever_way_they_are_computed(encoder):
    embedder = Embedder(encoder, Settings(bulk_niceness=NICENESS, batch_tokens_max=64))
    plan = EmbedPlan(
        pooling=None,
        dimensions=encoder.width,
        normalized=True,
        prompt="",
        truncation=Truncation.HEAD,
    )
    texts = ["An apple fell.", "The bank of the river", "Apple sold more phones than before."] * 9
    try:
        each = [(await embedder.embed([t], plan, Lane.INTERACTIVE)).vectors[0] for t in texts]
        people = await embedder.embed(texts, plan, Lane.INTERACTIVE)
        bulk = await embedder.embed(texts, plan, Lane.BULK)
    finally:
        await embedder.close()

    np.testing.assert_array_equal(people.vectors, np.stack(each))
    np.testing.assert_array_equal(bulk.vectors, np.stack(each))
