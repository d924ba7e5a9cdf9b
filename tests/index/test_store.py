import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from index import snapshots
from index.collection import Collection
from index.documents import Query
from index.errors import (
    Closed,
    CollectionExists,
    CollectionNotFound,
    DataDamaged,
    DirectoryInUse,
    EtagMismatch,
    FormatTooNew,
    InvalidInput,
)
from index.spec import CollectionSpec
from index.store import Store

ROOT = Path(__file__).parents[2]

HOLDER = """
import sys, time
from pathlib import Path
from index.store import Store
store = Store.open(Path(sys.argv[1]))
print("open", flush=True)
time.sleep(60)
"""

# Writes batches of 1 to 20 documents and says which are durable. Each batch b has the documents
# b-0 … b-(size-1), and deletes the batch three before it.
WORKER = """
import sys
from pathlib import Path
import numpy as np
from index.documents import Document
from index.settings import StoreSettings
from index.store import Store
settings = StoreSettings(exact_vectors_max=100, flat_vectors_max=50, disk_free_bytes_min=0)
store = Store.open(Path(sys.argv[1]), settings)
collection = store.collection("c")
start = int(sys.argv[2])
for b in range(start, start + 10_000):
    rng = np.random.default_rng(b)
    size = int(rng.integers(1, 21))
    vectors = rng.normal(size=(size, 8)).astype(np.float32)
    documents = [Document(id=f"{b}-{i}", text=f"batch {b}", metadata={"b": b}, vector=v)
                 for i, v in enumerate(vectors)]
    collection.upsert(documents)
    print("written", b, size, flush=True)
    if b >= 3:
        collection.delete([f"{b - 3}-{i}" for i in range(20)])
        print("deleted", b - 3, flush=True)
"""


WAIT_S = 10


class Gate:
    """Who calls the function behind it waits until the gate is opened."""

    def __init__(self):
        self.reached = threading.Event()
        self.opened = threading.Event()

    def before(self, function):
        def waiting(*arguments, **named):
            self.reached.set()
            assert self.opened.wait(WAIT_S)
            return function(*arguments, **named)

        return waiting


@pytest.fixture
def threads():
    with ThreadPoolExecutor(4) as pool:
        yield pool


