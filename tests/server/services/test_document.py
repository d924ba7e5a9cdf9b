"""DocumentService over a real socket, without its stream."""

import os

import grpc
import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from index.errors import DirectoryInUse
from index.records import Record
from polyseme.v1 import collection_pb2, common_pb2, document_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

Code = grpc.StatusCode
FRUIT = {"equal": {"field": "kind", "value": "fruit"}}


def filter_of(values):
    return ParseDict(values, document_pb2.Filter())


def values_of(vector):
    return np.frombuffer(vector.data, "<f4")


async def fingerprint_of(server, name):
    request = collection_pb2.GetCollectionRequest(name=name)
    found = await server.collections.GetCollection(request)
    return found.collection.fingerprint.combined


# ---- writing and reading


async def test_a_document_comes_back_as_it_was_written_with_the_vector_of_its_text(server):
    name = await server.create()
    metadata = {
        "title": "Äpfel",
        "year": 1984,
        "price": 2.5,
        "tags": ["a", None],
        "in": {"x": True},
    }

    written = await server.put(name, {"a": {"text": "An apple a day.", "metadata": metadata}})
    found = await server.get(name, "a", with_vector=True)

    assert (written.sequence, written.inserted, written.updated) == (1, 1, 0)
    assert written.timing.compute_s > 0
    assert (found.id, found.text, found.sequence) == ("a", "An apple a day.", 1)
    assert MessageToDict(found.metadata) == metadata
    assert found.create_time == found.update_time
    assert np.linalg.norm(values_of(found.vector)) == pytest.approx(1, abs=1e-5)


async def test_a_vector_is_sent_only_when_it_is_asked_for(server):
    name = await server.create()
    await server.put(name, {"a": "An apple."})

    assert not (await server.get(name, "a")).HasField("vector")


async def test_a_replaced_document_keeps_its_time_of_creation(server):
    name = await server.create()
    await server.put(name, {"a": "An apple."})
    first = await server.get(name, "a")

    written = await server.put(name, {"a": "A pear.", "b": "A plum."})
    second = await server.get(name, "a")

    assert (written.inserted, written.updated) == (1, 1)
    assert second.text == "A pear."
    assert second.create_time == first.create_time
    assert second.sequence == written.sequence > first.sequence


async def test_a_caller_s_own_vector_is_stored_at_length_one(server):
    name = await server.create(external={"dimensions": 2})

    await server.put(name, {"a": {"vector": [3, 4]}})

    found = await server.get(name, "a", with_vector=True)
    assert values_of(found.vector) == pytest.approx([0.6, 0.8])


async def test_own_vectors_and_texts_to_be_embedded_go_together_in_one_write(server):
    name = await server.create()
    hash = await fingerprint_of(server, name)
    own = [1.0] + [0.0] * 383

    await server.put(name, {"own": {"vector": own, "fingerprint": hash}, "text": "An apple."})

    assert values_of((await server.get(name, "own", with_vector=True)).vector)[0] == 1
    assert values_of((await server.get(name, "text", with_vector=True)).vector)[0] != 1


@pytest.mark.parametrize(
    "kind", [{}, {"external": {"dimensions": 384, "fingerprint": "theirs"}}], ids=["ours", "theirs"]
)
async def test_documents_with_their_vectors_can_be_written_back_as_they_came(server, kind):
    name = await server.create(**kind)
    own = {"vector": [1.0] + [0.0] * 383, "fingerprint": "theirs"} if kind else {}
    await server.put(name, {id: {"text": "An apple.", **own} for id in "ab"})

    got = await server.get(name, "a", with_vector=True)
    listed = await server.documents.ListDocuments(
        document_pb2.ListDocumentsRequest(collection=name, with_vectors=True)
    )
    several = await server.documents.BatchGetDocuments(
        document_pb2.BatchGetDocumentsRequest(collection=name, ids=["a"], with_vectors=True)
    )
    searched = await server.search(name, "apple", mode="SEARCH_MODE_LEXICAL", with_vectors=True)
    found = [listed.documents, several.documents, [hit.document for hit in searched.hits]]
    for documents in ([got], *found):
        written = await server.documents.UpsertDocuments(
            document_pb2.UpsertDocumentsRequest(collection=name, documents=documents)
        )
        assert written.updated == len(documents)

    again = await server.get(name, "a", with_vector=True)
    assert again.vector == got.vector
    assert (await server.get(name, "a")).vector_fingerprint == ""


