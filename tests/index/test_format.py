"""Data that earlier versions wrote. A new format gets a directory of its own here, and the old
ones stay: this version opens them all."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from index.documents import Document, Query, SearchMode
from index.filter import Equal
from index.settings import StoreSettings
from index.spec import CollectionSpec
from index.store import Store

STORED = sorted((Path(__file__).parent / "data").glob("format-*.tar.gz"))

SETTINGS = StoreSettings(exact_vectors_max=20, flat_vectors_max=10, disk_free_bytes_min=0)


def metadata(i):
    return {"n": i, "even": i % 2 == 0}


def write_stored_data(directory):
    """How the stored directories were made; run it before a format changes."""
    with Store.open(directory, SETTINGS) as store:
        spec = CollectionSpec(
            name="fruit", dimensions=4, description="äpfel", fingerprint_hash="f00d"
        )
        collection = store.create(spec)
        vectors = np.eye(30, 4, dtype=np.float32) + 0.5
        documents = [
            Document(
                id=f"d{i:02}", text=f"Apfel {i}", metadata={"n": i, "even": i % 2 == 0}, vector=v
            )
            for i, v in enumerate(vectors)
        ]
        collection.upsert(documents, request_id="first")
        collection.wait_for_builds()
        collection.delete(["d03"])


@pytest.fixture(params=[*STORED, None], ids=lambda path: path.name if path else "today")
def directory(request, tmp_path):
    if request.param is None:
        write_stored_data(tmp_path / "data")
    else:
        with tarfile.open(request.param) as archive:
            archive.extractall(tmp_path / "data", filter="data")
    return tmp_path / "data"


def test_data_of_every_format_is_opened_searched_and_written(directory):
    with Store.open(directory, SETTINGS) as store:
        collection = store.collection("fruit")
        assert (collection.documents_count, collection.sequence) == (29, 2)
        assert collection.spec.description == "äpfel"
        assert [s.kind for s in collection.statistics().segments] == ["scan"]
        nearest = collection.search(Query(vector=np.array([0, 1, 0, 0]), k=1)).hits[0]
        assert (nearest.id, nearest.document.metadata) == ("d01", {"n": 1, "even": False})
        words = collection.search(Query(mode=SearchMode.LEXICAL, text="äpfel 7 apfel", k=1))
        assert words.hits[0].id == "d07"
        assert collection.count(Equal("even", True)) == 15
        assert collection.check() == []
        new = Document(id="new", vector=np.ones(4, np.float32))
        assert collection.upsert([new]).sequence == 3
