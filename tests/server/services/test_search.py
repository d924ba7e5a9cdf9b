"""SearchService over a real socket."""

import os
import shutil

import grpc
import numpy as np
import pytest
from google.protobuf.json_format import ParseDict

from index.collection import Collection
from index.fusion import DENSE_SHARE
from index.spec import CollectionSpec
from polyseme.v1 import collection_pb2, encoder_pb2, encoder_pb2_grpc, search_pb2
from server.embedder import Embedder
from server.errors import QueueFull
from server.services.search import share_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

Code = grpc.StatusCode
FRUIT = {"equal": {"field": "kind", "value": "fruit"}}
EVERY_MODE = ["SEARCH_MODE_DENSE", "SEARCH_MODE_LEXICAL", "SEARCH_MODE_HYBRID"]


# ---- by meaning, by words, by both


async def test_the_apple_that_is_meant_is_found(server, ids):
    name = await server.apples()

    fruit = await server.search(name, "Something sweet that grows on trees", k=2)
    company = await server.search(name, "A manufacturer of computers and telephones", k=2)

    assert set(ids(fruit)) == {"pie", "orchard"}
    assert set(ids(company)) == {"laptop", "shares"}


async def test_an_answer_says_what_it_saw_and_what_it_took(server):
    name = await server.apples()

    found = await server.search(name, "fruit", k=5)

    assert found.sequence == 1
    assert found.exact
    assert not found.exhausted
    assert found.fingerprint.model == "all-MiniLM-L6-v2"
    assert found.tokens.tokens_total == 3
    assert found.timing.compute_s > 0
    assert found.timing.search_s > 0
    scores = [hit.score for hit in found.hits]
    assert scores == sorted(scores, reverse=True)
    assert all(-1 <= score <= 1 for score in scores)


async def test_a_lexical_search_finds_words_and_needs_no_model(server, ids):
    name = await server.apples()

    found = await server.search(name, "apple BRIDGE", mode="SEARCH_MODE_LEXICAL")

    assert set(ids(found)) == {"orchard", "laptop", "shares", "bridge"}
    assert found.exhausted
    assert found.timing.compute_s == 0
    assert not found.HasField("fingerprint")


async def test_vectors_of_hits_say_what_made_them_where_the_query_has_none(server):
    name = await server.apples()

    words = await server.search(name, "apple", mode="SEARCH_MODE_LEXICAL", with_vectors=True)

    assert words.fingerprint.model == "all-MiniLM-L6-v2"
    assert {hit.document.vector_fingerprint for hit in words.hits} == {words.fingerprint.combined}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({}, (0.4, 0.6)),
        ({"fusion": "FUSION_RELATIVE_SCORE"}, (0.4, 0.6)),
        ({"denseShare": 0.0}, (0.0, 1.0)),
        ({"denseShare": 0.75}, (0.75, 0.25)),
        ({"fusion": "FUSION_RECIPROCAL_RANK"}, (1 / 61, 1 / 61)),
    ],
)
async def test_a_hybrid_search_adds_the_parts_of_both_sides_and_explains_it(server, options, part):
    name = await server.apples()

    found = await server.search(
        name, "apple orchard in autumn", mode="SEARCH_MODE_HYBRID", explain=True, k=1, **options
    )

    (hit,) = found.hits
    assert hit.document.id == "orchard"
    assert (hit.explanation.dense_rank, hit.explanation.lexical_rank) == (1, 1)
    assert hit.score == pytest.approx(sum(part))
    for given in part:
        assert f"gives {given:.5f}" in hit.explanation.text


async def test_what_suits_the_model_is_the_default_for_its_own_vectors_alone():
    own = CollectionSpec(name="own", dimensions=3, embedding={"pooling": "mean"})
    theirs = CollectionSpec(name="theirs", dimensions=3)

    assert share_of(None, own, 0.15) == 0.15
    assert share_of(None, theirs, 0.15) == DENSE_SHARE
    assert share_of(0.7, own, 0.15) == share_of(0.7, theirs, 0.15) == 0.7


