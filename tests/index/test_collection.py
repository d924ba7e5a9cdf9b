"""What a collection does for one caller, and what it says to bad input."""

import base64
import dataclasses
import json

import numpy as np
import pytest

from index.documents import Document, Query, SearchMode, WriteMode
from index.errors import (
    AnswerTooLarge,
    DimensionMismatch,
    DocumentExists,
    DocumentNotFound,
    FingerprintMismatch,
    InvalidInput,
    PageTokenInvalid,
    RequestIdReused,
    SequenceNotReached,
    VectorInvalid,
)
from index.filter import And, Equal, Not, Range
from index.records import Record
from index.spec import CollectionSpec, Metric
from index.store import Store

WIDTH = 8


def test_a_document_comes_back_as_it_went_in(collection):
    vector = np.arange(1, WIDTH + 1, dtype=np.float32)
    vector /= np.linalg.norm(vector)
    metadata = {"a": [1, 1.5, None, True, {"b": "ü"}], "empty": {}, "big": 2**62}

    collection.upsert([Document(id="ä/1", text="Äpfel 🍎\n", metadata=metadata, vector=vector)])
    [found, missing] = collection.get(["ä/1", "nobody"])

    assert missing is None
    assert (found.id, found.text, found.metadata) == ("ä/1", "Äpfel 🍎\n", metadata)
    assert found.vector.tobytes() == vector.tobytes()


@pytest.fixture
def long_texts(tmp_path, settings, spec):
    """A collection that may answer with 2,500 bytes, a page with 1,000; ten texts of 300 each."""
    limits = dataclasses.replace(settings, page_bytes_max=1_000, answer_bytes_max=2_500)
    vectors = np.eye(WIDTH, dtype=np.float32) + 1
    texts = ["x" * 300, "ä" * 150, "x" * 290 + "ä" * 5] * 4
    with Store.open(tmp_path / "small", limits) as store:
        collection = store.create(spec)
        collection.upsert(
            [
                Document(id=f"d{i}", text=texts[i], vector=vectors[i % WIDTH], metadata={})
                for i in range(10)
            ]
        )
        yield collection


@pytest.fixture
def read(monkeypatch):
    """The ids of the documents that were read."""
    ids = []
    crc = Record.crc

    def noted(record):
        ids.append(record.id)
        return crc(record)

    monkeypatch.setattr(Record, "crc", noted)
    return ids


def test_a_page_ends_where_it_has_enough_bytes_and_little_more_is_read(long_texts, read):
    pages, token = [], ""
    while True:
        page = long_texts.list(page_token=token)
        pages.append([document.id for document in page.documents])
        token = page.next_page_token
        if not token:
            break

    assert pages == [["d0", "d1", "d2"], ["d3", "d4", "d5"], ["d6", "d7", "d8"], ["d9"]]
    assert len(read) == 10 + 3  # one too many a page, but for the last
    with_vectors = long_texts.list(with_vectors=True)
    assert len(with_vectors.documents) == 2  # of 302 bytes with metadata, and 32 of the vector


def test_a_page_has_a_document_however_long_it_is(long_texts):
    vector = np.ones(WIDTH, np.float32)
    long_texts.upsert([Document(id="a", text="x" * 5_000, vector=vector)])

    assert [document.id for document in long_texts.list().documents] == ["a"]


def test_an_answer_that_would_have_too_many_bytes_is_refused_before_all_is_read(long_texts, read):
    vector = np.ones(WIDTH, np.float32)
    ids = [f"d{i}" for i in range(10)]

    for call in (
        lambda: long_texts.get(ids),
        lambda: long_texts.search(Query(vector=vector)),
        lambda: long_texts.search_batch([Query(vector=vector, k=3)] * 3),
    ):
        read.clear()
        with pytest.raises(AnswerTooLarge):
            call()
        assert len(read) == 9

    assert len(long_texts.get(ids[:7])) == 7
    assert len(long_texts.search(Query(vector=vector, with_documents=False)).hits) == 10


