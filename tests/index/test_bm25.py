"""The words' side of a search against FTS5's own bm25()."""

import dataclasses
import random
import sqlite3
import threading

import numpy as np
import pytest

from index import bm25
from index.bm25 import Lengths
from index.documents import Document, Query, SearchMode
from index.errors import DataDamaged
from index.filter import Equal

WORDS = [*"abcdefg", "äpfel", "漢字", "x" * 300]
WIDTH = 8
DATABASE = "documents.sqlite3"

# Ties at the k-th place count too, so that they can be ordered by id.
BY_FTS5 = """
SELECT d.id, -bm25(lexical) AS score FROM lexical JOIN documents AS d ON d.row = lexical.rowid
WHERE lexical MATCH ? AND d.metadata LIKE ? ORDER BY -score, d.id LIMIT ?
"""


def written(rng, number):
    """Document `number`, of few different words, the first ones often and some texts very long."""
    length = rng.choice([1, 2, 5, 20, 300])
    words = rng.choices(WORDS, weights=range(len(WORDS), 0, -1), k=length)
    vector = np.float32([rng.gauss(0, 1) for _ in range(WIDTH)])
    parity = {"parity": number % 2}
    return Document(id=f"d{number}", text=" ".join(words), metadata=parity, vector=vector)


def by_words(collection, words, k, filter=None):
    query = Query(mode=SearchMode.LEXICAL, text=" ".join(words), k=k, filter=filter)
    return [(hit.id, hit.score) for hit in collection.search(query).hits]


def by_fts5(collection, words, k, metadata="%"):
    connection = sqlite3.connect(collection.directory / DATABASE)
    match = " OR ".join(f'"{word}"' for word in dict.fromkeys(words))
    found = connection.execute(BY_FTS5, (match, metadata, k)).fetchall()
    connection.close()
    return found


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_fts5_to_the_bit_whatever_was_written(collection, seed):
    rng = random.Random(seed)
    for step in range(30):
        numbers = rng.sample(range(120), rng.choice([1, 3, 40]))
        if rng.random() < 0.7:
            collection.upsert([written(rng, number) for number in numbers])
        else:
            collection.delete([f"d{number}" for number in numbers])
        if step == 20:
            collection.compact()

        words, k = rng.sample(WORDS, rng.choice([1, 2, 5])), rng.choice([1, 10, 200])
        assert by_words(collection, words, k) == by_fts5(collection, words, k)
        odd = by_words(collection, words, k, Equal("parity", 1))
        assert odd == by_fts5(collection, words, k, '%"parity":1%')


@pytest.mark.parametrize("at_once", [7, 100])
def test_what_is_read_and_added_up_in_pieces_is_the_same_to_the_bit(
    collection, monkeypatch, at_once
):
    monkeypatch.setattr(bm25, "PLACES_AT_ONCE", at_once)
    monkeypatch.setattr(bm25, "POSTINGS_AT_ONCE", at_once)
    rng = random.Random(0)
    collection.upsert([written(rng, number) for number in range(40)])
    # As many places as pieces have: the last piece is empty.
    collection.upsert([dataclasses.replace(written(rng, 40), text="full " * 100)])

    for words in (["a"], ["c", "a", "äpfel"], WORDS, ["full"]):
        assert by_words(collection, words, 40) == by_fts5(collection, words, 40)


def test_a_word_longer_than_fts5_keeps_is_found_by_what_it_keeps(collection, documents):
    [document] = documents(1)
    long = "ä" * 20_000  # 40,000 bytes
    collection.upsert([*documents(3, start=1), dataclasses.replace(document, text=f"ö {long}")])

    assert [id for id, _ in by_words(collection, [long], 5)] == ["d0"]