async def test_a_side_that_did_not_find_a_hit_has_no_score(server):
    name = await server.apples()

    found = await server.search(name, "bridge", explain=True, k=1)

    assert found.hits[0].explanation.HasField("dense_score")
    assert not found.hits[0].explanation.HasField("lexical_score")


async def test_documents_like_one_do_not_hold_that_one(server, ids):
    name = await server.apples()

    found = await server.search(name, query={"documentId": "laptop"}, k=4)
    all_others = await server.search(name, query={"documentId": "laptop"}, k=5)

    assert ids(found)[0] == "shares"
    assert set(ids(found)) == {"pie", "orchard", "shares", "bridge"}
    assert not found.exhausted
    assert all_others.exhausted


async def test_a_text_s_own_vector_finds_what_the_text_finds(server, ids):
    name = await server.apples()
    encoder = encoder_pb2_grpc.EncoderServiceStub(server.channel)
    embedded = await encoder.Embed(encoder_pb2.EmbedRequest(inputs=["ripe fruit"]))
    query = search_pb2.SearchQuery()
    query.vector.vector.CopyFrom(embedded.embeddings[0].vector)
    query.vector.fingerprint = embedded.fingerprint.combined

    by_vector = await server.searches.Search(search_pb2.SearchRequest(collection=name, query=query))
    by_text = await server.search(name, "ripe fruit")

    assert ids(by_vector) == ids(by_text)
    np.testing.assert_allclose(
        [hit.score for hit in by_vector.hits], [hit.score for hit in by_text.hits], atol=1e-5
    )


async def test_the_query_prompt_is_put_in_front_of_queries(server):
    name = await server.create(embedding={"queryPrompt": "query: "})
    await server.put(name, {"a": "query: apples", "b": "apples"})

    found = await server.search(name, "apples")

    assert found.hits[0].document.id == "a"
    assert found.hits[0].score == pytest.approx(1, abs=1e-5)
    assert found.fingerprint.prompt == "query: "


async def test_a_vector_made_with_the_query_prompt_belongs_to_the_collection(server):
    name = await server.create(embedding={"queryPrompt": "query: "})
    await server.put(name, {"a": "apples"})
    encoder = encoder_pb2_grpc.EncoderServiceStub(server.channel)
    options = encoder_pb2.EmbedOptions(prompt="query: ")
    embedded = await encoder.Embed(encoder_pb2.EmbedRequest(inputs=["apples"], options=options))
    query = search_pb2.SearchQuery()
    query.vector.vector.CopyFrom(embedded.embeddings[0].vector)
    query.vector.fingerprint = embedded.fingerprint.combined

    found = await server.searches.Search(search_pb2.SearchRequest(collection=name, query=query))

    assert len(found.hits) == 1


# ---- a word in its sentence


async def words_of(server, sentences):
    """A collection of the vectors of "apple" in each sentence, and what made them."""
    encoder = encoder_pb2_grpc.EncoderServiceStub(server.channel)
    request = encoder_pb2.EmbedWordsRequest()
    for sentence in sentences.values():
        word = "Apple" if "Apple" in sentence else "apple"
        given = request.inputs.add(text=sentence)
        given.targets.add().word.word = word
    embedded = await encoder.EmbedWords(request)
    hash = embedded.fingerprint.combined
    external = {"dimensions": embedded.fingerprint.dimensions, "fingerprint": hash}
    name = await server.create(external=external)
    vectors = [np.frombuffer(r.words[0].vector.data, "<f4") for r in embedded.results]
    await server.put(
        name,
        {
            id: {"text": text, "vector": vector.tolist(), "fingerprint": hash}
            for (id, text), vector in zip(sentences.items(), vectors, strict=True)
        },
    )
    return name


