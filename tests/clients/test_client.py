"""The client against a real server: what comes in is what numpy people expect."""

import hashlib

import numpy as np
import pytest

from polyseme import (
    AlreadyExists,
    AsyncClient,
    ByVector,
    Client,
    Document,
    FingerprintMismatch,
    InputTooLong,
    InvalidRequest,
    Like,
    NotFound,
    OwnVectors,
    Unauthenticated,
    field,
)

FRUIT = ["Apple was juicy", "She peeled an apple and ate it"]
FIRM = ["Apple stock crashed today", "Investors sold their Apple shares"]


def test_embeddings_are_an_array(client):
    found = client.embed(FRUIT)

    assert np.asarray(found).shape == found.shape == (2, 384)
    assert found.array.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert [count.truncated for count in found.tokens] == [False, False]
    assert found.fingerprint.combined
    assert found.timing.compute_s > 0


def test_no_texts_are_no_vectors(client):
    assert len(client.embed([])) == 0


def test_a_bare_string_is_refused_rather_than_cut_to_letters(client):
    with pytest.raises(InvalidRequest, match=r"texts.*\[text\]"):
        client.embed("Apple was juicy")


def test_long_inputs_travel_in_several_requests_and_come_back_in_order(
    client, small_server_address
):
    texts = [f"sentence number {i}" for i in range(23)]

    with Client(small_server_address) as small:
        cut = small.embed(texts)

    np.testing.assert_array_equal(cut.array, client.embed(texts).array)
    assert len(cut.tokens) == 23


def test_a_wrong_text_far_in_is_named_by_its_own_index(small_server_address):
    texts = ["fine"] * 10 + ["with a \0 in it"] + ["fine"]

    with (
        Client(small_server_address) as small,
        pytest.raises(InvalidRequest, match=r"texts\[10\]"),
    ):
        small.embed(texts)


def test_a_long_text_says_what_to_do_and_windows_read_it_all(client):
    text = "word " * 600

    with pytest.raises(InputTooLong, match="truncation="):
        client.embed([text])
    found = client.embed([text], truncation="windows")
    assert not found.tokens[0].truncated


@pytest.mark.parametrize(("encoding", "cosine_min"), [("float16", 0.9999), ("int8", 0.999)])
def test_smaller_encodings_keep_the_direction(client, encoding, cosine_min):
    exact = client.embed(FRUIT).array
    coarse = client.embed(FRUIT, encoding=encoding).array

    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(coarse, axis=1)
    assert ((exact * coarse).sum(axis=1) / norms).min() > cosine_min


def test_a_stream_gives_what_single_calls_give(client):
    texts = [f"sentence number {i}" for i in range(50)]

    batches = list(client.embed_iter(iter(texts), batch_texts=8))

    assert [len(b) for b in batches] == [8] * 6 + [2]
    np.testing.assert_array_equal(np.concatenate(batches), client.embed(texts).array)


def test_leaving_a_stream_early_leaves_the_client_usable(client):
    for _ in client.embed_iter((f"text {i}" for i in range(1000)), batch_texts=4):
        break

    assert len(client.embed(["still there"])) == 1


def test_words_know_their_place_and_their_context(client):
    texts = ["Äpfel und apple 🍎 apple", "apple"]

    of_one = client.words(texts[0], [("apple", 1), slice(0, 5)])
    of_many = client.words(texts, "apple")

    assert [w.word for w in of_one] == ["apple", "Äpfel"]
    assert [w.span.of(texts[0]) for w in of_one] == ["apple", "Äpfel"]
    encoded = texts[0].encode()
    span = of_one[0].span
    assert encoded[span.byte_start : span.byte_end] == b"apple"
    assert [len(words) for words in of_many] == [1, 1]
    assert not np.allclose(of_many[0][0].vector, of_many[1][0].vector)


def test_all_words_of_a_text(client):
    words = client.words("Apple stock crashed today.")

    assert [w.word for w in words][:4] == ["Apple", "stock", "crashed", "today"]


def test_tokens_and_their_way_back(client):
    tokens = client.tokenize(["Apple was juicy"])[0]
    states = client.tokens(["Apple was juicy"])[0]

    assert [t.id for t in states.tokens] == [t.id for t in tokens]
    assert np.asarray(states).shape == (len(tokens), 384)
    assert client.detokenize([[t.id for t in tokens]]) == ["apple was juicy"]


def test_similarity_is_the_same_in_one_request_and_in_several(client, small_server_address):
    left, right = [*FRUIT, *FIRM], ["fruit", "the stock market"]

    with Client(small_server_address) as small:
        in_several = small.similarity(left, right)
        pairs = small.similarity(left, left, pairs=True)

    np.testing.assert_allclose(client.similarity(left, right), in_several, atol=1e-5)
    np.testing.assert_allclose(pairs, 1, atol=1e-5)
    assert in_several[0, 0] > in_several[0, 1]
    assert in_several[2, 1] > in_several[2, 0]


