import dataclasses
import errno
import math
import os
import threading

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from index.builder import Plan, pause_s, plan
from index.checking import Part as Damage
from index.documents import Document, Query
from index.errors import StorageFailed
from index.files import write_file
from index.filter import And, Range
from index.generation import Generation, Part
from index.settings import StoreSettings
from index.spec import CollectionSpec
from index.store import Store


def answers(collection, count=10):
    rng = np.random.default_rng(7)
    queries = [Query(vector=v, k=10, exact=True) for v in rng.normal(size=(count, 8))]
    return [[(h.id, h.score) for h in collection.search(query).hits] for query in queries]


def built(store, spec, documents, count=300):
    collection = store.create(spec)
    collection.upsert(documents(count))
    collection.wait_for_builds()
    return collection


@pytest.mark.parametrize("suffix", ["rows", "vectors", "faiss", "MANIFEST"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "empty"])
def test_a_damaged_segment_is_rebuilt_and_answers_stay_the_same(  # noqa: PLR0917  fixtures
    tmp_path, spec, settings, documents, caplog, suffix, damage
):
    with Store.open(tmp_path, settings) as store:
        before = answers(built(store, spec, documents))
    [path] = (tmp_path / "collections/fruit/segments").glob(f"*{suffix}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    match damage:
        case "flip":
            path.write_bytes(data)
        case "truncate":
            path.write_bytes(data[:-1])
        case "remove":
            path.unlink()
        case "empty":
            path.write_bytes(b"")

    with Store.open(tmp_path, settings) as store:
        collection = store.collection("fruit")
        assert answers(collection) == before
        assert (str(path) in caplog.text) == (suffix != "MANIFEST" or damage != "remove")
        collection.wait_for_builds()
        assert answers(collection) == before
        assert sum(s.vectors for s in collection.statistics().segments) == 300
        assert collection.check() == []


def test_segments_of_another_time_or_database_are_not_used(tmp_path, spec, settings, documents):
    with Store.open(tmp_path, settings) as store:
        collection = built(store, spec, documents)
        snapshot = collection.snapshot(tmp_path / "early")
        collection.upsert(documents(300, seed=1))
        collection.wait_for_builds()
    # Someone puts an old copy of the database back beside newer segments.
    database = tmp_path / "collections/fruit/documents.sqlite3"
    database.write_bytes((snapshot.path / "documents.sqlite3").read_bytes())
    database.with_name("SEAL").unlink()  # without this, the writes since are missed

    with Store.open(tmp_path, settings) as store:
        put_back = store.collection("fruit")
        with Store.open(tmp_path / "other", settings) as other:
            restored = other.restore(snapshot.path, "fruit")
            assert answers(put_back) == answers(restored)


def test_a_restart_reads_segments_instead_of_building(tmp_path, spec, settings, documents):
    with Store.open(tmp_path, settings) as store:
        collection = built(store, spec, documents)
        collection.delete(["d1", "d2"])
        names = [segment.name for segment in collection.statistics().segments]
        before = answers(collection)

    with Store.open(tmp_path, settings) as store:
        statistics = store.collection("fruit").statistics()
        assert [segment.name for segment in statistics.segments] == names
        assert statistics.tombstones == 2
        assert answers(store.collection("fruit")) == before


def test_deletes_during_a_build_stay_deleted(store, spec, documents):
    collection = store.create(spec)
    collection.upsert(documents(1_500))
    collection.purge(Range("n", lt=1_000))
    collection.wait_for_builds()

    assert collection.documents_count == 500
    everything = collection.search(Query(vector=np.ones(8), k=1_000)).hits
    assert {hit.id for hit in everything} == {f"d{i}" for i in range(1_000, 1_500)}


def test_a_segment_of_tombstones_is_rebuilt_by_itself(store, spec, documents):
    collection = built(store, spec, documents)

    collection.purge(Range("n", lt=150))
    collection.wait_for_builds()

    assert collection.statistics().tombstones == 0
    assert collection.statistics().vectors == 150


def test_a_replaced_segment_is_in_no_generation_that_is_kept(store, spec, documents):
    collection = built(store, spec, documents)
    replaced = {segment.name for segment in collection.statistics().segments}
    for start in range(3):
        collection.upsert(documents(1, start=start))

    collection.compact()

    current = {segment.name for segment in collection.statistics().segments}
    assert not current & replaced
    for generation in collection._engine._generations._kept:
        assert {part.name for part in generation.segments} <= current


def test_an_emptied_collection_has_no_segment_left(store, spec, documents):
    collection = built(store, spec, documents)

    collection.purge(And(()))
    collection.compact()

    assert collection.statistics().segments == ()
    assert [path.name for path in (collection.directory / "segments").iterdir()] == ["MANIFEST"]
    assert collection.search(Query(vector=np.ones(8))).exhausted


def part(name, live, dead=0):
    count = live + dead
    alive = np.arange(count) >= dead
    return Part(np.arange(count), np.zeros((count, 1), np.float32), alive, 0.0, None, name)


@given(
    sizes=st.lists(st.integers(1, 400), max_size=6),
    buffer=st.integers(0, 300),
    limit=st.integers(10, 100),
    quiet=st.booleans(),
)
def test_merging_leaves_few_segments_of_doubling_size(sizes, buffer, limit, quiet):
    """The steps of a plan, followed to their end, leave nothing to do."""
    settings = StoreSettings(exact_vectors_max=limit, flat_vectors_max=limit // 2)
    segments = [part(f"s{i}", size) for i, size in enumerate(sizes)]
    waiting = part("", buffer)
    for step in range(20):
        wanted = plan(Generation(0, tuple(segments), waiting, None), settings, quiet=quiet)
        if wanted is None:
            break
        assert wanted.buffer
        merged = sum(s.live for s in segments if s.name in wanted.segments) + waiting.live
        segments = [s for s in segments if s.name not in wanted.segments]
        assert all(s.live > merged - 1 for s in segments)
        segments.append(part(f"m{step}", merged))
        waiting = part("", 0)

    assert wanted is None


@given(writes=st.lists(st.tuples(st.integers(1, 300), st.booleans()), max_size=60))
@example(writes=[(count, True) for count in range(100, 50, -1)])
@example(writes=[(51, True)] * 64)
def test_whatever_the_writes_and_pauses_segments_are_few_and_rows_are_rewritten_seldom(writes):
    """A write is how many rows come, and whether a pause follows."""
    settings = StoreSettings(exact_vectors_max=100, flat_vectors_max=50)
    sizes, rows, waiting, written = {}, 0, 0, 0
    for number, (count, quiet) in enumerate(writes):
        rows, waiting = rows + count, waiting + count
        parts = tuple(part(name, size) for name, size in sizes.items())
        wanted = plan(Generation(0, parts, part("", waiting), None), settings, quiet=quiet)
        if wanted is not None:
            made = waiting + sum(sizes.pop(name) for name in wanted.segments)
            sizes[f"s{number}"], waiting, written = made, 0, written + made

        assert waiting <= (50 if quiet else 100)
        assert len(sizes) <= math.log2(rows) + 1
        assert written <= rows * (math.log2(rows) + 1)


def test_few_new_vectors_are_no_reason_to_rewrite_a_large_segment():
    segments = (part("large", 100_000), part("small", 3_000))

    wanted = plan(Generation(0, segments, part("", 4_000), None), StoreSettings(), quiet=True)

    assert wanted == Plan(frozenset({"small"}), buffer=True)


@pytest.mark.parametrize(("count", "built"), [(5_000, False), (5_001, True)])
def test_in_a_pause_a_buffer_is_built_if_it_gets_an_index(count, built):
    generation = Generation(0, (part("large", 100_000),), part("", count), None)

    wanted = plan(generation, StoreSettings(), quiet=True)

    assert wanted == (Plan(frozenset(), buffer=True) if built else None)
    assert plan(generation, StoreSettings(), quiet=False) is None


def test_a_plan_names_the_segment_with_too_many_dead():
    segments = (part("a", 90, dead=10), part("b", 50, dead=50))

    wanted = plan(Generation(0, segments, part("", 3), None), StoreSettings(), quiet=False)

    assert wanted == Plan(frozenset({"b"}), buffer=False)


def clustered(count, width, seed=0):
    """Vectors as texts have them: many small clusters around topics, none of them round."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(48, width))
    topics = rng.normal(size=(count // 100, 48))
    points = topics[rng.integers(len(topics), size=count)] + 0.6 * rng.normal(size=(count, 48))
    return (points @ basis + 0.3 * rng.normal(size=(count, width))).astype(np.float32)


def recall(collection, queries):
    found = wanted = 0
    for query in queries:
        near = collection.search(Query(vector=query, with_documents=False))
        true = collection.search(Query(vector=query, with_documents=False, exact=True))
        assert not near.exact
        found += len({h.id for h in near.hits} & {h.id for h in true.hits})
        wanted += len(true.hits)
    return found / wanted


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scan", "graph"])
def test_recall_at_10_is_at_least_99_percent_whatever_restarts_and_compactions(tmp_path, kind):
    vectors = clustered(30_100, 128)
    documents = [Document(id=f"{i}", vector=v) for i, v in enumerate(vectors[:30_000])]
    settings = dataclasses.replace(
        StoreSettings(), scan_vectors_max=200_000 if kind == "scan" else 10_000
    )
    with Store.open(tmp_path, settings) as store:
        collection = store.create(CollectionSpec(name="c", dimensions=128))
        for start in range(0, 30_000, 5_000):
            collection.upsert(documents[start : start + 5_000])
        collection.compact()
        before = recall(collection, vectors[30_000:])
        assert [s.kind for s in collection.statistics().segments] == [kind]
    with Store.open(tmp_path, settings) as store:
        collection = store.collection("c")
        after = recall(collection, vectors[30_000:])
        collection.delete([f"{i}" for i in range(0, 30_000, 5)])
        with_dead = recall(collection, vectors[30_000:])
        collection.compact()
        compacted = recall(collection, vectors[30_000:])

    assert before == after
    assert min(before, with_dead, compacted) >= 0.99


def test_a_build_that_fails_harms_nothing_and_is_tried_again(
    store, spec, documents, monkeypatch, caplog
):
    """The n-th sync of a build fails, for every n."""
    collection = store.create(spec)
    collection.upsert(documents(30))
    before = answers(collection)
    fails = []
    real = os.fsync

    def failing(descriptor):
        if threading.current_thread().name == "segments" and len(fails) == 0:
            countdown[0] -= 1
            if countdown[0] == 0:
                fails.append(1)
                raise OSError(errno.ENOSPC, "a fault of the test")
        real(descriptor)

    monkeypatch.setattr("os.fsync", failing)
    for n in range(1, 20):
        countdown = [n]
        fails.clear()
        collection.upsert(documents(60, start=100))
        collection.wait_for_builds()
        collection.purge(Range("n", gte=100))
        collection.wait_for_builds()
        assert answers(collection) == before
        if not fails:
            break

    assert n > 3
    assert "no room to write" in caplog.text
    assert collection.statistics().build_failure == ""
    assert collection.check() == []


@pytest.mark.parametrize("late", [False, True])
def test_a_manifest_that_cannot_be_written_leaves_no_files_behind(
    store, spec, documents, monkeypatch, late
):
    """late: the new manifest is there, and making its name durable failed."""
    collection = built(store, spec, documents)
    files = collection.directory / "segments"
    failures = []

    def failing(path, data):
        if late:
            write_file(path, data)
        failures.append(path)
        raise StorageFailed(path, "a fault of the test")

    with monkeypatch.context() as patch:
        patch.setattr("index.segments.write_file", failing)
        patch.setattr("index.builder.pause_s", lambda failures: 0.0)
        for turn in range(5):
            collection.upsert(documents(50, start=1_000 * turn))
            collection.wait_for_builds()
            assert len({path.stem for path in files.iterdir()} - {"MANIFEST"}) <= 2
    assert len(failures) == 5
    before = answers(collection)

    collection.compact()

    assert answers(collection) == before
    assert {path.stem for path in files.iterdir()} == {
        "MANIFEST", *(segment.name for segment in collection.statistics().segments)
    }  # fmt: skip
    assert collection.check() == []


def test_builds_that_fail_again_and_again_are_tried_less_and_less(
    store, spec, documents, monkeypatch
):
    collection = store.create(spec)
    failures = []

    def failing(path, data):
        failures.append(path)
        raise StorageFailed(path, "a fault of the test")

    monkeypatch.setattr("index.segments.write_file", failing)
    for turn in range(20):
        collection.upsert(documents(50, start=50 * turn))
        collection.wait_for_builds()

    assert 2 <= len(failures) < 10
    assert pause_s(1) == 0
    assert [pause_s(n) for n in (2, 3, 4)] == [1, 2, 4]
    assert pause_s(10_000) == 60


def test_statistics_count_what_is_there(store, spec, documents):
    collection = built(store, spec, documents)
    collection.upsert(documents(10, start=295))

    statistics = collection.statistics()

    assert (statistics.documents, statistics.vectors) == (305, 305)
    assert (statistics.buffer_vectors, statistics.tombstones) == (10, 5)
    assert [(s.kind, s.vectors, s.tombstones) for s in statistics.segments] == [("scan", 295, 5)]
    files = [path for path in collection.directory.rglob("*") if path.is_file()]
    assert statistics.disk_bytes == sum(path.stat().st_size for path in files)
    assert (statistics.building, statistics.sequence) == (False, 2)


def test_check_names_a_segment_that_was_damaged_under_way(store, spec, documents):
    collection = built(store, spec, documents)
    [path] = (collection.directory / "segments").glob("*.faiss")
    path.write_bytes(path.read_bytes()[:-1])

    [finding] = collection.check()

    assert (finding.part, finding.path) == (Damage.SEGMENT, path)
    assert collection.state == "ready"
    store.repair("fruit")
    store.collection("fruit").wait_for_builds()
    assert store.collection("fruit").check() == []