async def test_a_word_in_its_sentence_finds_the_words_that_mean_the_same(server, ids):
    name = await words_of(
        server,
        {
            "fruit-1": "He cut the apple into slices and ate it.",
            "fruit-2": "An apple fell from the tree into the grass.",
            "company-1": "Apple sold fewer phones than last year.",
            "company-2": "Analysts expect Apple to report higher profits.",
        },
    )

    def word_in(text, word):
        target = {"word": {"word": word}}
        return {"word": {"text": text, "target": target}}

    fruit = await server.search(name, query=word_in("The apple was red and juicy.", "apple"), k=2)
    company = await server.search(
        name, query=word_in("The lawsuit against Apple was settled.", "Apple"), k=2
    )

    assert set(ids(fruit)) == {"fruit-1", "fruit-2"}
    assert set(ids(company)) == {"company-1", "company-2"}


async def test_a_word_is_not_compared_with_vectors_of_whole_texts(server, refusal):
    name = await server.apples()
    query = {"word": {"text": "An apple.", "target": {"word": {"word": "apple"}}}}

    refused = await refusal(server.search(name, query=query))

    assert refused.code is Code.FAILED_PRECONDITION
    assert refused.reason == "FINGERPRINT_MISMATCH"
    assert "pooling" in refused.message


async def test_a_word_that_is_not_there_is_refused_with_its_place(server, refusal):
    name = await server.create(external={"dimensions": 384})
    query = {"word": {"text": "An apple.", "target": {"word": {"word": "pear"}}}}

    refused = await refusal(server.search(name, query=query))

    assert refused.code is Code.INVALID_ARGUMENT
    assert refused.fields[0].startswith("query.word.target")


# ---- options


async def test_without_k_ten_hits_come(server):
    name = await server.create()
    await server.put(name, {f"{i:02}": f"Sentence number {i}." for i in range(12)})

    found = await server.search(name, "number")

    assert len(found.hits) == 10
    assert not found.exhausted


@pytest.mark.parametrize("mode", EVERY_MODE)
async def test_a_filter_narrows_every_mode(server, ids, mode):
    name = await server.apples()

    found = await server.search(name, "apple apples phone", filter=FRUIT, mode=mode)

    assert set(ids(found)) <= {"pie", "orchard"}
    assert found.exhausted
    assert found.hits


async def test_a_filter_that_matches_nothing_says_that_there_is_no_more(server):
    name = await server.apples()
    nothing = {"equal": {"field": "kind", "value": "stone"}}

    found = await server.search(name, "apple", filter=nothing)

    assert list(found.hits) == []
    assert found.exhausted


async def test_hits_below_a_score_are_left_out(server, ids):
    name = await server.apples()
    everything = await server.search(name, "ripe apples in the orchard")
    limit = everything.hits[1].score

    found = await server.search(name, "ripe apples in the orchard", scoreMin=limit)

    assert ids(found) == ids(everything)[:2]
    assert found.exhausted


async def test_ids_alone_come_without_texts_and_with_vectors_if_wanted(server):
    name = await server.apples()

    bare = (await server.search(name, "fruit", idsOnly=True, k=1)).hits[0].document
    armed = (
        (await server.search(name, "fruit", idsOnly=True, withVectors=True, k=1)).hits[0].document
    )
    full = (await server.search(name, "fruit", withVectors=True, k=1)).hits[0].document

    assert bare.id
    assert not bare.text
    assert not bare.HasField("metadata")
    assert not armed.text
    assert armed.vector.dimensions == 384
    assert full.text
    assert full.vector.dimensions == 384


async def test_a_search_sees_the_write_whose_sequence_it_names(server, ids):
    name = await server.apples()
    for number in range(5):
        written = await server.put(name, {"new": f"A quince, number {number}."})
        found = await server.search(name, "quince", minSequence=str(written.sequence), k=1)
        assert found.sequence >= written.sequence
        assert found.hits[0].document.text == f"A quince, number {number}."


