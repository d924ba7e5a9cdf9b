"""What is built when writes pause, and what is not."""

import dataclasses
import threading
import time

import pytest

from index.documents import Query
from index.errors import StorageFailed
from index.store import Store

QUIET_S = 0.05
SOON_S_MAX = 60.0  # on a machine that does something else


@pytest.fixture
def settings(settings):
    return dataclasses.replace(settings, quiet_s=QUIET_S)


@pytest.fixture
def patient(settings):
    """Settings of a store that waits for longer than any test."""
    return dataclasses.replace(settings, quiet_s=600)


def soon(condition):
    end = time.monotonic() + SOON_S_MAX
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def sizes(collection):
    """Of the segments."""
    return sorted(segment.vectors for segment in collection.statistics().segments)


def threads():
    return [thread.name for thread in threading.enumerate() if "segments" in thread.name]


def answers(collection, documents):
    queries = [Query(vector=document.vector, k=10) for document in documents(10, seed=7)]
    return [[(h.id, h.score) for h in collection.search(query).hits] for query in queries]


def test_a_buffer_that_is_not_full_gets_an_index_when_writes_pause(collection, documents):
    collection.upsert(documents(30))
    before = answers(collection, documents)

    soon(lambda: sizes(collection) == [30])

    soon(lambda: not threads())
    statistics = collection.statistics()
    assert [segment.kind for segment in statistics.segments] == ["scan"]
    assert (statistics.buffer_vectors, statistics.building) == (0, False)
    assert answers(collection, documents) == before
    assert collection.check() == []


def test_a_buffer_that_would_get_no_index_is_not_waited_for(collection, documents):
    collection.upsert(documents(20))

    assert not threads()


def test_many_replaced_vectors_in_a_buffer_are_not_compared_for_long(collection, documents):
    for seed in range(3):
        collection.upsert(documents(10, seed=seed))

    soon(lambda: sizes(collection) == [10])

    assert collection.statistics().tombstones == 0


def test_nobody_waits_for_a_pause(tmp_path, spec, documents, patient):
    with Store.open(tmp_path, patient) as store:
        collection = store.create(spec)
        for start in range(30):
            collection.upsert(documents(1, start=start))

        collection.wait_for_builds()

        assert not collection.statistics().building
        assert threads() == ["segments in a pause"]
    assert not threads()


def test_a_write_begins_the_wait_anew(store, spec, documents, monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr("index.builder.monotonic", lambda: now[0])
    collection = store.create(spec)
    collection.upsert(documents(29))
    now[0] += 0.9 * QUIET_S
    collection.upsert(documents(1, start=29))

    now[0] += 0.9 * QUIET_S
    time.sleep(3 * QUIET_S)  # whoever waits has looked at the clock by now
    waited = sizes(collection)
    now[0] += 0.2 * QUIET_S

    assert waited == []
    soon(lambda: sizes(collection) == [30])


def test_full_buffers_are_built_while_a_pause_is_waited_for(tmp_path, spec, documents, patient):
    with Store.open(tmp_path, patient) as store:
        collection = store.create(spec)
        collection.upsert(documents(30))
        collection.upsert(documents(30, start=30))

        collection.wait_for_builds()

        assert sizes(collection) == [60]


def test_what_comes_while_a_segment_is_built_is_built_in_the_next_pause(
    collection, documents, monkeypatch
):
    segments = collection._engine._segments
    build, begun, going_on = segments.build, threading.Event(), threading.Event()

    def slow(*arguments):
        begun.set()
        assert going_on.wait(SOON_S_MAX)
        return build(*arguments)

    monkeypatch.setattr(segments, "build", slow)
    collection.upsert(documents(50))
    assert begun.wait(SOON_S_MAX)
    collection.upsert(documents(30, start=50))
    time.sleep(2 * QUIET_S)  # the pause comes while the first is still built
    going_on.set()

    soon(lambda: sizes(collection) == [30, 50])
    soon(lambda: not threads())


def test_opening_begins_to_wait_too(tmp_path, spec, documents, settings, patient):
    with Store.open(tmp_path, patient) as store:
        store.create(spec).upsert(documents(30))

    with Store.open(tmp_path, settings) as store:
        soon(lambda: sizes(store.collection("fruit")) == [30])


def test_a_build_in_a_pause_that_fails_is_tried_again_after_a_write(
    collection, documents, monkeypatch
):
    failures = []

    def failing(path, data):
        failures.append(path)
        raise StorageFailed(path, "a fault of the test")

    with monkeypatch.context() as patch:
        patch.setattr("index.segments.write_file", failing)
        collection.upsert(documents(30))
        soon(lambda: not threads())
        assert "a fault of the test" in collection.statistics().build_failure
        assert len(failures) == 1

    collection.upsert(documents(1, start=30))

    soon(lambda: sizes(collection) == [31])
    soon(lambda: not threads())
    assert collection.statistics().build_failure == ""
    assert collection.check() == []


def test_a_closed_collection_builds_nothing_in_the_pause_that_follows(
    tmp_path, spec, documents, patient
):
    with Store.open(tmp_path, patient) as store:
        collection = store.create(spec)
        collection.upsert(documents(30))
        assert threads()

        store.delete("fruit")

        assert not threads()


def test_a_compaction_leaves_nothing_for_the_next_pause(tmp_path, spec, documents, patient):
    with Store.open(tmp_path, patient) as store:
        collection = store.create(spec)
        collection.upsert(documents(300))
        collection.wait_for_builds()
        collection.upsert(documents(30, start=300))

        collection.compact()

        assert sizes(collection) == [330]
