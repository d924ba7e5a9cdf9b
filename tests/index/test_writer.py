"""Faults at every call, several writers at once, readers beside them."""

import dataclasses
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from index import database
from index.documents import Document, Query, WriteMode
from index.errors import DiskFull, DocumentExists, StorageFailed
from index.filter import Range
from index.store import Store


class FaultyConnection(sqlite3.Connection):
    """Fails at the n-th statement of the writer, before or after it took effect."""

    countdown = 0  # 0: never
    error: BaseException
    after = False

    def _counted(self, call, *arguments):
        cls = FaultyConnection
        cls.countdown -= 1
        if cls.countdown == 0 and not cls.after:
            raise cls.error
        result = call(*arguments)
        if cls.countdown == 0:
            raise cls.error
        return result

    def execute(self, *arguments):
        return self._counted(super().execute, *arguments)

    def executemany(self, *arguments):
        return self._counted(super().executemany, *arguments)


@pytest.fixture
def faulty_collection(tmp_path, spec, settings, documents, monkeypatch):
    monkeypatch.setattr(database, "CONNECTION", FaultyConnection)
    FaultyConnection.countdown = 0
    with Store.open(tmp_path / "data", settings) as store:
        collection = store.create(spec)
        collection.upsert(documents(5))
        yield collection
        FaultyConnection.countdown = 0


def state(collection):
    FaultyConnection.countdown = 0
    hits = collection.search(Query(vector=np.ones(8), k=20, exact=True)).hits
    return [(hit.id, hit.score, hit.document.sequence) for hit in hits]


