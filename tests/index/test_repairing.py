"""Damage to the database: it is named, nothing else suffers, and repair saves what is whole."""

import dataclasses
import random
import shutil
import sqlite3

import pytest

from index.checking import Part
from index.database import PAGE_BYTES
from index.documents import Query, SearchMode
from index.errors import DataDamaged, DiskFull, ReadOnly, StoreError
from index.filter import Equal
from index.seal import Seal
from index.spec import CollectionSpec
from index.store import Store

DATABASE = "collections/fruit/documents.sqlite3"


@pytest.fixture
def directory(tmp_path, settings, spec, documents):
    """A closed data directory with 200 documents in "fruit" and 3 in "other"."""
    with Store.open(tmp_path / "data", settings) as store:
        collection = store.create(spec)
        collection.upsert(documents(200))
        collection.wait_for_builds()
        store.create(CollectionSpec(name="other", dimensions=8)).upsert(documents(3))
    return tmp_path / "data"


def execute(path, sql, *parameters):
    """As damage does that came while the collection was open: no digest tells of it."""
    path.with_name("SEAL").unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(sql, parameters)
    connection.close()


def everything(collection, documents):
    """All answers of a collection, for comparison with what went in."""
    ids = [f"d{i}" for i in range(200)]
    dense = Query(vector=documents(1, seed=3)[0].vector, k=200, exact=True)
    words = Query(mode=SearchMode.LEXICAL, text="odd", k=200)
    return (
        [(d.id, d.text, d.metadata, d.vector.tobytes()) for d in collection.get(ids) if d],
        [(h.id, h.score) for h in collection.search(dense).hits],
        [(h.id, h.score) for h in collection.search(words).hits],
        [d.id for d in collection.list(page_size=1000, filter=Equal("parity", 1)).documents],
    )


def test_a_flipped_bit_in_a_document_is_noticed_and_stops_writes(directory, settings, documents):
    execute(directory / DATABASE, "UPDATE documents SET text = 'forged' WHERE id = 'd7'")

    with Store.open(directory, settings) as store:
        collection = store.collection("fruit")
        with pytest.raises(DataDamaged, match="document 'd7'"):
            collection.get(["d7"])
        with pytest.raises(ReadOnly):
            collection.upsert(documents(1))
        assert collection.state == "read_only"
        assert collection.get(["d8"])[0].id == "d8"
        store.collection("other").upsert(documents(4))


def test_repair_saves_what_is_whole_and_names_what_is_lost(directory, settings, documents):
    execute(directory / DATABASE, "UPDATE documents SET text = 'forged' WHERE id = 'd7'")
    execute(
        directory / DATABASE,
        "UPDATE vectors SET vector = zeroblob(32) WHERE row = (SELECT row FROM documents"
        " WHERE id = 'd9')",
    )

    with Store.open(directory, settings) as store:
        repair = store.repair("fruit")

        collection = store.collection("fruit")
        assert sorted(repair.lost) == ["d7", "d9"]
        assert repair.kept_documents == collection.documents_count == 198
        assert collection.state == "ready"
        assert collection.check() == []
        assert collection.upsert(documents(10)).inserted == 2
        assert len(list(collection.directory.glob("damaged-*/documents.sqlite3"))) == 1


@pytest.mark.parametrize(
    ("sql", "part"),
    [
        ("DELETE FROM fields WHERE row = 5", Part.DERIVED),
        ("INSERT INTO fields VALUES ('parity', 'n', 1, 999)", Part.DERIVED),
        ("UPDATE fields SET value = 77 WHERE path = 'n' AND row = 3", Part.DERIVED),
        ("INSERT INTO lexical (lexical) VALUES ('delete-all')", Part.DERIVED),
        ("INSERT INTO lexical (rowid, text) VALUES (3, 'forged')", Part.DERIVED),
        ("DELETE FROM vectors WHERE row = 5", Part.DATABASE),
    ],
)
def test_check_finds_what_repair_mends(directory, settings, documents, sql, part):
    with Store.open(directory, settings) as store:
        before = everything(store.collection("fruit"), documents)
    execute(directory / DATABASE, sql)

    with Store.open(directory, settings) as store:
        assert part in {finding.part for finding in store.collection("fruit").check()}
        repair = store.repair("fruit")
        assert store.collection("fruit").check() == []
        if not repair.lost:
            assert everything(store.collection("fruit"), documents) == before