async def test_documents_are_written_in_the_bulk_lane_too(server):
    name = await server.create()

    written = await server.put(name, {"a": "b"}, priority=common_pb2.PRIORITY_BULK)

    assert written.inserted == 1


async def test_several_documents_come_in_the_order_of_the_ids(server, refusal):
    name = await server.apples()

    def request(**fields):
        ids = ["shares", "nobody", "pie"]
        return document_pb2.BatchGetDocumentsRequest(collection=name, ids=ids, **fields)

    found = await server.documents.BatchGetDocuments(request(allow_missing=True, with_vectors=True))
    refused = await refusal(server.documents.BatchGetDocuments(request()))

    assert [document.id for document in found.documents] == ["shares", "pie"]
    assert all(document.HasField("vector") for document in found.documents)
    assert (refused.code, refused.resource) == (Code.NOT_FOUND, "nobody")


async def test_an_unknown_document_is_refused_with_its_id(server, refusal):
    name = await server.create()

    refused = await refusal(server.get(name, "a/b"))

    assert refused.code is Code.NOT_FOUND
    assert refused.reason == "DOCUMENT_NOT_FOUND"
    assert refused.resource == "a/b"


# ---- refusals of a write


@pytest.mark.parametrize(
    ("documents", "field"),
    [
        ([{"id": "a"}], "documents[0].text"),
        ([{"id": "a", "text": "\n "}], "documents[0].text"),
        ([{"id": "a", "text": "b"}, {"id": "a", "text": "c"}], "documents[1].id"),
        ([{"text": "b"}], "documents[0].id"),
        ([{"id": "i" * 513, "text": "b"}], "documents[0].id"),
        ([{"id": "a\0", "text": "b"}], "documents[0].id"),
        ([{"id": "a", "text": "b\0c"}], "documents[0].text"),
        ([{"id": "a", "text": "x" * 1_048_577}], "documents[0].text"),
        ([{"id": "a", "text": "b", "metadata": {"n": "x" * 70_000}}], "documents[0].metadata"),
        ([{"id": "a", "text": "b", "metadata": {"": 1}}], "documents[0].metadata"),
        ([{"id": "a", "vector": [1.0, 2.0]}], "documents[0].vector_fingerprint"),
        ([], "documents"),
    ],
)
async def test_a_document_that_cannot_be_stored_is_refused_with_its_place(
    server, refusal, make_document, documents, field
):
    name = await server.create()
    request = document_pb2.UpsertDocumentsRequest(
        collection=name,
        documents=[make_document(d.pop("id", ""), **d) for d in map(dict, documents)],
    )

    refused = await refusal(server.documents.UpsertDocuments(request))

    assert refused.code is Code.INVALID_ARGUMENT
    assert refused.fields == [field]


async def test_metadata_that_nests_too_deep_is_refused_with_its_place(server, refusal):
    name = await server.create()
    metadata = {"a": 1}
    for _ in range(20):
        metadata = {"a": metadata}

    refused = await refusal(server.put(name, {"a": {"text": "b", "metadata": metadata}}))

    assert refused.code is Code.INVALID_ARGUMENT
    assert refused.fields[0].startswith("documents[0].metadata.a")


async def test_a_number_that_is_not_finite_is_refused_with_its_place(
    server, refusal, make_document
):
    name = await server.create()
    bad = make_document("b", text="b")
    bad.metadata["price"] = float("nan")
    request = document_pb2.UpsertDocumentsRequest(
        collection=name, documents=[make_document("a", text="a"), bad]
    )

    refused = await refusal(server.documents.UpsertDocuments(request))

    assert refused.fields == ["documents[1].metadata.price"]
    assert (await count(server, name)).count == 0


