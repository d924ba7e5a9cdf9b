"""What a compaction leaves, and whom it keeps waiting."""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from index import engine, lexical
from index.documents import Query, SearchMode
from index.errors import Closed, ReadOnly


@pytest.fixture
def worn(collection, documents):
    """A collection whose words are in several segments of FTS5, with deletions among them."""
    for start in range(0, 300, 50):
        collection.upsert(documents(50, start=start))
    collection.delete([f"d{i}" for i in range(0, 300, 3)])
    return collection


def words_segments(collection):
    with collection._engine.view() as view:
        sql = "SELECT count(DISTINCT segid) FROM lexical_idx"
        return view.reader.connection.execute(sql).fetchone()[0]


@pytest.mark.parametrize("pages", [1, lexical.MERGED_PAGES])
def test_after_a_compaction_the_words_are_in_one_segment_and_the_log_is_empty(
    worn, monkeypatch, pages
):
    monkeypatch.setattr(lexical, "MERGED_PAGES", pages)
    odd = Query(mode=SearchMode.LEXICAL, text="odd", k=300)
    before = [(hit.id, hit.score) for hit in worn.search(odd).hits]
    assert words_segments(worn) > 1

    worn.compact()

    assert words_segments(worn) == 1
    assert (worn.directory / "documents.sqlite3-wal").stat().st_size == 0
    assert [(hit.id, hit.score) for hit in worn.search(odd).hits] == before
    assert worn.check() == []


def test_writes_go_on_between_the_steps_of_a_compaction(worn, documents, monkeypatch):
    monkeypatch.setattr(lexical, "MERGED_PAGES", 1)
    for i, document in enumerate(documents(20)):
        words = " ".join(f"word{i}and{j}" for j in range(500))
        worn.upsert([dataclasses.replace(document, text=words)])
    sequences = []

    def merge(connection, *, first):
        sequences.append(worn.sequence)
        time.sleep(0.01)  # a large step
        return lexical.merge_words(connection, first=first)

    monkeypatch.setattr(engine, "merge_words", merge)
    with ThreadPoolExecutor(1) as pool:
        compacting = pool.submit(worn.compact)
        while not compacting.done():
            worn.upsert(documents(1, start=1_000))
        compacting.result()

    # FTS5 merges a little at each write, so that two steps may be left.
    assert len(sequences) > 1
    assert len(set(sequences)) > len(sequences) / 2


def test_a_reader_that_stays_makes_no_write_wait_for_a_compaction_to_end(worn, documents):
    waits = []
    with ThreadPoolExecutor(1) as pool, worn._engine.view():
        worn.upsert(documents(1))  # so that the reader keeps the log
        compacting = pool.submit(worn.compact)
        while not compacting.done():
            start = time.monotonic()
            worn.upsert(documents(1))
            waits.append(time.monotonic() - start)
        compacting.result()

    assert len(waits) > 1
    assert max(waits) < 3  # a try and a slow machine; it was ten seconds once


def test_a_compaction_says_that_it_could_not_shorten_the_log(worn, documents, caplog):
    with worn._engine.view():
        worn.upsert(documents(1))
        worn.compact()

    assert "not shortened" in caplog.text


def test_a_collection_that_may_only_be_read_is_not_compacted(worn):
    worn._engine.reason = "a fault of the test"

    with pytest.raises(ReadOnly):
        worn.compact()


def test_a_closed_collection_is_not_maintained(store, worn):
    spec = worn.spec
    store.delete("fruit")

    for call in (worn.compact, worn.check, lambda: worn.update_spec(spec)):
        with pytest.raises(Closed):
            call()