def test_documents_that_score_too_low_are_not_read(long_texts, read):
    vector = np.eye(WIDTH, dtype=np.float32)[0] + 1
    lowest = long_texts.search(Query(vector=vector, k=3)).hits[1].score
    read.clear()

    found = long_texts.search(Query(vector=vector, score_min=float(np.float32(lowest))))

    assert sorted(hit.id for hit in found.hits) == sorted(read) == ["d0", "d8"]
    assert not found.exhausted


def test_vectors_alone_are_read_without_texts(long_texts, read):
    documents = long_texts.get(["d7", "d1"])
    read.clear()

    vectors = long_texts.vectors(["d7", "nobody", "d1", "d7"])

    assert vectors[1] is None
    assert [vectors[i].tobytes() for i in (0, 2, 3)] == [
        documents[i].vector.tobytes() for i in (0, 1, 0)
    ]
    assert read == []


def test_an_update_keeps_the_time_of_creation_and_moves_the_sequence(collection, documents):
    collection.upsert(documents(1))
    [first] = collection.get(["d0"])
    collection.upsert(documents(1, seed=1))
    [second] = collection.get(["d0"])

    assert second.created_at == first.created_at
    assert second.updated_at >= first.updated_at
    assert (first.sequence, second.sequence) == (1, 2)


def test_cosine_ignores_length_and_dot_does_not(store):
    vectors = np.array([[1, 0], [0, 9], [3, 4]], np.float32)
    documents = [Document(id=f"{i}", vector=vector) for i, vector in enumerate(vectors)]
    scores = {}

    for metric in Metric:
        spec = CollectionSpec(name=metric.value, dimensions=2, metric=metric)
        collection = store.create(spec)
        collection.upsert(documents)
        result = collection.search(Query(vector=np.array([2, 0], np.float32), k=3))
        scores[metric] = {hit.id: round(hit.score, 6) for hit in result.hits}

    assert scores[Metric.COSINE] == {"0": 1, "2": 0.6, "1": 0}
    assert scores[Metric.DOT] == {"2": 6, "0": 2, "1": 0}


def test_equal_scores_stand_in_the_order_of_ids(collection):
    vector = np.ones(WIDTH, np.float32)
    ids = [f"d{i:02}" for i in range(30)]
    shuffled = np.random.default_rng(0).permutation(ids).tolist()
    collection.upsert([Document(id=id, text="same", vector=vector) for id in shuffled])

    for mode in SearchMode:
        result = collection.search(Query(mode=mode, vector=vector, text="same", k=7))
        assert [hit.id for hit in result.hits] == ids[:7]


def ids_of(collection, vector, k=100):
    query = Query(vector=vector, k=k, with_documents=False)
    return [hit.id for hit in collection.search(query).hits]


def test_ids_that_were_found_before_follow_what_is_written(collection, documents):
    before, after = documents(50), documents(10, start=30, seed=1)
    vector = before[0].vector
    collection.upsert(before)
    assert set(ids_of(collection, vector)) == {document.id for document in before}

    collection.delete([document.id for document in before[10:]])
    assert set(ids_of(collection, vector)) == {document.id for document in before[:10]}

    collection.upsert(after)
    with pytest.raises(DocumentExists):
        collection.upsert([*documents(5, start=90), before[0]], mode=WriteMode.INSERT)
    found = ids_of(collection, vector)
    assert set(found) == {document.id for document in (*before[:10], *after)}
    assert found == [hit.id for hit in collection.search(Query(vector=vector, k=100)).hits]

    collection.upsert(documents(5, start=60))  # in rows that the refused write would have had
    assert {f"d{i}" for i in range(60, 65)} < set(ids_of(collection, vector))
    assert not {f"d{i}" for i in range(90, 95)} & set(ids_of(collection, vector))


@pytest.mark.parametrize("known_max", [1, 7, 30])
def test_no_more_ids_are_remembered_than_there_is_room_for(
    collection, documents, monkeypatch, known_max
):
    monkeypatch.setattr("index.records.IDS_KNOWN_MAX", known_max)
    several = documents(30)
    collection.upsert(several)

    for document in several:
        assert ids_of(collection, document.vector, k=3)[0] == document.id
        assert len(ids_of(collection, document.vector)) == 30
        with collection._engine.view() as view:
            assert len(view.reader._known_ids) <= known_max