@pytest.mark.parametrize(
    "vector", [[1.0], [1.0, 2.0, 3.0], [1.0, float("nan")], [float("inf"), 0.0], [0.0, 0.0], []]
)
async def test_a_vector_that_cannot_be_stored_is_refused_with_its_place(
    server, refusal, vector, make_document
):
    name = await server.create(external={"dimensions": 2})
    bad = make_document("b")
    bad.vector.SetInParent()
    bad.vector.values.extend(vector)
    documents = [make_document("a", vector=[1, 2]), bad]
    request = document_pb2.UpsertDocumentsRequest(collection=name, documents=documents)

    refused = await refusal(server.documents.UpsertDocuments(request))

    assert refused.code is Code.INVALID_ARGUMENT
    assert refused.fields[0].startswith("documents[1].vector")
    assert (await count(server, name)).count == 0


async def test_a_text_alone_is_refused_where_callers_bring_the_vectors(server, refusal):
    name = await server.create(external={"dimensions": 2})

    assert (await refusal(server.put(name, {"a": "b"}))).fields == ["documents[0].vector"]


async def test_a_vector_of_another_model_is_refused_with_both_hashes(server, refusal):
    name = await server.create()
    expected = await fingerprint_of(server, name)
    own = [1.0] * 384

    refused = await refusal(server.put(name, {"a": {"vector": own, "fingerprint": "f" * 64}}))

    assert refused.code is Code.FAILED_PRECONDITION
    assert refused.reason == "FINGERPRINT_MISMATCH"
    assert refused.metadata["given"] == "f" * 64
    assert refused.metadata["expected"] == expected


async def test_more_documents_than_a_write_takes_are_refused_with_the_limit(server, refusal):
    name = await server.create(external={"dimensions": 1})
    many = {str(i): {"vector": [1]} for i in range(server.settings.documents_max + 1)}

    refused = await refusal(server.put(name, many))

    assert refused.reason == "LIMIT_EXCEEDED"
    assert refused.metadata["limit"] == str(server.settings.documents_max)


async def test_a_text_too_long_for_the_model_is_refused_where_nothing_may_be_cut(server, refusal):
    name = await server.create(embedding={"truncation": "TRUNCATION_POLICY_ERROR"})

    refused = await refusal(server.put(name, {"a": "short", "b": "long " * 1000}))

    assert refused.reason == "INPUT_TOO_LONG"
    assert refused.fields == ["documents[1].text"]


async def test_modes_refuse_what_exists_or_does_not(server, refusal):
    name = await server.create()
    await server.put(name, {"a": "An apple."}, mode=document_pb2.WRITE_MODE_INSERT)

    exists = await refusal(
        server.put(name, {"new": "b", "a": "b"}, mode=document_pb2.WRITE_MODE_INSERT)
    )
    missing = await refusal(server.put(name, {"b": "b"}, mode=document_pb2.WRITE_MODE_UPDATE))
    unknown = await refusal(server.put(name, {"b": "b"}, mode=9))

    assert (exists.code, exists.resource) == (Code.ALREADY_EXISTS, "a")
    assert (missing.code, missing.resource) == (Code.NOT_FOUND, "b")
    assert unknown.fields == ["mode"]
    assert (await count(server, name)).count == 1


async def test_every_call_on_an_unknown_collection_is_refused(server, refusal):
    stub, where = server.documents, "nowhere"
    any_filter = filter_of(FRUIT)
    for call in (
        server.put(where, {"a": "b"}),
        server.get(where, "a"),
        count(server, where),
        stub.DeleteDocuments(document_pb2.DeleteDocumentsRequest(collection=where, ids=["a"])),
        stub.ListDocuments(document_pb2.ListDocumentsRequest(collection=where)),
        stub.BatchGetDocuments(document_pb2.BatchGetDocumentsRequest(collection=where, ids=["a"])),
        stub.PurgeDocuments(
            document_pb2.PurgeDocumentsRequest(collection=where, filter=any_filter)
        ),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.resource) == (Code.NOT_FOUND, where)


# ---- once


