"""What SQLite cannot tell: that its log was longer, or that its file changed while closed."""

import dataclasses
import shutil
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from index.errors import DataDamaged, ReadOnly
from index.filter import Equal
from index.seal import LINE_BYTES, Seal, read_seal
from index.store import Store


@pytest.fixture
def killed(tmp_path, settings, spec, documents):
    """The directory of a process that died after ten writes, with its write-ahead log."""
    with Store.open(tmp_path / "data", settings) as store:
        collection = store.create(spec)
        for start in range(0, 50, 5):
            collection.upsert(documents(5, start=start))
        shutil.copytree(tmp_path / "data", tmp_path / "killed")
    return tmp_path / "killed"


@pytest.fixture
def closed(tmp_path, settings, spec, documents):
    with Store.open(tmp_path / "data", settings) as store:
        store.create(spec).upsert(documents(50))
    return tmp_path / "data"


def database(directory):
    return directory / "collections/fruit/documents.sqlite3"


def execute(directory, sql):
    connection = sqlite3.connect(database(directory))
    with connection:
        connection.execute(sql)
    connection.close()


def test_a_killed_process_s_data_are_opened(killed, settings):
    with Store.open(killed, settings) as store:
        assert store.collection("fruit").documents_count == 50
        assert store.collection("fruit").sequence == 10


@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_acknowledged_writes_that_a_damaged_log_lost_are_missed(
    killed, settings, documents, damage
):
    log = database(killed).with_name("documents.sqlite3-wal")
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    match damage:
        case "cut":
            log.write_bytes(data[: len(data) // 2])
        case "flip":
            log.write_bytes(data)
        case "remove":
            log.unlink()

    with Store.open(killed, settings) as store:
        with pytest.raises(DataDamaged, match="write 10 was acknowledged"):
            store.collection("fruit")

        repair = store.repair("fruit")

        assert repair.lost == []
        assert repair.lost_writes[-1] == 10
        assert store.collection("fruit").upsert(documents(1)).sequence == 11
    with Store.open(killed, settings) as store:
        assert store.collection("fruit").sequence == 11


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM fields WHERE row = 5",
        "UPDATE fields SET value = 7 WHERE path = 'parity' AND row = 3",
        "INSERT INTO lexical (lexical) VALUES ('delete-all')",
    ],
)
def test_ways_to_documents_that_were_lost_while_closed_are_missed_before_anyone_is_answered(
    closed, settings, sql
):
    execute(closed, sql)

    with Store.open(closed, settings) as store:
        with pytest.raises(DataDamaged):
            store.collection("fruit")

        assert store.repair("fruit").lost == []

        assert store.collection("fruit").count(Equal("parity", 1)) == 25


def test_a_document_that_changed_while_closed_stops_writes_and_is_found_again_at_each_start(
    closed, settings, documents
):
    execute(closed, "UPDATE documents SET text = 'forged' WHERE id = 'd7'")

    for _ in range(2):
        with Store.open(closed, settings) as store:
            collection = store.collection("fruit")
            assert collection.get(["d8"])[0].id == "d8"
            with pytest.raises(DataDamaged, match="d7"):
                collection.get(["d7"])
            with pytest.raises(ReadOnly):
                collection.upsert(documents(1))


def test_a_file_that_somebody_changed_without_harm_is_served(closed, settings, caplog):
    execute(closed, "VACUUM")

    with Store.open(closed, settings) as store:
        assert store.collection("fruit").documents_count == 50
    assert "changed while it was closed" in caplog.text
    caplog.clear()
    with Store.open(closed, settings) as store:
        assert store.collection("fruit").documents_count == 50
    assert caplog.text == ""


LOOKING = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM documents").fetchone()[0])
connection.close()
"""


def test_who_looks_at_an_open_database_from_outside_costs_no_write(
    closed, settings, documents, tmp_path
):
    """The last connection that closes removes the log; without our locks theirs would be it."""
    with Store.open(closed, settings) as store:
        store.collection("fruit").upsert(documents(5, start=50))
        command = [sys.executable, "-c", LOOKING, database(closed)]
        assert subprocess.run(command, check=True, capture_output=True).stdout == b"55\n"
        assert database(closed).with_name("documents.sqlite3-wal").exists()
        store.collection("fruit").upsert(documents(5, start=55))
        # By another process, or our locks would go now.
        subprocess.run(["cp", "-r", closed, tmp_path / "killed"], check=True)

    with Store.open(tmp_path / "killed", settings) as store:
        assert store.collection("fruit").documents_count == 60
        assert store.collection("fruit").sequence == 3


def test_a_log_that_appears_while_closed_is_a_change(closed, settings, caplog, tmp_path):
    connection = sqlite3.connect(database(closed))
    connection.execute("UPDATE documents SET text = 'forged' WHERE id = 'd7'")
    connection.commit()
    subprocess.run(["cp", "-r", closed, tmp_path / "killed"], check=True)
    connection.close()

    with Store.open(tmp_path / "killed", settings) as store:
        assert store.collection("fruit").state == "read_only"
    assert "changed while it was closed" in caplog.text


def test_damage_that_check_found_is_not_sealed_as_right(closed, settings):
    with Store.open(closed, settings) as store:
        execute(closed, "DELETE FROM fields WHERE row = 5")
        assert store.collection("fruit").check()

    assert read_seal(database(closed).parent).digest == ""


@pytest.mark.parametrize("line", [b"", b"rubbish", b"x" * 128, None])
def test_a_seal_that_is_damaged_itself_is_made_again(closed, settings, line):
    path = database(closed).with_name("SEAL")
    if line is None:
        path.unlink()
    else:
        path.write_bytes(line)

    with Store.open(closed, settings) as store:
        assert store.collection("fruit").documents_count == 50

    assert read_seal(path.parent).digest


@examples(deadline=None)
@given(
    sequence=st.integers(0, 2**63 - 1), where=st.integers(0, LINE_BYTES - 1), bit=st.integers(0, 7)
)
def test_a_seal_has_one_length_and_no_wrong_bit_passes(tmp_path_factory, sequence, where, bit):
    seal = Seal("ab" * 16, sequence, "cd" * 32)
    directory = tmp_path_factory.getbasetemp()
    line = bytearray(seal.line())
    assert len(line) == LINE_BYTES
    (directory / "SEAL").write_bytes(line)
    assert read_seal(directory) == seal

    line[where] ^= 1 << bit
    (directory / "SEAL").write_bytes(line)

    assert read_seal(directory) is None


def test_a_database_above_the_limit_is_closed_and_opened_without_a_digest(
    tmp_path, settings, spec, documents
):
    hasty = dataclasses.replace(settings, sealed_bytes_max=1)
    with Store.open(tmp_path, hasty) as store:
        store.create(spec).upsert(documents(5))

    seal = read_seal(tmp_path / "collections/fruit")

    assert (seal.sequence, seal.digest) == (1, "")
    with Store.open(tmp_path, hasty) as store:
        assert store.collection("fruit").documents_count == 5