def test_insert_and_update_refuse_and_change_nothing(collection, documents):
    collection.upsert(documents(2))

    with pytest.raises(DocumentExists):
        collection.upsert(documents(3, seed=1), mode=WriteMode.INSERT)
    with pytest.raises(DocumentNotFound):
        collection.upsert(documents(3, seed=1), mode=WriteMode.UPDATE)

    assert collection.sequence == 1
    assert collection.documents_count == 2
    np.testing.assert_allclose(
        collection.get(["d0"])[0].vector,
        documents(1)[0].vector / np.linalg.norm(documents(1)[0].vector),
        rtol=1e-6,
    )


def test_a_retry_with_the_same_request_id_changes_nothing(collection, documents):
    first = collection.upsert(documents(3), request_id="r1")
    collection.upsert(documents(3, seed=1))

    retry = collection.upsert(documents(3), request_id="r1")

    assert retry == dataclasses.replace(first, replayed=True)
    assert collection.sequence == 2
    assert collection.get(["d0"])[0].sequence == 2


def test_a_request_id_with_another_content_is_refused(collection, documents):
    collection.upsert(documents(3), request_id="r1")

    with pytest.raises(RequestIdReused):
        collection.upsert(documents(4), request_id="r1")
    with pytest.raises(RequestIdReused):
        collection.delete(["d0"], request_id="r1")

    assert collection.documents_count == 3


def test_with_a_digest_of_its_own_a_retry_may_bring_other_vectors(collection, documents):
    first = collection.upsert(documents(3), request_id="r1", digest=b"what the caller sent")

    retry = collection.upsert(documents(3, seed=9), request_id="r1", digest=b"what the caller sent")

    assert retry == dataclasses.replace(first, replayed=True)
    assert collection.replay("r1", b"what the caller sent") == retry
    assert collection.replay("r2", b"") is None


def test_request_ids_are_remembered_up_to_their_limit(tmp_path, spec, settings, documents):
    few = dataclasses.replace(settings, request_ids_max=2)
    with Store.open(tmp_path / "few", few) as store:
        collection = store.create(spec)
        for i in range(4):
            collection.upsert(documents(1, seed=i), request_id=f"r{i}")

        assert collection.upsert(documents(1, seed=3), request_id="r3").replayed
        assert collection.upsert(documents(1, seed=2), request_id="r2").replayed
        assert not collection.upsert(documents(1, seed=0), request_id="r0").replayed


@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        ({"id": ""}, InvalidInput, "documents[1].id"),
        ({"id": "a\0"}, InvalidInput, "documents[1].id"),
        ({"id": "d0"}, InvalidInput, "documents[1].id"),
        ({"id": "x" * 513}, InvalidInput, "documents[1].id"),
        ({"text": "a\ud800"}, InvalidInput, "documents[1].text"),
        ({"text": "x" * 5_000_000}, InvalidInput, "documents[1].text"),
        ({"metadata": {"a": float("nan")}}, InvalidInput, "documents[1].metadata.a"),
        ({"metadata": {"a": [2**63]}}, InvalidInput, "documents[1].metadata.a[0]"),
        ({"metadata": {"": 1}}, InvalidInput, "documents[1].metadata"),
        ({"metadata": {"a": b"x"}}, InvalidInput, "documents[1].metadata.a"),
        ({"metadata": {"a": "x" * 70_000}}, InvalidInput, "documents[1].metadata"),
        ({"metadata": {"a": [0] * 1_001}}, InvalidInput, "documents[1].metadata"),
        ({"vector": np.ones(7, np.float32)}, DimensionMismatch, "documents[1].vector"),
        ({"vector": np.full(8, np.nan, np.float32)}, VectorInvalid, "documents[1].vector"),
        ({"vector": np.full(8, 1e30)}, VectorInvalid, "documents[1].vector"),
        ({"vector": np.zeros(8, np.float32)}, VectorInvalid, "documents[1].vector"),
    ],
)
def test_a_bad_document_is_named_and_the_good_ones_beside_it_are_not_written(
    collection, documents, change, error, field
):
    good, other = documents(2)

    with pytest.raises(error) as refusal:
        collection.upsert([good, dataclasses.replace(other, **change)])

    assert refusal.value.field == field
    assert collection.documents_count == collection.sequence == 0