async def test_a_retry_changes_nothing_embeds_nothing_and_gets_the_first_answer(server):
    name = await server.create()
    documents = {"a": "An apple.", "b": "A pear."}
    first = await server.put(name, documents, request_id="once")
    await server.put(name, {"a": "Something else."})

    second = await server.put(name, documents, request_id="once")

    assert second.replayed
    assert (second.sequence, second.inserted) == (first.sequence, first.inserted)
    assert second.timing.compute_s == 0
    assert (await server.get(name, "a")).text == "Something else."


async def test_a_request_id_that_comes_with_something_else_is_refused(server, refusal):
    name = await server.create()
    await server.put(name, {"a": "An apple."}, request_id="once")

    refused = await refusal(server.put(name, {"a": "A pear."}, request_id="once"))

    assert refused.reason == "REQUEST_ID_REUSED"


async def test_a_request_id_is_short(server, refusal):
    name = await server.create()

    assert (await refusal(server.put(name, {"a": "b"}, request_id="x" * 65))).fields == [
        "request_id"
    ]


async def test_a_retry_is_known_after_a_restart(serving_from, tmp_path):
    async with serving_from(tmp_path) as server:
        name = await server.create()
        await server.put(name, {"a": "An apple."}, request_id="once")
    async with serving_from(tmp_path) as server:
        assert (await server.put(name, {"a": "An apple."}, request_id="once")).replayed


# ---- deleting


async def test_deleting_says_how_many_there_were_and_a_retry_says_it_again(server):
    name = await server.apples()
    request = document_pb2.DeleteDocumentsRequest(
        collection=name, ids=["pie", "nobody"], request_id="once"
    )

    first = await server.documents.DeleteDocuments(request)
    second = await server.documents.DeleteDocuments(request)

    assert (first.deleted, first.replayed) == (1, False)
    assert (second.deleted, second.replayed) == (1, True)
    assert (await count(server, name)).count == 4


async def test_a_purge_removes_what_its_filter_matches_and_a_dry_run_only_counts(server):
    name = await server.apples()

    def purge(**fields):
        return server.documents.PurgeDocuments(
            document_pb2.PurgeDocumentsRequest(collection=name, filter=filter_of(FRUIT), **fields)
        )

    dry = await purge(dry_run=True)
    untouched = (await count(server, name)).count
    wet = await purge(request_id="once")
    again = await purge(request_id="once")

    assert (dry.deleted, untouched) == (2, 5)
    assert (wet.deleted, again.deleted, again.replayed) == (2, 2, True)
    assert (await count(server, name)).count == 3


async def test_a_purge_without_a_filter_is_refused(server, refusal):
    name = await server.apples()
    request = document_pb2.PurgeDocumentsRequest(collection=name)

    assert (await refusal(server.documents.PurgeDocuments(request))).fields == ["filter"]
    assert (await count(server, name)).count == 5


# ---- lists


def count(server, name, filter=None):
    request = document_pb2.CountDocumentsRequest(collection=name)
    if filter is not None:
        request.filter.CopyFrom(filter_of(filter))
    return server.documents.CountDocuments(request)


async def listed(server, name, page_size, **fields):
    pages, token = [], ""
    while True:
        page = await server.documents.ListDocuments(
            document_pb2.ListDocumentsRequest(
                collection=name, page_size=page_size, page_token=token, **fields
            )
        )
        pages.append([document.id for document in page.documents])
        token = page.next_page_token
        if not token:
            return pages


async def test_pages_hold_every_document_once_in_the_order_of_ids(server):
    name = await server.apples()

    pages = await listed(server, name, 2)

    assert pages == [["bridge", "laptop"], ["orchard", "pie"], ["shares"]]
    assert await listed(server, name, 0) == [[id for page in pages for id in page]]


async def test_a_filter_narrows_lists_and_counts(server):
    name = await server.apples()

    assert await listed(server, name, 1, filter=filter_of(FRUIT)) == [["orchard"], ["pie"]]
    assert (await count(server, name, FRUIT)).count == 2
    assert (await count(server, name)).count == 5
    assert (await count(server, name)).sequence == 1