async def test_a_write_that_never_was_cannot_be_seen(server, refusal):
    name = await server.apples()

    refused = await refusal(server.search(name, "apple", minSequence="99"))

    assert refused.code is Code.FAILED_PRECONDITION
    assert refused.reason == "SEQUENCE_NOT_REACHED"
    assert refused.metadata == {"wanted": "99", "current": "1"}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"k": -1}, "options.k"),
        ({"k": 1_000_000}, "options.k"),
        ({"k": 101, "highlight": True}, "options.k"),
        ({"mode": 9}, "options.mode"),
        ({"fusion": 9}, "options.fusion"),
        ({"minSequence": "-1"}, "options.min_sequence"),
        ({"scoreMin": 0.5, "mode": "SEARCH_MODE_LEXICAL"}, "options.score_min"),
        ({"denseShare": 0.5}, "options.dense_share"),
        ({"denseShare": 1.5, "mode": "SEARCH_MODE_HYBRID"}, "options.dense_share"),
        ({"denseShare": "NaN", "mode": "SEARCH_MODE_HYBRID"}, "options.dense_share"),
        ({"filter": {}}, "options.filter"),
        (
            {"filter": {"all": {"filters": [FRUIT, {"range": {"field": "year", "lt": True}}]}}},
            "options.filter.all.filters[1].range.lt",
        ),
    ],
)
async def test_an_option_that_cannot_be_is_refused_with_its_place(server, refusal, options, field):
    name = await server.create()

    refused = await refusal(server.search(name, "apple", **options))

    assert refused.code is Code.INVALID_ARGUMENT
    assert refused.fields == [field]


async def test_a_k_of_a_million_is_refused_with_the_limit(server, refusal):
    name = await server.create()

    refused = await refusal(server.search(name, "apple", k=1_000_000))

    assert refused.reason == "LIMIT_EXCEEDED"
    assert refused.metadata["limit"] == str(server.settings.k_max)


async def test_the_largest_k_works_for_documents_too(server):
    name = await server.apples()
    k = server.settings.k_max

    assert len((await server.search(name, query={"documentId": "pie"}, k=k)).hits) == 4


@pytest.mark.parametrize(
    ("query", "options", "field"),
    [
        ({}, {}, "query"),
        ({"text": ""}, {}, "query.text"),
        ({"text": " \n"}, {}, "query.text"),
        ({"text": "a\0b"}, {}, "query.text"),
        ({"vector": {}}, {}, "query.vector.fingerprint"),
        ({"documentId": "pie"}, {"mode": "SEARCH_MODE_HYBRID"}, "options.lexical_text"),
        ({"documentId": "pie"}, {"mode": "SEARCH_MODE_LEXICAL"}, "options.lexical_text"),
        ({"text": "x " * 40_000}, {"mode": "SEARCH_MODE_LEXICAL"}, "query.text"),
    ],
)
async def test_a_query_that_asks_nothing_is_refused_with_its_place(
    server, refusal, query, options, field
):
    name = await server.apples()
    request = search_pb2.SearchRequest(
        collection=name,
        query=ParseDict(query, search_pb2.SearchQuery()),
        options=ParseDict(options, search_pb2.SearchOptions()),
    )

    refused = await refusal(server.searches.Search(request))

    assert refused.code is Code.INVALID_ARGUMENT
    assert refused.fields == [field]


@pytest.mark.parametrize("values", [[1.0], [1.0, float("nan")], [0.0, 0.0]])
async def test_a_query_vector_that_points_nowhere_is_refused(server, refusal, values):
    name = await server.create(external={"dimensions": 2})
    query = search_pb2.SearchQuery()
    query.vector.vector.values.extend(values)
    request = search_pb2.SearchRequest(collection=name, query=query)

    refused = await refusal(server.searches.Search(request))

    assert refused.code is Code.INVALID_ARGUMENT
    assert refused.fields == ["query.vector.vector"]


async def test_a_text_is_refused_where_callers_bring_the_vectors(server, refusal):
    name = await server.create(external={"dimensions": 2})

    assert (await refusal(server.search(name, "apple"))).code is Code.INVALID_ARGUMENT