def test_a_search_that_began_before_a_write_counts_the_words_as_they_were(collection, documents):
    collection.upsert(documents(60))
    before = by_words(collection, ["number", "odd", "7"], 60)

    with collection._engine.view() as old:
        collection.delete(["d7", "d59"])
        collection.upsert(documents(20, start=60))
        after = by_words(collection, ["number", "odd", "7"], 90)  # reads all lengths of now
        rows = old.generation.lexicon.postings(old.reader, "number").rows
        lengths = old.lengths.of(old.reader, rows, 60)

    assert (len(before), len(after), len(rows)) == (60, 78, 60)
    assert lengths.tolist() == [4.0] * 60


def test_lengths_of_texts_that_are_gone_are_forgotten(collection, documents, monkeypatch):
    monkeypatch.setattr(bm25, "SPARE_ROWS", 20)
    lengths = Lengths()

    for round in range(10):
        collection.upsert(documents(30, seed=round))  # in new rows
        with collection._engine.view() as view:
            rows = view.generation.lexicon.postings(view.reader, "number").rows
            assert lengths.of(view.reader, rows, 30).tolist() == [4.0] * 30

    assert len(lengths._known.rows) <= 2 * 30 + 20 + 30


def test_a_generation_remembers_no_more_postings_than_it_has_room_for(
    collection, documents, monkeypatch
):
    monkeypatch.setattr(bm25, "ROWS_KNOWN_MAX", 150)
    collection.upsert(documents(60))

    several = [by_words(collection, words, 60) for words in (["number"], ["odd"], ["is"], ["7"])]

    assert [len(found) for found in several] == [60, 30, 60, 1]
    with collection._engine.view() as view:
        kept = view.generation.lexicon._postings.values()
    assert sum(len(known.rows) for known in kept) == 61


def test_who_reads_a_word_beside_another_takes_no_room_for_it_again(
    collection, documents, monkeypatch
):
    collection.upsert(documents(60))
    read = bm25._read_postings

    with collection._engine.view() as view:
        lexicon = view.generation.lexicon
        room = lexicon._room

        def slow(reader, word):
            monkeypatch.setattr(bm25, "_read_postings", read)
            lexicon.postings(reader, word)  # the other is done first
            return read(reader, word)

        monkeypatch.setattr(bm25, "_read_postings", slow)
        found = lexicon.postings(view.reader, "number")

    assert len(found.rows) == 60
    assert room - lexicon._room == 60 + len("number") + bm25.ROWS_OF_A_WORD


def test_many_may_search_for_words_at_once(collection, documents):
    collection.upsert(documents(60))
    true = by_words(collection, ["number", "7"], 60)
    answers = []

    def search():
        answers.extend(by_words(collection, ["number", "7"], 60) for _ in range(5))

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(5):
        collection.upsert([dataclasses.replace(documents(1)[0], id=f"new{number}", text="other")])
    for thread in threads:
        thread.join()

    ids = [id for id, _ in true]
    assert len(answers) == 20
    assert all(sorted(id for id, _ in found) == sorted(ids) for found in answers)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM lexical_docsize WHERE id = 3",
        "UPDATE lexical_docsize SET sz = NULL WHERE id = 3",
        "UPDATE lexical_docsize SET sz = x'8080' WHERE id = 3",
        "DELETE FROM lexical_data WHERE id = 1",
        "UPDATE lexical_data SET block = x'00' WHERE id = 1",
    ],
)
def test_a_text_whose_words_were_not_counted_is_damage(collection, documents, damage):
    collection.upsert(documents(10))
    connection = sqlite3.connect(collection.directory / DATABASE)
    with connection:
        connection.execute(damage)
    connection.close()

    with pytest.raises(DataDamaged):
        by_words(collection, ["number"], 10)


def test_numbers_stored_as_text_are_read_as_fts5_reads_them(collection, documents):
    """One bit in a row's header makes bytes of text; neither FTS5 nor its check minds."""
    collection.upsert(documents(10))
    connection = sqlite3.connect(collection.directory / DATABASE)
    with connection:
        connection.execute("UPDATE lexical_docsize SET sz = CAST(sz AS TEXT) WHERE id = 3")
    connection.close()

    assert collection.check() == []
    assert by_words(collection, ["number"], 10) == by_fts5(collection, ["number"], 10)