async def test_a_list_reads_about_as_much_as_a_message_holds(serving_from, tmp_path, monkeypatch):
    read = []
    crc = Record.crc
    monkeypatch.setattr(Record, "crc", lambda self: read.append(len(self.text)) or crc(self))
    async with serving_from(tmp_path, message_bytes_max=20_000) as server:
        name = await server.create(external={"dimensions": 1})
        for number in range(10):
            texts = {f"{number}-{i}": {"text": "x" * 1_500, "vector": [1]} for i in range(10)}
            await server.put(name, texts)
        read.clear()

        request = document_pb2.ListDocumentsRequest(collection=name, page_size=100)
        page = await server.documents.ListDocuments(request)

    assert len(page.documents) == 11
    assert page.next_page_token
    assert sum(read) <= 1.1 * 20_000


async def test_more_documents_than_a_message_holds_are_refused_before_they_are_read(
    serving_from, tmp_path, monkeypatch, refusal
):
    async with serving_from(tmp_path, message_bytes_max=20_000) as server:
        name = await server.create(external={"dimensions": 1})
        for id in "abcdefghij":
            await server.put(name, {id: {"text": "x" * 9_000, "vector": [1]}})
        read = []
        crc = Record.crc
        monkeypatch.setattr(Record, "crc", lambda self: read.append(self.id) or crc(self))

        request = document_pb2.BatchGetDocumentsRequest(collection=name, ids="abcdefghij")
        several = await refusal(server.documents.BatchGetDocuments(request))
        query = {"vector": {"vector": {"values": [1.0]}}}
        searched = await refusal(server.search(name, query=query))

    assert several.reason == searched.reason == "REPLY_TOO_LARGE"
    assert several.code is searched.code is Code.INVALID_ARGUMENT
    assert len(read) == 2 * 5  # 45,000 bytes, twice what a message may have and a little


async def test_a_page_ends_where_the_message_is_full(serving_from, tmp_path):
    async with serving_from(tmp_path, message_bytes_max=20_000) as server:
        name = await server.create(external={"dimensions": 1})
        for id in "abcde":
            await server.put(name, {id: {"text": "x" * 8_000, "vector": [1]}})

        assert await listed(server, name, 100) == [["a", "b"], ["c", "d"], ["e"]]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"page_size": -1}, "page_size"),
        ({"page_token": "nonsense"}, "page_token"),
        ({"filter": {}}, "filter"),
        ({"filter": {"range": {"field": "year", "gte": True}}}, "filter.range.gte"),
    ],
)
async def test_a_list_that_cannot_be_made_is_refused(server, refusal, fields, field):
    name = await server.apples()
    fields = {**fields, "filter": filter_of(fields["filter"])} if "filter" in fields else fields
    request = document_pb2.ListDocumentsRequest(collection=name, **fields)

    refused = await refusal(server.documents.ListDocuments(request))

    assert refused.code is Code.INVALID_ARGUMENT
    assert refused.fields == [field]


# ---- a full disk


async def test_on_a_full_disk_writes_are_refused_and_reads_go_on(
    serving_from, tmp_path, refusal, ids
):
    async with serving_from(tmp_path) as server:
        name = await server.apples()
    async with serving_from(tmp_path, disk_free_bytes_min=2**60) as server:
        refused = await refusal(server.put(name, {"new": "A new sentence."}))
        found = await server.search(name, "fruit on trees", k=1)

    assert refused.code is Code.RESOURCE_EXHAUSTED
    assert refused.reason == "DISK_QUOTA"
    assert refused.retry
    assert str(tmp_path) not in refused.message
    assert ids(found) == ["orchard"]


async def test_more_tokens_than_a_call_may_have_are_refused_as_the_documents(
    serving_from, tmp_path, refusal
):
    async with serving_from(tmp_path, call_tokens_max=20) as server:
        name = await server.create()

        refused = await refusal(server.put(name, {"a": "one two three", "b": "word " * 30}))

    assert refused.reason == "LIMIT_EXCEEDED"
    assert refused.fields == ["documents"]


async def test_a_data_directory_in_use_is_refused_to_a_second_server(serving_from, tmp_path):
    async with serving_from(tmp_path):
        with pytest.raises(DirectoryInUse, match=str(os.getpid())):
            await serving_from(tmp_path).__aenter__()