@pytest.mark.parametrize("result", ["x'7b22ff'", "x'7b7d'", "x'5b5d'"])  # no UTF-8, {}, []
def test_check_finds_the_answer_of_a_request_that_cannot_be_read(
    tmp_path, settings, spec, documents, result
):
    with Store.open(tmp_path / "data", settings) as store:
        store.create(spec).upsert(documents(5), request_id="once")
    sql = f"UPDATE requests SET result = CAST({result} AS TEXT)"
    execute(tmp_path / "data" / DATABASE, sql)

    with Store.open(tmp_path / "data", settings) as store:
        findings = store.collection("fruit").check()
        store.repair("fruit")
        assert store.collection("fruit").check() == []
        assert len(store.collection("fruit").get([f"d{i}" for i in range(5)])) == 5

    assert [finding.part for finding in findings] == [Part.DATABASE]
    assert "the answer to request" in findings[0].problem


def test_a_file_that_is_no_database_is_named_and_the_rest_is_served(directory, settings, documents):
    (directory / DATABASE).write_bytes(b"rubbish" * 1000)

    with Store.open(directory, settings) as store:
        with pytest.raises(DataDamaged, match="not a database"):
            store.collection("fruit")
        assert list(store.damaged) == ["fruit"]
        assert store.collection("other").documents_count == 3

        repair = store.repair("fruit")
        assert repair.salvaged
        assert store.collection("fruit").upsert(documents(1)).inserted == 1


def test_words_whose_table_cannot_even_be_opened_cost_no_document(directory, settings):
    connection = sqlite3.connect(directory / DATABASE)
    connection.execute("PRAGMA writable_schema = ON")
    with connection:
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'tokenize =', 'tokenize 9')"
            " WHERE name = 'lexical'"
        )
    connection.close()

    with Store.open(directory, settings) as store:
        repair = store.repair("fruit")

        assert (repair.lost, repair.kept_documents) == ([], 200)
        assert store.collection("fruit").check() == []
        words = Query(mode=SearchMode.LEXICAL, text="odd", k=200)
        assert len(store.collection("fruit").search(words).hits) == 100


def flip_in_index_of_ids(path, id, bit):
    """As damage does that came while the collection was open: no digest tells of it."""
    path.with_name("SEAL").unlink()
    connection = sqlite3.connect(path)
    (root,) = connection.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_documents_1'"
    ).fetchone()
    connection.close()
    data = bytearray(path.read_bytes())
    start = (root - 1) * PAGE_BYTES
    where = data.index(id.encode(), start, start + PAGE_BYTES)  # 200 ids fit in the root page
    data[where + len(id) - 1] ^= 1 << bit
    path.write_bytes(data)


def test_of_two_rows_with_one_id_repair_keeps_the_newer(directory, settings, documents):
    """The index leads from "d9;" to the old d99, the last of all ids: a write inserts another."""
    flip_in_index_of_ids(directory / DATABASE, "d99", bit=1)

    with Store.open(directory, settings) as store:
        newest = dataclasses.replace(documents(1, start=99)[0], text="the newest text")
        assert store.collection("fruit").upsert([newest]).inserted == 1

        repair = store.repair("fruit")

        collection = store.collection("fruit")
        assert repair.lost == ["row 100, an older version of d99"]
        assert repair.kept_documents == collection.documents_count == 200
        assert all(collection.get([f"d{i}" for i in range(200)]))
        assert collection.get(["d99"])[0].text == "the newest text"
        words = Query(mode=SearchMode.LEXICAL, text="newest", k=200)
        assert [hit.id for hit in collection.search(words).hits] == ["d99"]
        assert collection.check() == []


FAULTS = [(OSError(28, "a fault of the test"), DiskFull), (MemoryError("a fault"), MemoryError)]