def test_similarity_with_no_texts_is_an_empty_matrix(client):
    assert client.similarity(["a", "b"], []).shape == (2, 0)
    assert client.similarity([], ["a"]).shape == (0, 1)
    assert client.similarity([]).shape == (0, 0)
    assert client.similarity([], [], pairs=True).shape == (0,)


def test_a_comparison_tells_senses_apart_and_prints_itself(client):
    found = client.compare("apple", [*FRUIT, *FIRM], senses=["fruit"] * 2 + ["firm"] * 2)

    assert found.contextual.margin > 0
    assert found.sentence.ranks[0].tolist()[0] == 0
    shown = str(found)
    assert "word in context" in shown
    assert "Apple was juicy" in shown
    assert found.reading() in shown


def test_senses_must_be_as_many_as_sentences(client):
    with pytest.raises(InvalidRequest, match="1 for 2 sentences"):
        client.compare("apple", FRUIT, senses=["fruit"])


def test_a_collection_from_birth_to_end(client, collection):
    assert client.get_collection(collection).statistics.documents == 0
    assert collection in [c.name for c in client.list_collections(page_size=1)]
    with pytest.raises(AlreadyExists):
        client.create_collection(collection)

    changed = client.update_collection(collection, description="mine")
    assert changed.description == "mine"
    assert client.check_collection(collection).ok
    assert client.compact_collection(collection).after.documents == 0

    with pytest.raises(NotFound):
        client.get_collection("no-such-collection")


def test_a_snapshot_becomes_a_collection(client, collection):
    client.upsert(collection, [{"id": "a", "text": "one"}])
    snapshot = client.create_snapshot(collection)

    restored = client.restore_snapshot(snapshot.name, f"{collection}-2")

    assert snapshot.documents == restored.statistics.documents == 1
    assert all(len(f.sha256) == 64 for f in snapshot.files)
    client.delete_collection(f"{collection}-2")


def test_documents_come_back_as_they_were_written(client, collection):
    metadata = {"n": 3, "x": 0.5, "tags": ["a", "b"], "deep": {"er": None}, "yes": True}

    written = client.upsert(collection, [Document(id="a", text="Apple", metadata=metadata)])
    found = client.get(collection, "a", with_vector=True)

    assert written.inserted == 1
    assert found.text == "Apple"
    assert found.metadata == metadata
    assert type(found.metadata["n"]) is int
    np.testing.assert_allclose(found.vector, client.embed(["Apple"])[0], atol=1e-6)


@pytest.mark.parametrize("number", [1e300, 2.0**60, -(2.0**53) - 2])
def test_a_number_beyond_the_exact_integers_can_be_written_back(client, collection, number):
    client.upsert(collection, [Document(id="a", text="Apple", metadata={"n": number})])

    found = client.get(collection, "a")
    client.upsert(collection, [found])

    assert type(found.metadata["n"]) is float
    assert found.metadata["n"] == number


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"text": "no id"}, r"documents\[0\]\.id"),
        ({"id": "a", "text": "b", "metadata": {"n": float("nan")}}, r"metadata\.n"),
        ({"id": "a", "text": "b", "metadata": {"n": 2**60}}, r"metadata\.n"),
        ({"id": "a", "text": "b", "price": 3}, "price"),
        ({"id": "a", "text": "b\ud800"}, r"documents\[0\]\.text"),
        ({"id": "a", "vector": [1.0, float("nan")]}, r"documents\[0\]\.vector"),
    ],
)
def test_a_bad_document_is_refused_before_it_is_sent(client, collection, document, path):
    with pytest.raises(InvalidRequest, match=path):
        client.upsert(collection, [document])


def test_a_request_id_makes_a_write_happen_once(client, collection):
    documents = [{"id": "a", "text": "one"}]

    first = client.upsert(collection, documents, request_id="r-1")
    again = client.upsert(collection, documents, request_id="r-1")

    assert (first.replayed, again.replayed) == (False, True)
    assert first.sequence == again.sequence


def load(client, collection, count=40):
    documents = [
        {"id": f"d{i:03}", "text": f"text number {i}", "metadata": {"n": i, "even": i % 2 == 0}}
        for i in range(count)
    ]
    return client.write(collection, documents, batch_documents=7)


def test_a_bulk_load_is_counted_listed_filtered_and_purged(client, collection):
    done = load(client, collection)

    assert done.documents == client.count(collection) == 40
    assert [d.id for d in client.documents(collection, page_size=9)] == [
        f"d{i:03}" for i in range(40)
    ]
    small = (field("n") < 10) & (field("even") == True)  # noqa: E712 - a filter
    assert client.count(collection, filter=small) == 5
    assert client.purge(collection, small, dry_run=True).deleted == 5
    assert client.purge(collection, small).deleted == 5
    assert client.delete(collection, ["d001", "no such id"]).deleted == 1
    assert client.count(collection) == 34


def test_equal_ids_in_one_load_leave_the_last_version(client, collection):
    versions = [{"id": "a", "text": f"version {i}"} for i in range(20)]

    client.write(collection, versions, batch_documents=3)

    assert client.get(collection, "a").text == "version 19"