def test_metadata_nested_too_deep_is_refused(collection, documents):
    value = 1
    for _ in range(10_000):
        value = [value]

    with pytest.raises(InvalidInput, match="too deep"):
        collection.upsert([dataclasses.replace(documents(1)[0], metadata={"a": value})])


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (Query(vector=np.ones(8), k=0), "k"),
        (Query(vector=np.ones(8), k=1_000_000), "k"),
        (Query(), "vector"),
        (Query(mode=SearchMode.LEXICAL), "text"),
        (Query(mode=SearchMode.LEXICAL, text="\0"), "text"),
        (Query(mode=SearchMode.HYBRID, text="a"), "vector"),
        (Query(vector=np.ones(9)), "vector"),
        (Query(vector=np.full(8, np.inf)), "vector"),
        (Query(vector=np.ones(8), min_sequence=-1), "min_sequence"),
        (Query(vector=np.ones(8), filter=Not(Range("a"))), "filter.not"),
    ],
)
def test_a_bad_query_is_refused_by_its_field(collection, query, field):
    with pytest.raises(InvalidInput) as refusal:
        collection.search(query)

    assert refusal.value.field == field


def test_too_many_of_anything_is_refused(collection, documents, settings):
    with pytest.raises(InvalidInput, match="documents: 0 given"):
        collection.upsert([])
    with pytest.raises(InvalidInput, match="ids: 10001 given"):
        collection.get(["a"] * (settings.batch_documents_max + 1))
    with pytest.raises(InvalidInput, match="page_size: 1001 given"):
        collection.list(page_size=settings.page_documents_max + 1)
    with pytest.raises(InvalidInput, match="limit: 100001 given"):
        collection.purge(And(()), limit=settings.purge_documents_max + 1)


def test_a_search_sees_the_write_it_asks_for_or_says_that_it_cannot(collection, documents):
    written = collection.upsert(documents(1))
    query = Query(vector=np.ones(WIDTH), min_sequence=written.sequence)

    assert collection.search(query).sequence == written.sequence
    with pytest.raises(SequenceNotReached) as refusal:
        collection.search(dataclasses.replace(query, min_sequence=2))
    assert (refusal.value.wanted, refusal.value.current) == (2, 1)


def test_pages_neither_repeat_nor_hide_documents_that_stay(collection, documents):
    collection.upsert(documents(90, start=10))
    first = collection.list(page_size=40)
    collection.upsert(documents(5, start=100))
    collection.delete([first.documents[-1].id, "d99"])
    seen = [document.id for document in first.documents]
    token = first.next_page_token

    while token:
        page = collection.list(page_size=40, page_token=token)
        seen += [document.id for document in page.documents]
        token = page.next_page_token

    assert len(seen) == len(set(seen))
    assert set(seen) >= {f"d{i}" for i in range(10, 99)}


@pytest.mark.parametrize("filter", [Equal("parity", 1), Range("n", gte=0), Not(Equal("n", 3))])
def test_a_page_of_a_filtered_list_is_read_in_the_order_of_ids_and_not_sorted(
    collection, documents, filter
):
    collection.upsert(documents(50))
    token = collection.list(page_size=10, filter=filter).next_page_token
    statements = []
    with collection._engine.view() as view:  # the next reader has the same connection
        connection = view.reader.connection
        connection.set_trace_callback(statements.append)

    page = collection.list(page_size=10, filter=filter, page_token=token)

    connection.set_trace_callback(None)
    [sql] = [sql for sql in statements if "FROM fields" in sql]
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
    assert len(page.documents) == 10
    assert any("sqlite_autoindex_documents_1" in step for step in plan)
    assert "USE TEMP B-TREE FOR ORDER BY" not in plan


