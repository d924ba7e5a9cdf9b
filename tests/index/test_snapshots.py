import errno
from contextlib import suppress

import numpy as np
import pytest

from index.documents import Query
from index.errors import CollectionExists, DataDamaged, InvalidInput, StorageFailed
from index.files import sha256_of
from index.spec import CollectionSpec
from index.store import Store
from index.torture.disk import Remove
from index.torture.watching import watched


def hits(collection):
    query = Query(vector=np.ones(8), k=20, exact=True, with_vectors=True)
    return [(h.id, h.score, h.document.text) for h in collection.search(query).hits]


@pytest.fixture
def snapshot(collection, documents, tmp_path):
    collection.upsert(documents(100), request_id="r1")
    return collection.snapshot(tmp_path / "snapshot")


def test_a_restored_snapshot_answers_as_its_origin_did(store, collection, snapshot, documents):
    before = hits(collection)
    collection.upsert(documents(100, seed=1))

    restored = store.restore(snapshot.path, "again")

    assert hits(restored) == before
    assert restored.sequence == snapshot.sequence == 1
    assert restored.upsert(documents(100), request_id="r1").replayed
    assert restored.upsert(documents(100, seed=2)).sequence == 2
    assert hits(collection) != before


def test_a_snapshot_names_its_files_with_their_sums(snapshot):
    assert sorted(path.name for path in snapshot.path.iterdir()) == ["SNAPSHOT", *snapshot.files]
    for name, file in snapshot.files.items():
        assert sha256_of(snapshot.path / name) == file.sha256
        assert (snapshot.path / name).stat().st_size == file.bytes


@pytest.mark.parametrize("name", ["documents.sqlite3", "SNAPSHOT"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_snapshot_is_refused_and_leaves_nothing(store, snapshot, name, damage):
    path = snapshot.path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flip" else data[:-1])

    with pytest.raises(DataDamaged) as refusal:
        store.restore(snapshot.path, "again")

    assert refusal.value.path == path
    assert [collection.name for collection in store.list()] == ["fruit"]
    assert [path.name for path in (store.directory / "collections").iterdir()] == ["fruit"]
    store.create(CollectionSpec(name="again", dimensions=8))  # its name is free


def test_nothing_is_overwritten(store, collection, snapshot):
    with pytest.raises(InvalidInput, match="never overwritten"):
        collection.snapshot(snapshot.path)
    with pytest.raises(CollectionExists):
        store.restore(snapshot.path, "fruit")


def test_a_snapshot_of_a_busy_collection_is_one_moment(tmp_path, store, collection, documents):
    from concurrent.futures import ThreadPoolExecutor

    def write():
        for seed in range(40):
            collection.upsert(documents(10, seed=seed))

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        taken = [collection.snapshot(tmp_path / f"s{i}") for i in range(5)]
        writing.result()

    for i, snapshot in enumerate(taken):
        restored = store.restore(snapshot.path, f"r{i}")
        sequences = {document.sequence for document in restored.list(page_size=100).documents}
        assert sequences <= {snapshot.sequence}
        assert not restored.check()


def test_a_snapshot_survives_its_store(tmp_path, snapshot, settings):
    with Store.open(tmp_path / "elsewhere", settings) as other:
        assert other.restore(snapshot.path, "fruit").documents_count == 100


class Refusal:
    """Refuses to remove a file, the n-th time that somebody wants to."""

    def __init__(self, countdown):
        self.countdown = countdown

    def before(self, call):
        self.countdown -= isinstance(call, Remove)
        if isinstance(call, Remove) and self.countdown == 0:
            raise OSError(errno.EIO, "a fault of the test")

    def after(self, call):
        pass


def test_what_sqlite_could_not_remove_is_in_no_snapshot(tmp_path, collection, documents):
    collection.upsert(documents(20))
    taken = []
    for n in range(1, 20):
        refusal = Refusal(n)
        with suppress(StorageFailed), watched(tmp_path, refusal):
            taken.append(collection.snapshot(tmp_path / "snapshots" / f"s{n}"))
        if refusal.countdown > 0:
            break

    assert refusal.countdown > 0
    assert len(taken) > 2
    for snapshot in taken:
        assert {path.name for path in snapshot.path.iterdir()} == {"SNAPSHOT", "documents.sqlite3"}