def test_several_documents_in_the_order_asked_for(client, collection):
    load(client, collection, 5)

    found = client.get_many(collection, ["d003", "gone", "d000"], allow_missing=True)

    assert [d.id for d in found] == ["d003", "d000"]
    with pytest.raises(NotFound):
        client.get_many(collection, ["gone"])


def test_an_export_goes_into_another_collection_without_being_embedded_again(client, collection):
    load(client, collection, 5)
    copy = f"{collection}-copy"
    client.create_collection(copy)

    client.write(copy, client.export(collection))

    ours, theirs = (list(client.export(name)) for name in (collection, copy))
    assert [d.id for d in ours] == [d.id for d in theirs]
    np.testing.assert_array_equal(
        np.stack([d.vector for d in ours]), np.stack([d.vector for d in theirs])
    )
    client.delete_collection(copy)


def test_search_finds_by_meaning_by_words_by_vector_and_by_likeness(client, collection):
    documents = [{"id": f"{i}", "text": t} for i, t in enumerate([*FRUIT, *FIRM])]
    sequence = client.upsert(collection, documents).sequence

    meaning = client.search(collection, "share prices fall", k=2, min_sequence=sequence)
    words = client.search(collection, "peeled", mode="lexical", highlight=True)
    vector = client.search(collection, client.embed(["Apple was juicy"]), k=1)
    like = client.search(collection, Like("2"), k=1)

    assert {h.id for h in meaning} == {"2", "3"}
    assert meaning[0].score >= meaning[1].score
    assert [h.id for h in words] == ["1"]
    assert words.exhausted
    assert words[0].highlights[0].span.of(words[0].text) == "peeled"
    assert vector[0].id == "0"
    assert like[0].id == "3"


def test_many_queries_at_once_are_answered_in_order(client, collection, small_server_address):
    queries = ["fruit", "the stock market", "an apple", "shares", "to eat"]
    with Client(small_server_address) as small:
        small.create_collection("many")
        small.write("many", [{"id": str(i), "text": t} for i, t in enumerate([*FRUIT, *FIRM])])

        at_once = small.search_many("many", queries, k=2)
        one_by_one = [small.search("many", q, k=2) for q in queries]

        small.delete_collection("many")
    assert [[h.id for h in r] for r in at_once] == [[h.id for h in r] for r in one_by_one]


def test_a_vector_of_another_kind_is_refused(client, collection):
    other = client.embed(["a"], prompt="query: ")

    with pytest.raises(FingerprintMismatch):
        client.search(collection, other)


def test_own_vectors(client):
    client.create_collection("own", vectors=OwnVectors(dimensions=2))

    client.upsert("own", [{"id": "x", "vector": [1, 0]}, {"id": "y", "vector": [0, 1]}])

    assert client.search("own", [0.1, 0.9], k=1)[0].id == "y"
    assert client.search("own", ByVector(np.float32([1, 0])), k=1)[0].id == "x"
    client.delete_collection("own")


def test_a_limit_is_named_as_the_argument_is(client, collection):
    with pytest.raises(InvalidRequest, match=r"^k: "):
        client.search(collection, "a", k=10**6)


def test_what_the_server_is(client):
    info = client.info()

    assert info.model.dimensions == 384
    assert info.limits.inputs_max > 0
    assert client.health() == "serving"
    assert client.health("polyseme.v1.SearchService") == "serving"
    with pytest.raises(NotFound):
        client.health("no.such.Service")
    assert client.statistics().texts >= 0


async def test_the_asyncio_client_does_the_same(server_address):
    async with AsyncClient(server_address) as client:
        vectors = await client.embed(FRUIT)
        batches = [b async for b in client.embed_iter(iter(FRUIT), batch_texts=1)]
        await client.create_collection("asyncio")
        await client.write("asyncio", ({"id": str(i), "text": t} for i, t in enumerate(FIRM)))
        hits = await client.search("asyncio", "share prices fall", k=1)
        found = [d.id async for d in client.documents("asyncio", page_size=1)]
        await client.delete_collection("asyncio")

    np.testing.assert_array_equal(np.concatenate(batches), vectors.array)
    assert len(hits) == 1
    assert found == ["0", "1"]


async def test_leaving_an_asyncio_stream_early_leaves_the_client_usable(server_address):
    async with AsyncClient(server_address) as client:
        stream = client.embed_iter((f"text {i}" for i in range(1000)), batch_texts=4)
        async for _ in stream:
            break
        await stream.aclose()

        assert len(await client.embed(["still there"])) == 1


def test_a_server_with_keys_takes_the_right_one_only(start_server, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"me {hashlib.sha256(b'right').hexdigest()} read\n")

    with start_server(api_keys=keys) as address:
        with Client(address, api_key="right") as client:
            client.wait_until_serving(timeout_s=30)
            assert client.info().model.dimensions == 384
        with Client(address) as client, pytest.raises(Unauthenticated, match="api_key"):
            client.info()
        with Client(address, api_key="wrong") as client, pytest.raises(Unauthenticated):
            client.info()