@pytest.mark.parametrize(("fault", "shown"), FAULTS)
@pytest.mark.parametrize("opens", [True, False])
def test_after_a_repair_that_failed_the_disk_is_asked_what_there_is(  # noqa: PLR0917  fixtures
    directory, settings, monkeypatch, fault, shown, opens
):
    sql = "DELETE FROM vectors WHERE row = 5"
    if not opens:
        sql = "UPDATE meta SET value = 'rubbish' WHERE key = 'spec'"
    execute(directory / DATABASE, sql)

    def failing(*_):
        raise fault

    with Store.open(directory, settings) as store:
        with monkeypatch.context() as patch:
            patch.setattr("index.repairing.salvage", failing)
            with pytest.raises(shown):
                store.repair("fruit")
        if opens:
            assert store.collection("fruit").get(["d8"])[0].id == "d8"
        else:
            with pytest.raises(DataDamaged, match="specification"):
                store.collection("fruit")
        assert store.repair("fruit").kept_documents == (199 if opens else 200)
        assert store.collection("fruit").check() == []


def test_a_seal_of_another_database_says_nothing_to_a_repair(directory, settings, documents):
    path = directory / DATABASE
    execute(path, "UPDATE meta SET value = 'rubbish' WHERE key = 'spec'")
    path.with_name("SEAL").write_bytes(Seal("ab" * 16, 500).line())

    with Store.open(directory, settings) as store:
        assert list(store.damaged) == ["fruit"]

        repair = store.repair("fruit")

        assert (repair.lost, repair.lost_writes) == ([], range(0))
        assert store.collection("fruit").sequence == 1


@pytest.mark.parametrize("step", ["database", "log"])
def test_an_interrupted_repair_is_completed_when_opening(directory, settings, step):
    """The new database is complete; the process dies while it takes the old one's place."""
    path = directory / DATABASE
    shutil.copyfile(path, path.with_name("documents.sqlite3.repaired"))
    path.with_name("documents.sqlite3-wal").write_bytes(b"an old log")
    path.unlink()
    if step == "log":
        path.with_name("documents.sqlite3-wal").unlink()

    with Store.open(directory, settings) as store:
        assert store.collection("fruit").documents_count == 200
        assert store.collection("fruit").check() == []


@pytest.mark.parametrize("rounds", [12, pytest.param(150, marks=pytest.mark.slow)])
def test_no_flipped_or_lost_bytes_make_a_wrong_answer_that_check_does_not_find(
    directory, settings, documents, tmp_path, rounds
):
    """Each answer is right, or an error that says so, or check names the file; then repair
    leaves a sound collection of documents that were there."""
    with Store.open(directory, settings) as store:
        before = everything(store.collection("fruit"), documents)
    whole = {found[0]: found for found in before[0]}
    rng = random.Random(rounds)
    for round in range(rounds):
        damaged = tmp_path / f"damaged{round}"
        shutil.copytree(directory, damaged)
        path = damaged / DATABASE
        data = bytearray(path.read_bytes())
        if round % 4:
            for _ in range(rng.choice([1, 1, 20])):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            data = data[: rng.randrange(len(data))]
        path.write_bytes(data)

        with Store.open(damaged, settings) as store:
            assert store.collection("other").documents_count == 3
            named = bool(store.damaged)
            if not named:
                collection = store.collection("fruit")
                try:
                    right = everything(collection, documents) == before
                except StoreError:
                    right = False
                named = bool(collection.check())
                assert right or named
            if named:
                store.repair("fruit")
                collection = store.collection("fruit")
                assert collection.check() == []
                for document in collection.list(page_size=1000, with_vectors=True).documents:
                    kept = (document.id, document.text, document.metadata)
                    assert (*kept, document.vector.tobytes()) == whole[document.id]
        shutil.rmtree(damaged)


def test_a_collection_that_found_no_memory_to_be_opened_again_is_tried_at_the_next_call(
    directory, settings, monkeypatch
):
    def failing(*_):
        raise MemoryError

    with Store.open(directory, settings) as store:
        with monkeypatch.context() as patch:
            patch.setattr("index.store.mend", failing)
            patch.setattr("index.store.Collection", failing)
            for ask in (store.repair, store.collection):
                with pytest.raises(MemoryError):
                    ask("fruit")
        assert store.collection("fruit").get(["d8"])[0].id == "d8"