async def test_unknown_collections_and_documents_are_refused_with_their_names(server, refusal):
    name = await server.apples()

    nowhere = await refusal(server.search("nowhere", "apple"))
    nobody = await refusal(server.search(name, query={"documentId": "nobody"}))

    assert (nowhere.code, nowhere.resource) == (Code.NOT_FOUND, "nowhere")
    assert (nobody.code, nobody.resource) == (Code.NOT_FOUND, "nobody")


@pytest.mark.parametrize(
    "text",
    ['"', "apple AND", "NEAR(apple orchard, 2)", "text:apple*", "(", "^", "-apple", "'; DROP", "*"],
)
async def test_no_text_is_taken_for_an_operator_of_the_lexical_search(server, text):
    name = await server.apples()

    for mode in EVERY_MODE:
        await server.search(name, text, mode=mode)


# ---- highlights


async def test_passages_near_the_query_are_shown_best_first(server):
    name = await server.create()
    text = (
        "The museum opened in 1901. A baker sells warm apple cake at the gate! "
        "Dr. Ødegård keeps the keys 🔑. Trains leave every hour. Coffee is free."
    )
    await server.put(name, {"a": text})

    found = await server.search(name, "sweet pastry with fruit", highlight=True)

    places = found.hits[0].highlights
    shown = [text[place.span.start : place.span.end] for place in places]
    assert shown[0] == "A baker sells warm apple cake at the gate!"
    assert len(shown) == 3
    assert [place.score for place in places] == sorted(
        (place.score for place in places), reverse=True
    )
    for place, part in zip(places, shown, strict=True):
        assert place.kind == search_pb2.HIGHLIGHT_KIND_SEMANTIC
        span = place.span
        assert text.encode()[span.byte_start : span.byte_end].decode() == part


async def test_a_hybrid_search_shows_passages_and_the_words_of_the_query(server):
    name = await server.apples()

    found = await server.search(name, "sour", mode="SEARCH_MODE_HYBRID", highlight=True, k=1)

    text = found.hits[0].document.text
    kinds = [place.kind for place in found.hits[0].highlights]
    last = found.hits[0].highlights[-1]
    assert kinds[0] == search_pb2.HIGHLIGHT_KIND_SEMANTIC
    assert last.kind == search_pb2.HIGHLIGHT_KIND_LEXICAL
    assert text[last.span.start : last.span.end] == "sour"


async def test_a_passage_deep_in_a_long_text_is_shown(server):
    name = await server.create()
    filler = "The committee met again on Tuesday and adjourned without a vote. "
    text = filler * 30 + "An apple pie cooled on the windowsill. " + filler * 10
    await server.put(name, {"a": text})

    found = await server.search(name, "dessert made of apples", highlight=True)

    best = found.hits[0].highlights[0].span
    assert text[best.start : best.end] == "An apple pie cooled on the windowsill."


async def test_a_hit_without_a_text_has_nothing_to_show(server):
    name = await server.create(external={"dimensions": 2})
    await server.put(name, {"a": {"vector": [1, 0]}})
    query = {"vector": {"vector": {"values": [1, 0]}}}

    found = await server.search(name, query=query, highlight=True)

    assert len(found.hits) == 1
    assert not found.hits[0].highlights


# ---- several at once


def batch(server, name, queries, **fields):
    request = search_pb2.BatchSearchRequest(
        collection=name,
        queries=[ParseDict(query, search_pb2.SearchQuery()) for query in queries],
        **fields,
    )
    return server.searches.BatchSearch(request)


async def test_a_batch_answers_as_its_queries_do_one_by_one(server, ids):
    name = await server.apples()
    queries = [{"text": "ripe fruit"}, {"documentId": "laptop"}, {"text": "a bridge"}]

    together = await batch(server, name, queries)
    alone = [await server.search(name, query=query) for query in queries]

    assert [ids(result.response) for result in together.results] == [ids(one) for one in alone]
    for result, one in zip(together.results, alone, strict=True):
        np.testing.assert_allclose(
            [hit.score for hit in result.response.hits],
            [hit.score for hit in one.hits],
            atol=1e-5,
        )