def sqlite_error(code):
    error = sqlite3.OperationalError("a fault of the test")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("fault", "shown"),
    [
        (sqlite_error(sqlite3.SQLITE_FULL), DiskFull),
        (sqlite_error(sqlite3.SQLITE_IOERR), StorageFailed),
        (MemoryError("a fault of the test"), MemoryError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_fault_at_any_call_leaves_the_old_state_or_the_new(
    faulty_collection, documents, fault, shown, after
):
    collection = faulty_collection
    old = state(collection)
    faults = 0
    for n in range(1, 200):
        FaultyConnection.error, FaultyConnection.after = fault, after
        FaultyConnection.countdown = n
        try:
            collection.upsert(documents(3, start=3), request_id="r1")
        except shown:
            faults += 1
        else:
            FaultyConnection.countdown = 0
            break
        now = state(collection)
        assert now == old or ([id for id, _, _ in now if id == "d5"] and after)
        assert collection.documents_count == len(now)

    assert faults > 10
    assert {id for id, _, _ in state(collection)} == {f"d{i}" for i in range(6)}
    assert collection.sequence == 2
    assert not collection.check()


class LateConnection(sqlite3.Connection):
    """Fails at statements with these beginnings, one after another, when they took effect."""

    failing = ()

    def execute(self, sql, *parameters):
        result = super().execute(sql, *parameters)
        if LateConnection.failing and sql.startswith(LateConnection.failing[0]):
            LateConnection.failing = LateConnection.failing[1:]
            raise sqlite_error(sqlite3.SQLITE_IOERR)
        return result


@pytest.mark.parametrize("second", ["SELECT value FROM meta", "SELECT row FROM documents"])
def test_a_commit_that_failed_late_is_known_to_the_next_write_whatever_failed_after_it(
    collection, store, documents, monkeypatch, second
):
    """second: what fails when the writer looks what became of the commit."""
    monkeypatch.setattr(database, "CONNECTION", LateConnection)
    store.close()
    with Store.open(store.directory, store.settings) as again:
        collection = again.collection("fruit")
        collection.upsert(documents(5))
        LateConnection.failing = ("COMMIT", second)
        with pytest.raises(StorageFailed):
            collection.upsert(documents(3, start=5))
        assert LateConnection.failing == ()

        written = collection.delete(["d0", "d5"])

        assert (written.sequence, written.deleted) == (3, 2)
        assert collection.sequence == 3
        assert {id for id, _, _ in state(collection)} == {"d1", "d2", "d3", "d4", "d6", "d7"}
        assert collection.documents_count == 6
        assert collection.check() == []


def test_a_write_that_does_not_fit_changes_nothing_and_reads_go_on(
    tmp_path, spec, settings, documents, monkeypatch
):
    """SQLite itself says that it is full: it may not grow beyond its present pages."""
    opened = []

    class Remembered(sqlite3.Connection):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            opened.append(self)

    monkeypatch.setattr(database, "CONNECTION", Remembered)
    with Store.open(tmp_path / "data", settings) as store:
        collection = store.create(spec)
        collection.upsert(documents(5))
        before = state(collection)
        writer = opened[0]
        (pages,) = writer.execute("PRAGMA page_count").fetchone()
        writer.execute(f"PRAGMA max_page_count = {pages}")
        big = Document(id="big", text="long " * 100_000, vector=np.ones(8, np.float32))

        with pytest.raises(DiskFull):
            collection.upsert([*documents(5, seed=1), big])
        assert state(collection) == before
        assert collection.sequence == 1

        writer.execute("PRAGMA max_page_count = 1000000")
        collection.upsert([big])
        assert collection.documents_count == 6
        assert not collection.check()


def test_writes_stop_before_the_disk_is_full(tmp_path, spec, documents, settings):
    greedy = dataclasses.replace(settings, disk_free_bytes_min=2**62)
    with Store.open(tmp_path / "data", greedy) as store:
        collection = store.create(spec)

        with pytest.raises(DiskFull) as refusal:
            collection.upsert(documents(1))

        assert refusal.value.free_bytes > 0
        assert collection.search(Query(vector=np.ones(8))).hits == ()


def test_many_writers_each_get_their_own_answer(collection, documents):
    made = documents(200)
    collection.upsert(made[:100:2])

    def insert(document):
        try:
            return collection.upsert([document], mode=WriteMode.INSERT).sequence
        except DocumentExists as refusal:
            return refusal.id

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(insert, made))

    refused = [answer for answer in answers if isinstance(answer, str)]
    sequences = [answer for answer in answers if isinstance(answer, int)]
    assert refused == [f"d{i}" for i in range(0, 100, 2)]
    assert sorted(sequences) == list(range(2, 152))
    assert collection.sequence == 151
    assert collection.documents_count == 200
    assert not collection.check()


def test_a_reader_sees_whole_generations(collection, documents):
    """Each write replaces all documents with others; a mix would show two numbers."""
    stop = threading.Event()
    vector = np.ones(8, np.float32)

    def write():
        for generation in range(150):
            batch = [
                Document(
                    id=f"d{i}", text=f"g{generation}", metadata={"g": generation}, vector=vector
                )
                for i in range(5)
            ]
            collection.upsert(batch)
        stop.set()

    def read():
        seen = []
        while not stop.is_set():
            result = collection.search(Query(vector=vector, k=10))
            seen.append({hit.document.metadata["g"] for hit in result.hits})
            assert len(result.hits) in (0, 5)
            assert collection.count(Range("g", gte=0)) in (0, 5)
        return seen

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        pool.submit(write).result()
        seen = [generations for reader in readers for generations in reader.result()]

    assert len(seen) > 10
    assert all(len(generations) <= 1 for generations in seen)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MiB that is really full when it is full."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mount)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield mount
    # Lazily: a memory map of a segment lives as long as someone holds the collection.
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


def test_on_a_full_disk_writes_are_refused_and_nothing_is_lost(
    small_disk, spec, settings, documents
):
    with Store.open(small_disk, settings) as store:
        collection = store.create(spec)
        written = 0

        def fill():
            nonlocal written
            while True:
                made = documents(50, start=written)
                collection.upsert([dataclasses.replace(d, text="long " * 60) for d in made])
                written += 50

        with pytest.raises(DiskFull):
            fill()
        assert collection.documents_count == written > 100
        assert len(collection.search(Query(vector=np.ones(8), k=100, exact=True)).hits) == 100
        with pytest.raises(DiskFull):
            store.create(dataclasses.replace(spec, name="another"))
        assert [c.name for c in store.list()] == ["fruit"]

    with Store.open(small_disk, settings) as store:
        collection = store.collection("fruit")
        assert collection.documents_count == written
        assert collection.get([f"d{written - 1}"])[0].text.startswith("long")


def test_a_writer_behind_full_groups_leads_until_its_own_change_is_done(
    tmp_path, spec, settings, documents
):
    one_by_one = dataclasses.replace(settings, group_writes_max=1)
    writers = 16
    with Store.open(tmp_path / "data", one_by_one) as store, ThreadPoolExecutor(writers) as pool:
        collection = store.create(spec)
        writer = collection._engine._writer
        with writer.lock:  # nobody else leads until this thread's own change is done
            *others, mine = documents(writers)
            calls = [pool.submit(collection.upsert, [one]) for one in others]
            while len(writer._waiting) < len(others):
                time.sleep(0.001)
            last = collection.upsert([mine]).sequence
        sequences = sorted(call.result().sequence for call in calls)

    assert [*sequences, last] == list(range(last - len(others), last + 1))


def pages(count):
    """Documents of 100 kB each."""
    return [
        Document(id=f"p{i}", text=f"page {i} " + "word " * 20_000, vector=np.ones(8, np.float32))
        for i in range(count)
    ]


@contextmanager
def somebody_always_reading(collection):
    """Each view begins before the last one ends, as under steady load."""
    stop = threading.Event()

    def read():
        with ExitStack() as last:
            last.enter_context(collection._engine.view())
            while not stop.wait(0.01):
                with ExitStack() as following:
                    following.enter_context(collection._engine.view())
                    last.close()
                    last.push(following.pop_all())

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            yield
        finally:
            stop.set()
            reading.result()


def test_readers_that_always_overlap_do_not_make_the_log_grow_without_end(store, spec, monkeypatch):
    monkeypatch.setattr(database, "WAL_BYTES_KEPT", 2**20)
    collection = store.create(spec)
    log = collection.directory / "documents.sqlite3-wal"
    sizes = []

    with somebody_always_reading(collection):
        for _ in range(24):
            collection.upsert(pages(10))
            sizes.append(log.stat().st_size)

    assert max(sizes) < 8 * 2**20
    assert sizes.count(0) > 3
    assert collection.check() == []


def test_a_reader_that_stays_makes_few_writes_wait(store, spec, monkeypatch):
    monkeypatch.setattr(database, "WAL_BYTES_KEPT", 2**20)
    collection = store.create(spec)
    collection.upsert(pages(1))
    log = collection.directory / "documents.sqlite3-wal"
    tried = []
    real = database.truncate_log
    monkeypatch.setattr(
        database, "truncate_log", lambda connection: tried.append(real(connection)) or tried[-1]
    )

    with collection._engine.view() as view:
        for _ in range(10):
            collection.upsert(pages(3))
        assert view.reader.sequence() == 1
    grown = log.stat().st_size

    assert not any(tried)
    assert 1 <= len(tried) <= grown / 2**20
    while not any(tried):
        collection.upsert(pages(3))
    assert log.stat().st_size == 0
