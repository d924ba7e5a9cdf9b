"""`polyseme-server check` on data directories, sound and damaged."""

import sqlite3

import numpy as np
import pytest

from index.documents import Document
from index.settings import StoreSettings
from index.spec import CollectionSpec
from index.store import Store
from server.maintenance import CANNOT, FOUND, SOUND, check

DIMENSIONS = 4


@pytest.fixture
def data(tmp_path):
    """A data directory with two collections of fifty documents."""
    rng = np.random.default_rng(0)
    with Store.open(tmp_path, StoreSettings()) as store:
        for name in ("apples", "pears"):
            collection = store.create(CollectionSpec(name=name, dimensions=DIMENSIONS))
            collection.upsert(
                [
                    Document(
                        id=f"{i:02}",
                        text=f"sentence number {i}",
                        metadata={"number": i},
                        vector=rng.normal(size=DIMENSIONS).astype(np.float32),
                    )
                    for i in range(50)
                ]
            )
    return tmp_path


def run(data, *, repair=False):
    """The exit status and what was printed."""
    lines = []
    status = check(data, repair=repair, write=lines.append)
    return status, "\n".join(lines)


def execute(data, sql):
    (file,) = (data / "collections" / "apples").glob("*.sqlite3")
    connection = sqlite3.connect(file)
    with connection:
        connection.execute(sql)
    connection.close()


def test_a_sound_directory_is_verified_and_nothing_is_found(data):
    status, said = run(data)

    assert status == SOUND
    assert "apples" in said
    assert "pears" in said
    assert said.count("50 documents") == 4
    assert "FOUND" not in said


def test_a_changed_document_is_found_and_named_and_nothing_is_touched(data):
    execute(data, "UPDATE documents SET metadata = '{\"number\":999}' WHERE id = '07'")

    status, said = run(data)
    again, _ = run(data)

    assert (status, again) == (FOUND, FOUND)
    assert "'07'" in said
    assert "--repair" in said


def test_repair_tells_what_was_lost_and_keeps_the_rest(data):
    execute(data, "UPDATE documents SET metadata = '{\"number\":999}' WHERE id = '07'")

    status, said = run(data, repair=True)
    after, _ = run(data)

    assert status == FOUND  # a document was lost: whoever watches the status must know
    assert "1 document lost: 07" in said
    assert "49 documents kept" in said
    assert after == SOUND


def test_filter_values_are_made_again_without_a_loss(data):
    execute(data, "DELETE FROM fields WHERE value = 3")

    found, said = run(data)
    mended, told = run(data, repair=True)

    assert found == FOUND
    assert "missing from the filter values" in said
    assert mended == SOUND
    assert "50 documents kept" in told
    assert run(data)[0] == SOUND


def test_a_database_that_cannot_be_opened_does_not_hide_the_others(data):
    (file,) = (data / "collections" / "apples").glob("*.sqlite3")
    file.write_bytes(b"this is no database at all " * 1000)

    status, said = run(data)

    assert status == FOUND
    assert "cannot be opened" in said
    assert "pears" in said


def test_a_directory_in_use_cannot_be_checked_and_its_user_is_named(data, capsys):
    with Store.open(data, StoreSettings()):
        status, _ = run(data)

    assert status == CANNOT
    assert "in use by process" in capsys.readouterr().err


def test_what_is_no_data_directory_is_refused_and_not_made_one(tmp_path, capsys):
    status, _ = run(tmp_path)

    assert status == CANNOT
    assert "no data directory" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_format_of_a_later_version_cannot_be_checked(data, capsys):
    (data / "FORMAT").write_text("999\n")

    assert run(data)[0] == CANNOT
    assert "newer version" in capsys.readouterr().err


def test_a_directory_without_collections_is_sound(tmp_path):
    Store.open(tmp_path, StoreSettings()).close()

    status, said = run(tmp_path)

    assert status == SOUND
    assert "no collections" in said
