import dataclasses
import sqlite3

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from index.documents import Query, SearchMode
from index.lexical import TOKENIZER, highlights, query_words, terms
from index.store import Store

characters = st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from(
    "e\u0301\u0308\u0305АБαβΩשלוםحरूף漢字がか한글🍎Ǡǡǖİıßſ "
)


@pytest.fixture(scope="module")
def fts():
    connection = sqlite3.connect(":memory:")
    connection.execute(f"CREATE VIRTUAL TABLE t USING fts5(text, tokenize = '{TOKENIZER}')")
    connection.execute("CREATE VIRTUAL TABLE v USING fts5vocab(t, instance)")
    yield connection
    connection.close()


def words_of(fts, text):
    fts.execute("DELETE FROM t")
    fts.execute("INSERT INTO t VALUES (?)", (text,))
    return [word for (word,) in fts.execute("SELECT term FROM v ORDER BY offset")]


@given(text=st.text(characters, max_size=30))
@example("Äpfel und ÄPFEL, naïve café—crème")
@example("e\u0301te\u0301 \u0301x")
@examples(max_examples=200, deadline=None)
def test_words_are_those_of_fts5(fts, text):
    assert [term.word for term in terms(text)] == words_of(fts, text)


@given(text=st.text(characters, max_size=30))
def test_a_word_is_where_it_says(text):
    for term in terms(text):
        assert [inside.word for inside in terms(text[term.start : term.end])] == [term.word]


@pytest.mark.parametrize(
    "text",
    [
        '"', "' OR 1=1 --", "AND", "a AND", "NEAR(a b)", "text:a", "a*", "^a", "-a", "(", "{a}:b",
        "a + b", "", "   ", "\t\n", "🍎", "\u0301", "a" * 10_000, "fruit" * 1000, "NOT NOT", "%",
    ],
)  # fmt: skip
def test_no_text_is_a_malformed_query(collection, documents, text):
    collection.upsert(documents(3))

    result = collection.search(Query(mode=SearchMode.LEXICAL, text=text))

    assert result.exhausted


def test_a_query_has_a_limit_of_terms():
    assert query_words("a b A c d", words_max=2) == ["a", "b"]


def test_common_words_count_when_the_others_find_too_few(tmp_path, spec, settings, documents):
    eager = dataclasses.replace(settings, common_words_documents_min=10, common_words_share=0.3)
    with Store.open(tmp_path / "eager", eager) as store:
        collection = store.create(spec)
        collection.upsert(documents(40))

        few = collection.search(Query(mode=SearchMode.LEXICAL, text="number 7", k=1))
        many = collection.search(Query(mode=SearchMode.LEXICAL, text="number 7", k=40))
        common = collection.search(Query(mode=SearchMode.LEXICAL, text="number is", k=5))

    assert [hit.id for hit in few.hits] == ["d7"]
    assert many.hits[0].id == "d7"
    assert (len(many.hits), len(common.hits)) == (40, 5)


def test_beside_a_dense_side_one_document_by_a_telling_word_is_enough(
    tmp_path, spec, settings, documents
):
    eager = dataclasses.replace(settings, common_words_documents_min=10, common_words_share=0.3)
    with Store.open(tmp_path / "eager", eager) as store:
        collection = store.create(spec)
        made = documents(40)
        collection.upsert(made)

        def found(text):
            query = Query(mode=SearchMode.HYBRID, vector=made[3].vector, text=text, k=40)
            return collection.search(query).hits

        telling, common = found("number 7"), found("number is")

    assert [hit.id for hit in telling if hit.lexical_rank is not None] == ["d7"]
    assert sum(hit.lexical_rank is not None for hit in common) == 40


def test_how_common_a_word_is_is_asked_again_after_a_write(tmp_path, spec, settings, documents):
    eager = dataclasses.replace(settings, common_words_documents_min=10, common_words_share=0.3)
    with Store.open(tmp_path / "eager", eager) as store:
        collection = store.create(spec)
        made = documents(40)
        collection.upsert(made)
        rare = dataclasses.replace(made[5], text="rare")
        collection.upsert([rare])
        before = collection.search(Query(mode=SearchMode.LEXICAL, text="rare 7", k=1)).hits
        collection.upsert([dataclasses.replace(each, text="rare") for each in made[10:]])
        after = collection.search(Query(mode=SearchMode.LEXICAL, text="rare 7", k=1)).hits

    assert [hit.id for hit in before] == ["d5"]  # alone, a shorter text
    assert [hit.id for hit in after] == ["d7"]  # "rare" says nothing any more


def test_highlights_ignore_case_and_diacritics():
    assert highlights("apfel BAUM", "Der Äpfel-Baum, apfel.") == [(4, 9), (10, 14), (16, 21)]