async def test_one_bad_query_fails_a_batch_with_its_place(server, refusal):
    name = await server.apples()

    refused = await refusal(batch(server, name, [{"text": "fruit"}, {"text": ""}]))

    assert refused.fields == ["queries[1].text"]


async def test_with_partial_success_each_query_is_answered_by_itself(server, ids, told_of):
    name = await server.apples()
    queries = [{"text": "fruit"}, {"text": ""}, {"documentId": "nobody"}, {"text": "company"}]

    answered = await batch(server, name, queries, partial_success=True)

    first, empty, unknown, last = answered.results
    assert ids(first.response)
    assert ids(last.response)
    assert told_of(empty.error).fields == ["queries[1].text"]
    assert told_of(unknown.error).code is Code.NOT_FOUND
    assert not unknown.HasField("response")


async def test_with_partial_success_a_text_that_is_too_long_is_refused_alone(server, ids, told_of):
    name = await server.create(embedding={"truncation": "TRUNCATION_POLICY_ERROR"})
    await server.put(name, {"pie": "She baked a pie."})
    queries = [{"text": "fruit"}, {"text": "apple " * 1_000}, {"text": "pastry"}]

    answered = await batch(server, name, queries, partial_success=True)

    first, long, last = answered.results
    assert ids(first.response) == ids(last.response) == ["pie"]
    assert (told_of(long.error).reason, told_of(long.error).fields) == (
        "INPUT_TOO_LONG",
        ["queries[1].text"],
    )


async def test_with_partial_success_words_are_answered_each_by_itself(server, ids, told_of):
    name = await server.create(external={"dimensions": 384})
    await server.put(name, {"a": {"vector": [1.0] * 384}})
    word = {"text": "A sour apple.", "target": {"word": {"word": "apple"}}}
    unknown = {"text": "A sour apple.", "target": {"word": {"word": "pear"}}}
    queries = [{"word": word}, {"word": unknown}, {"documentId": ""}]

    answered = await batch(server, name, queries, partial_success=True)

    first, *others = answered.results
    assert ids(first.response) == ["a"]
    assert [told_of(one.error).fields for one in others] == [
        ["queries[1].word.target.word"],
        ["queries[2].document_id"],
    ]


async def test_the_tokens_of_a_batch_are_limited_together(serving_from, tmp_path, refusal):
    text = "the bank of a river"
    word = {"text": text, "target": {"word": {"word": "bank"}}}
    async with serving_from(tmp_path, call_tokens_max=20) as server:
        name = await server.create()
        refusals = [
            await refusal(batch(server, name, [query] * 5, partial_success=partial))
            for query in ({"text": text}, {"word": word})
            for partial in (False, True)
        ]

    for refused in refusals:
        assert (refused.reason, refused.fields) == ("LIMIT_EXCEEDED", ["queries"])
        assert int(refused.metadata["given"]) > int(refused.metadata["limit"]) == 20


@pytest.mark.parametrize(
    "query",
    [
        {"text": "fruit"},
        {"word": {"text": "An apple.", "target": {"word": {"word": "apple"}}}},
    ],
)
async def test_a_full_queue_fails_a_batch_with_partial_success_too(
    server, refusal, monkeypatch, query
):
    def full(self, texts, lane):
        raise QueueFull(8, 8, 0.5)

    name = await server.apples()
    monkeypatch.setattr(Embedder, "check_room", full)

    refused = await refusal(batch(server, name, [query, {"text": ""}], partial_success=True))

    assert (refused.code, refused.reason) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert refused.retry