def test_a_page_token_is_good_for_its_own_filter_alone(collection, documents):
    collection.upsert(documents(10))
    token = collection.list(page_size=2, filter=Equal("parity", 1)).next_page_token

    assert collection.list(page_size=9, filter=Equal("parity", 1), page_token=token).documents
    for other in (token[:-3], "!", "e30=", "Ü"):
        with pytest.raises(PageTokenInvalid):
            collection.list(page_size=2, filter=Equal("parity", 1), page_token=other)
    with pytest.raises(PageTokenInvalid):
        collection.list(page_size=2, page_token=token)


def token_of(source):
    return base64.urlsafe_b64encode(source.encode()).decode()


@pytest.mark.parametrize(
    "source",
    [
        "[" * 100_000,
        "[" * 3_000,
        '["\\ud800", "HASH"]',
        '["\\u0000", "HASH"]',
        '[1, "HASH"]',
        f'["{"x" * 513}", "HASH"]',
        '["d1", ["HASH"]]',
        '["d1", null]',
        "1" * 4_000,
        "null",
    ],
)
def test_a_page_token_that_was_made_up_is_refused(collection, documents, source):
    collection.upsert(documents(10))
    token = collection.list(page_size=2).next_page_token
    [_, hashed] = json.loads(base64.urlsafe_b64decode(token))

    with pytest.raises(PageTokenInvalid):
        collection.list(page_token=token_of(source.replace("HASH", hashed)))


def test_an_id_as_long_as_allowed_fits_in_a_page_token(collection, settings):
    longest = "\x01" * settings.id_bytes_max  # six characters of JSON each
    vector = np.ones(WIDTH, np.float32)
    collection.upsert([Document(id=id, vector=vector) for id in (longest, "z")])

    token = collection.list(page_size=1).next_page_token

    assert [d.id for d in collection.list(page_token=token).documents] == ["z"]


def test_vectors_of_another_model_are_refused_with_what_differs(store):
    spec = CollectionSpec(
        name="m",
        dimensions=2,
        fingerprint={"model": "a", "pooling": "mean"},
        fingerprint_hash="1111",
    )
    collection = store.create(spec)

    collection.check_fingerprint("1111", {})
    with pytest.raises(FingerprintMismatch) as refusal:
        collection.check_fingerprint("2222", {"model": "b", "pooling": "mean"})

    assert refusal.value.differences == ("model: 'b' is not 'a'",)
    assert (refusal.value.given, refusal.value.expected) == ("2222", "1111")


def test_a_filter_never_hides_what_passes_it(tmp_path, spec, documents, settings):
    """However the filtered search is answered: few pass, many pass, or the near ones do not."""
    for filtered_exact_max in (1, 20, 1_000):
        tight = dataclasses.replace(settings, filtered_exact_max=filtered_exact_max)
        with Store.open(tmp_path / f"{filtered_exact_max}", tight) as store:
            collection = store.create(spec)
            collection.upsert(documents(600))
            collection.wait_for_builds()
            for filter, count in ((Range("n", lt=7), 7), (Equal("parity", 1), 300), (And(()), 600)):
                for k in (1, 10, 400):
                    query = Query(vector=np.ones(WIDTH), filter=filter, k=k)
                    result = collection.search(query)
                    assert len(result.hits) == min(k, count)
                    assert result.exhausted == (count < k)


def test_a_batch_of_searches_answers_as_each_alone(collection, documents):
    collection.upsert(documents(300))
    collection.wait_for_builds()
    vectors = [document.vector for document in documents(20, seed=5)]
    queries = [
        Query(vector=vector, k=3 + i % 2, exact=i % 5 == 0) for i, vector in enumerate(vectors)
    ]
    queries.append(Query(mode=SearchMode.HYBRID, vector=vectors[0], text="odd", k=4))

    together = collection.search_batch(queries)

    alone = [collection.search(query) for query in queries]
    assert [result.hits for result in together] == [result.hits for result in alone]
