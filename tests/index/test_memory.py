"""Memory does not grow with what is removed, mended or opened."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from index.documents import Document
from index.filter import And
from index.repairing import rebuild_derived
from index.spec import CollectionSpec
from index.store import Store

TEXT = "word " * 20_000  # 100 kB
COUNT = 60


def peak_bytes(call):
    """The most memory that Python and numpy had while `call` ran, beyond what they had before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture
def bulky(collection, documents):
    collection.upsert([dataclasses.replace(d, text=TEXT) for d in documents(COUNT)])
    return collection


def test_a_purge_has_one_document_in_memory_at_a_time(bulky):
    assert peak_bytes(lambda: bulky.purge(And(()))) < 10 * len(TEXT)
    assert bulky.documents_count == 0


def test_a_deletion_has_one_document_in_memory_at_a_time(bulky):
    assert peak_bytes(lambda: bulky.delete([f"d{i}" for i in range(COUNT)])) < 10 * len(TEXT)
    assert bulky.documents_count == 0


def test_rebuilding_words_and_filters_has_one_document_in_memory_at_a_time(store, bulky):
    path = bulky.directory / "documents.sqlite3"
    spec = bulky.spec
    store.close()

    assert peak_bytes(lambda: rebuild_derived(path, spec)) < 10 * len(TEXT)


def test_opening_has_the_vectors_of_the_buffer_in_memory_once(tmp_path):
    width = 128
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(8_000, width)).astype(np.float32)
    with Store.open(tmp_path) as store:
        collection = store.create(CollectionSpec(name="c", dimensions=width))
        collection.upsert([Document(id=f"d{i}", vector=v) for i, v in enumerate(vectors)])

        peak = peak_bytes(lambda: collection._engine._load([]))

    room = 2 * vectors.nbytes  # the buffer's storage has as much again for what comes
    assert peak < room + 0.8 * vectors.nbytes
