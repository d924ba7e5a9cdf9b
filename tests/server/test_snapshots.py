"""Snapshots' names and files under the data directory, when something goes wrong."""

import errno
from pathlib import Path

import numpy as np
import pytest

from index.documents import Document
from index.errors import DiskFull, StorageFailed
from index.settings import StoreSettings
from index.spec import CollectionSpec
from index.store import Store
from index.torture.faults import Fault, Kind, Saboteur, When
from index.torture.watching import watched
from server.snapshots import Snapshots


@pytest.fixture
def collection(tmp_path):
    with Store.open(tmp_path, StoreSettings(disk_free_bytes_min=0)) as store:
        collection = store.create(CollectionSpec(name="fruit", dimensions=2))
        collection.upsert([Document(id="a", vector=np.ones(2, np.float32))])
        yield collection


def test_what_a_process_left_behind_that_died_is_cleared_by_the_next(tmp_path):
    left = tmp_path / "snapshots/fruit/.20260101T000000.000000Z"
    kept = tmp_path / "snapshots/fruit/20260101T000000.000000Z-1"
    for directory in (left, kept):
        directory.mkdir(parents=True)
        (directory / "documents.sqlite3").touch()

    Snapshots(tmp_path)

    assert not left.exists()
    assert (kept / "documents.sqlite3").exists()


def test_a_snapshot_that_cannot_get_its_name_leaves_nothing_and_says_so(
    tmp_path, collection, monkeypatch
):
    real = Path.rename

    def rename(self, target):
        if target.name.endswith("Z-1"):
            raise OSError(errno.ENOSPC, "a fault of the test")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)

    with pytest.raises(DiskFull):
        Snapshots(tmp_path).create(collection)

    assert list((tmp_path / "snapshots/fruit").iterdir()) == []


@pytest.mark.parametrize("when", [When.EARLY, When.LATE])
def test_a_disk_that_cannot_say_whether_a_snapshot_is_there_is_not_taken_for_a_missing_one(
    tmp_path, collection, when
):
    snapshots = Snapshots(tmp_path)
    name, *_ = snapshots.create(collection)

    with (
        watched(tmp_path, Saboteur(Fault(Kind.NO_LUCK, when, 1))),
        pytest.raises(StorageFailed),
    ):
        snapshots.path(name, "snapshot")

    assert snapshots.path(name, "snapshot").is_dir()
