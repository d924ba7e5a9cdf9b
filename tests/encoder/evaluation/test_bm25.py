import math
import sqlite3

import pytest

from encoder.evaluation.bm25 import Bm25, terms

DOCUMENTS = [
    "the apple fell from the tree",
    "apple opened a store, and another store",
    "a tree in the yard",
    "nothing to see",
]


def rows(found):
    return [row for row, _ in found]


def test_words_are_lower_cased_runs_of_letters_and_digits():
    assert terms("Äpfel, l'été 2024!") == ["äpfel", "l", "été", "2024"]


def test_a_score_by_hand():
    # "store": in 1 of 4 documents, twice, in 7 words; the mean length is (6 + 7 + 5 + 3) / 4
    rarity = math.log(1 + (4 - 1 + 0.5) / (1 + 0.5))
    norm = 0.9 * (1 - 0.4 + 0.4 * 7 / 5.25)

    scores = Bm25(DOCUMENTS).scores("store")

    assert scores[1] == pytest.approx(rarity * 2 * 1.9 / (2 + norm))
    assert scores.tolist().count(0.0) == 3


def test_only_documents_that_share_a_word_are_found_best_first():
    index = Bm25(DOCUMENTS)

    assert rows(index.search("apple tree", hits_max=10)) == [0, 2, 1]
    assert rows(index.search("apple tree", hits_max=1)) == [0]
    assert index.search("pear", hits_max=10) == []


def test_a_word_asked_for_twice_counts_twice():
    index = Bm25(DOCUMENTS)

    assert index.scores("apple apple") == pytest.approx(2 * index.scores("apple"))


def test_documents_without_words_are_no_trouble():
    assert Bm25(["", "..."]).search("anything", hits_max=3) == []


def test_no_documents_are_refused():
    with pytest.raises(ValueError, match="no documents"):
        Bm25([])


def test_with_sqlites_settings_it_ranks_rare_words_as_sqlite_does():
    words = ["apple", "tree", "juice"]
    documents = [
        " ".join([f"filler{i}"] * (3 + i) + [words[i % 3]] * (1 + i % 4)) if i % 5 == 0 else "none"
        for i in range(60)
    ]
    database = sqlite3.connect(":memory:")
    database.execute("create virtual table f using fts5(t)")
    database.executemany("insert into f(rowid, t) values (?, ?)", enumerate(documents))
    by_sqlite = database.execute(
        "select rowid from f where f match 'apple OR tree' order by bm25(f), rowid"
    )
    expected = [row[0] for row in by_sqlite]
    database.close()

    assert rows(Bm25(documents, k1=1.2, b=0.75).search("apple tree", hits_max=60)) == expected