def python(source, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", source, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_a_directory_in_use_is_refused_and_the_error_names_the_process(tmp_path):
    with python(HOLDER, tmp_path) as holder:
        try:
            assert holder.stdout.readline() == "open\n"
            with pytest.raises(DirectoryInUse) as refusal:
                Store.open(tmp_path)
        finally:
            holder.kill()

    assert refusal.value.pid == holder.pid
    Store.open(tmp_path).close()


@pytest.mark.parametrize("rounds", [2, pytest.param(15, marks=pytest.mark.slow)])
def test_what_was_answered_survives_a_kill_and_nothing_else_appears(tmp_path, settings, rounds):
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    with Store.open(tmp_path, settings) as store:
        store.create(CollectionSpec(name="c", dimensions=8))
    sizes, deleted, next_batch = {}, set(), 0
    for _ in range(rounds):
        with python(WORKER, tmp_path, next_batch) as worker:
            lines = [worker.stdout.readline()]
            time.sleep(rng.uniform(0.05, 0.7))
            os.kill(worker.pid, signal.SIGKILL)
            lines += worker.stdout.readlines()
        for line in lines:
            match line.split():
                case ["written", batch, size]:
                    sizes[int(batch)] = int(size)
                case ["deleted", batch]:
                    deleted.add(int(batch))
        last = max(sizes)
        with Store.open(tmp_path, settings) as store:
            next_batch = verify(store.collection("c"), sizes, deleted, last) + 1


def verify(collection, sizes, deleted, last):
    """Every answered batch is whole or deleted. The one call that was running when the process
    died may have happened or not, but not by half. Returns the last batch that is there."""
    found: dict[int, int] = {}
    token = ""
    while True:
        page = collection.list(page_size=1000, page_token=token, with_vectors=True)
        for document in page.documents:
            batch = document.metadata["b"]
            found[batch] = found.get(batch, 0) + 1
            assert document.text == f"batch {batch}"
            assert np.linalg.norm(document.vector) == pytest.approx(1, abs=1e-5)
        token = page.next_page_token
        if not token:
            break
    for batch, size in sizes.items():
        maybe_deleted = batch in deleted or batch == last - 3
        assert found.get(batch, 0) in ((0, size) if maybe_deleted else (size,))
        assert not (batch in deleted and batch in found)
    extra = found.keys() - sizes.keys()
    assert extra <= {last + 1}
    for batch in extra:
        sizes[batch] = found[batch]
    assert collection.documents_count == sum(found.values())
    hits = collection.search(Query(vector=np.ones(8), k=1000, exact=True)).hits
    assert len(hits) == min(1000, sum(found.values()))
    assert collection.check() == []
    deleted.update(batch for batch in sizes if batch not in found)
    return max(sizes)


def test_data_of_a_later_version_is_left_alone(tmp_path):
    Store.open(tmp_path).close()
    (tmp_path / "FORMAT").write_text("2\n")

    with pytest.raises(FormatTooNew, match="data format 2; this version knows up to 1"):
        Store.open(tmp_path)

    (tmp_path / "FORMAT").write_text("rubbish")
    with pytest.raises(DataDamaged):
        Store.open(tmp_path)


def test_a_collection_of_a_later_version_is_named_and_the_others_are_served(
    tmp_path, spec, documents
):
    import sqlite3

    with Store.open(tmp_path) as store:
        store.create(spec)
        other = store.create(CollectionSpec(name="other", dimensions=8))
        other.upsert(documents(3))
    connection = sqlite3.connect(tmp_path / "collections/fruit/documents.sqlite3")
    with connection:
        connection.execute("UPDATE meta SET value = 2 WHERE key = 'format'")
    connection.close()

    with Store.open(tmp_path) as store:
        with pytest.raises(FormatTooNew):
            store.collection("fruit")
        with pytest.raises(FormatTooNew):
            store.repair("fruit")
        assert [collection.name for collection in store.list()] == ["other"]
        assert store.collection("other").documents_count == 3


@pytest.mark.parametrize("name", ["", "A", "a.b", "../a", "a/b", "-a", "a-", "1a", "a" * 64, "ä"])
def test_a_name_that_could_hurt_is_refused(store, name):
    with pytest.raises(InvalidInput) as refusal:
        store.create(CollectionSpec(name=name, dimensions=8))

    assert refusal.value.field == "name"
    assert store.list() == []


def test_a_collection_is_created_once_and_gone_when_deleted(store, spec, documents):
    collection = store.create(spec)
    collection.upsert(documents(1))
    with pytest.raises(CollectionExists):
        store.create(spec)

    store.delete("fruit")

    assert not collection.directory.exists()
    for call in (lambda: store.collection("fruit"), lambda: store.delete("fruit")):
        with pytest.raises(CollectionNotFound):
            call()
    with pytest.raises(Closed):
        collection.search(Query(vector=np.ones(8)))
    with pytest.raises(Closed):
        collection.upsert(documents(1))
    assert store.create(spec).documents_count == 0


def test_a_collection_at_hand_is_told_at_once_and_one_that_is_not_is_not(
    store, spec, threads, monkeypatch
):
    collection = store.create(spec)
    assert store.collection_at_hand("fruit") is collection
    assert store.collection_at_hand("missing") is None

    store._lock.acquire()
    try:
        assert threads.submit(store.collection_at_hand, "fruit").result(WAIT_S / 2) is None
    finally:
        store._lock.release()

    store.delete("fruit")
    assert store.collection_at_hand("fruit") is None


def test_while_one_collection_is_restored_the_others_are_served_and_its_name_is_taken(
    store, spec, tmp_path, threads, monkeypatch
):
    collection = store.create(spec)
    snapshot = collection.snapshot(tmp_path / "snapshot").path
    gate = Gate()
    monkeypatch.setattr(snapshots, "verify", gate.before(snapshots.verify))

    restoring = threads.submit(store.restore, snapshot, "again")
    try:
        assert gate.reached.wait(WAIT_S)
        assert threads.submit(store.collection, "fruit").result(WAIT_S / 2) is collection
        assert threads.submit(store.list).result(WAIT_S / 2) == [collection]
        with pytest.raises(CollectionExists):
            store.create(CollectionSpec(name="again", dimensions=8))
        with pytest.raises(CollectionExists):
            store.restore(snapshot, "again")
        for call in (store.collection, store.delete):
            with pytest.raises(CollectionNotFound):
                call("again")
    finally:
        gate.opened.set()

    restored = restoring.result(WAIT_S)
    assert store.list() == [restored, collection]


def test_while_one_collection_is_removed_the_others_are_served_and_its_name_is_taken(
    store, spec, threads, monkeypatch
):
    store.create(spec)
    other = store.create(CollectionSpec(name="other", dimensions=8))
    gate = Gate()
    with monkeypatch.context() as patched:
        patched.setattr(Collection, "close", gate.before(Collection.close))

        removing = threads.submit(store.delete, "fruit")
        try:
            assert gate.reached.wait(WAIT_S)
            assert threads.submit(store.list).result(WAIT_S / 2) == [other]
            with pytest.raises(CollectionExists):
                store.create(spec)
            with pytest.raises(CollectionNotFound):
                store.delete("fruit")
        finally:
            gate.opened.set()
        removing.result(WAIT_S)

    assert store.create(spec).documents_count == 0


def test_while_an_update_waits_for_the_writer_the_others_are_served(
    store, spec, threads, monkeypatch
):
    first = store.create(spec)
    gate = Gate()
    monkeypatch.setattr(Collection, "update_spec", gate.before(Collection.update_spec))

    updating = threads.submit(store.update, "fruit", description="apples")
    try:
        assert gate.reached.wait(WAIT_S)
        assert threads.submit(store.list).result(WAIT_S / 2) == [first]
    finally:
        gate.opened.set()

    assert updating.result(WAIT_S).spec.description == "apples"


def test_closing_waits_for_a_collection_that_is_being_made(
    tmp_path, settings, spec, threads, monkeypatch
):
    store = Store.open(tmp_path / "data", settings)
    snapshot = store.create(spec).snapshot(tmp_path / "snapshot").path
    gate = Gate()
    monkeypatch.setattr(snapshots, "verify", gate.before(snapshots.verify))

    restoring = threads.submit(store.restore, snapshot, "again")
    assert gate.reached.wait(WAIT_S)
    closing = threads.submit(store.close)
    time.sleep(0.05)
    assert not closing.done()
    gate.opened.set()
    closing.result(WAIT_S)

    with pytest.raises(Closed):
        restoring.result().search(Query(vector=np.ones(8)))
    with Store.open(tmp_path / "data", settings) as store:
        assert [collection.name for collection in store.list()] == ["again", "fruit"]


def test_an_update_needs_the_current_etag_when_it_gives_one(tmp_path, settings, spec):
    with Store.open(tmp_path, settings) as store:
        first = store.create(spec).etag
        store.update("fruit", description="apples", etag=first)
        with pytest.raises(EtagMismatch):
            store.update("fruit", description="pears", etag=first)
        with pytest.raises(EtagMismatch):
            store.delete("fruit", etag=first)
        second = store.collection("fruit").etag

    with Store.open(tmp_path, settings) as store:
        assert store.collection("fruit").spec.description == "apples"
        assert store.collection("fruit").etag == second != first


def test_what_was_left_by_an_interrupted_creation_is_cleared(tmp_path, settings, spec):
    with Store.open(tmp_path, settings):
        half = tmp_path / "collections/.fruit.making"
        half.mkdir()
        (half / "documents.sqlite3").write_bytes(b"half")

    with Store.open(tmp_path, settings) as store:
        assert not half.exists()
        store.create(spec)


def test_the_lock_file_is_plain_text(tmp_path):
    with Store.open(tmp_path):
        assert re.fullmatch(rf"{os.getpid()}\n", (tmp_path / "LOCK").read_text())