async def test_as_many_documents_as_texts_can_be_queries(server, refusal):
    name = await server.create(external={"dimensions": 1})
    limit = server.settings.documents_max
    for start in range(0, 1_500, limit):
        documents = {f"d{i}": {"vector": [1]} for i in range(start, min(start + limit, 1_500))}
        await server.put(name, documents)
    queries = [{"documentId": f"d{i}"} for i in range(1_500)]

    answered = await batch(server, name, queries, options=search_pb2.SearchOptions(k=1))
    refused = await refusal(batch(server, name, [*queries, {"documentId": ""}]))

    assert len(answered.results) == 1_500
    assert all(len(result.response.hits) == 1 for result in answered.results)
    assert refused.fields == ["queries[1500].document_id"]


@pytest.mark.parametrize("mode", EVERY_MODE)
async def test_an_empty_id_as_query_is_refused_by_its_field(server, refusal, mode):
    name = await server.apples()
    query = {"documentId": ""}

    refused = await refusal(server.search(name, query=query, mode=mode, lexicalText="apple"))

    assert refused.fields == ["query.document_id"]


async def test_a_batch_that_asks_for_too_many_hits_never_reaches_the_index(
    server, refusal, monkeypatch
):
    name = await server.apples()
    reached = []
    monkeypatch.setattr(Collection, "search_batch", lambda *_: reached.append(1))
    limit = server.settings.hits_max
    queries = [{"text": "x"}] * (limit // server.settings.k_max + 1)

    options = search_pb2.SearchOptions(k=server.settings.k_max, ids_only=True)
    refused = await refusal(batch(server, name, queries, options=options))

    assert (refused.reason, refused.fields) == ("LIMIT_EXCEEDED", ["options.k"])
    assert refused.metadata["limit"] == str(limit)
    assert not reached


async def test_a_batch_has_queries_and_not_too_many(server, refusal):
    name = await server.apples()
    too_many = [{"text": "x"}] * (server.settings.inputs_max + 1)

    assert (await refusal(batch(server, name, []))).fields == ["queries"]
    assert (await refusal(batch(server, name, too_many))).reason == "LIMIT_EXCEEDED"


# ---- another model


async def test_after_a_change_of_the_model_texts_are_refused_and_vectors_still_work(
    serving_from, tmp_path, refusal, ids, renamed_model
):
    async with serving_from(tmp_path) as server:
        name = await server.apples()
        request = collection_pb2.GetCollectionRequest(name=name)
        collection = (await server.collections.GetCollection(request)).collection
    expected = collection.fingerprint.combined

    async with serving_from(tmp_path, model=renamed_model) as server:
        refusals = [
            await refusal(server.search(name, "ripe fruit")),
            await refusal(server.put(name, {"new": "A new sentence."})),
        ]
        by_words = await server.search(name, "bridge", mode="SEARCH_MODE_LEXICAL")
        like = await server.search(name, query={"documentId": "laptop"}, highlight=True, k=1)
        stored = await server.get(name, "pie", with_vector=True)
        own = np.frombuffer(stored.vector.data, "<f4").tolist()
        await server.put(name, {"mine": {"vector": own, "fingerprint": expected}})
        by_vector = await server.search(
            name, query={"vector": {"vector": {"values": own}, "fingerprint": expected}}, k=2
        )

    for refused in refusals:
        assert refused.code is Code.FAILED_PRECONDITION
        assert refused.reason == "FINGERPRINT_MISMATCH"
        assert refused.metadata["expected"] == expected
        assert refused.metadata["given"] not in ("", expected)
        assert "model is 'another'" in refused.metadata["differences"]
    assert ids(by_words) == ["bridge"]
    assert ids(like) == ["shares"]
    assert ids(by_vector) == ["mine", "pie"]


@pytest.fixture
def renamed_model(model_directory, tmp_path_factory):
    """The same model under another name: another fingerprint."""
    from encoder.manifest import read_manifest, write_manifest

    directory = tmp_path_factory.mktemp("models") / "another"
    shutil.copytree(model_directory, directory, copy_function=os.symlink)
    (directory / "polyseme.json").unlink()
    manifest = read_manifest(model_directory)
    write_manifest(directory, manifest.model_copy(update={"name": "another"}))
    return directory
