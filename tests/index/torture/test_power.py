"""The power goes: what was acknowledged is there, the rest whole or not at all."""

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from index import database
from index.torture import power
from index.torture.disk import Create, MakeDirectory, Remove, Rename, Sync, Truncate, Write
from index.torture.place import temporary_home
from index.torture.platter import SECTOR_BYTES, Fate, Platter

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize(("every", "seeds"), [(17, 1), pytest.param(1, 3, marks=pytest.mark.slow)])
def test_after_a_power_cut_what_was_acknowledged_is_there(every, seeds):
    recording = power.record()

    results = list(power.run(recording, power.every_cut(recording, seeds=seeds, every=every)))

    assert [str(result) for result in results if result.wrong] == []
    assert len(results) > 80


def test_the_recording_ends_in_what_is_on_the_disk():
    """The platter, with everything kept, is the directory that the history left."""
    recording = power.record()
    platter = Platter(recording.home)
    for change in recording.changes:
        platter.apply(change)

    with temporary_home() as home:
        platter.leave(home, Fate.KEPT, random.Random(0))

        assert list(power.wrong_with(home, recording.states[-1:])) == []


# The platter itself

HOME = Path("/home")
FILE = HOME / "file"


def left(changes, fate=Fate.LOST, seed=0):
    """{name: bytes} after a power cut; directories are None."""
    platter = Platter(HOME)
    for change in changes:
        platter.apply(change)
    with temporary_home() as home:
        platter.leave(home, fate, random.Random(seed))
        return {
            str(path.relative_to(home)): path.read_bytes() if path.is_file() else None
            for path in home.rglob("*")
        }


def test_what_was_not_synced_is_lost():
    assert left([Create(FILE), Write(FILE, 0, b"x")]) == {}
    assert left([Create(FILE), Write(FILE, 0, b"x"), Sync(HOME)]) == {"file": b""}
    assert left([Create(FILE), Write(FILE, 0, b"x"), Sync(FILE)]) == {}
    assert left([Create(FILE), Write(FILE, 0, b"x"), Sync(FILE), Sync(HOME)]) == {"file": b"x"}


def test_a_log_s_first_sync_makes_its_name_durable_too():
    changes = [Create(FILE, synced_name=True), Write(FILE, 0, b"x"), Sync(FILE)]

    assert left(changes) == {"file": b"x"}


def test_a_rename_without_a_sync_of_the_directory_may_be_undone():
    new = HOME / "file.tmp"
    changes = [
        *(Create(FILE), Write(FILE, 0, b"old"), Sync(FILE), Sync(HOME)),
        *(Create(new), Write(new, 0, b"new"), Sync(new), Rename(new, FILE)),
    ]

    assert left(changes) == {"file": b"old"}
    assert left(changes, Fate.EARLY_NAMES) == {"file": b"new"}
    assert left([*changes, Sync(HOME)]) == {"file": b"new"}
    outcomes = [left(changes, Fate.TORN, seed) for seed in range(30)]
    assert {"file": b"old", "file.tmp": b"new"} in outcomes


def test_directories_move_with_what_is_in_them_and_go():
    inner = HOME / "a" / "file"
    changes = [MakeDirectory(HOME / "a"), Create(inner), Rename(HOME / "a", HOME / "b")]

    assert left([*changes, Sync(HOME)]) == {"b": None, "b/file": b""}
    gone = [Remove(HOME / "b" / "file"), Remove(HOME / "b"), Sync(HOME)]
    assert left([*changes, *gone]) == {}


@examples(deadline=None)
@given(seed=st.integers(0, 99), sectors=st.integers(1, 6))
def test_a_torn_write_is_torn_between_sectors(seed, sectors):
    data = b"".join(bytes([i + 1]) * SECTOR_BYTES for i in range(sectors))
    changes = [Create(FILE), Sync(HOME), Write(FILE, 0, data)]

    torn = left(changes, Fate.TORN, seed).get("file", b"")

    for i in range(0, len(torn), SECTOR_BYTES):
        assert torn[i : i + SECTOR_BYTES] in (bytes(SECTOR_BYTES), data[i : i + SECTOR_BYTES])


def test_a_truncated_file_is_filled_with_zeros_when_it_grows():
    changes = [Create(FILE), Write(FILE, 0, b"xyz"), Truncate(FILE, 1), Truncate(FILE, 3)]

    assert left([*changes, Sync(FILE), Sync(HOME)]) == {"file": b"x\0\0"}


# Bugs that were in the store, or might be, and must be found if they come back.


def found():
    recording = power.record()
    cuts = power.every_cut(recording, seeds=2, every=2)
    return next((str(result) for result in power.run(recording, cuts) if result.wrong), None)


@pytest.mark.slow
def test_a_database_that_is_not_synced_at_commits_is_found_out(monkeypatch):
    real = database.configure

    def configure(connection, *, writer):
        real(connection, writer=writer)
        connection.execute("PRAGMA synchronous = NORMAL")

    monkeypatch.setattr(database, "configure", configure)

    assert found()


@pytest.mark.slow
def test_names_that_are_not_synced_are_found_out(monkeypatch):
    for module in ("files", "store", "segments", "snapshots"):
        monkeypatch.setattr(f"index.{module}.sync_directory", lambda directory: None)

    assert found()


@pytest.mark.slow
def test_files_that_are_not_synced_are_found_out(monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            real(descriptor)

    monkeypatch.setattr("index.segments.os", _Os(fsync))

    assert found()


class _Os:
    """The module `os` with another fsync, for one module alone."""

    def __init__(self, fsync):
        self.fsync = fsync

    def __getattr__(self, name):
        return getattr(os, name)
