"""CollectionService over a real socket."""

import asyncio
import re
import sqlite3
import threading

import grpc
import pytest

from index import snapshots
from polyseme.v1 import collection_pb2, common_pb2, document_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

Code = grpc.StatusCode


def get(server, name):
    return server.collections.GetCollection(collection_pb2.GetCollectionRequest(name=name))


async def test_a_collection_is_created_with_the_model_s_own_choices(server):
    name = await server.create(description="what an apple is")

    found = (await get(server, name)).collection

    assert found.description == "what an apple is"
    assert found.embedding.pooling == common_pb2.POOLING_MEAN
    assert found.embedding.dimensions == 384
    assert found.embedding.truncation == common_pb2.TRUNCATION_POLICY_WINDOWS
    assert found.metric == collection_pb2.METRIC_COSINE
    assert found.fingerprint.model == "all-MiniLM-L6-v2"
    assert re.fullmatch("[0-9a-f]{64}", found.fingerprint.combined)
    assert found.state == collection_pb2.COLLECTION_STATE_READY
    assert found.etag
    assert found.create_time.seconds > 1_700_000_000
    assert found.statistics.disk_bytes > 0


async def test_a_prompt_and_a_pooling_make_another_fingerprint(server):
    plain = (await get(server, await server.create())).collection
    config = {"documentPrompt": "passage: ", "queryPrompt": "query: ", "pooling": "POOLING_MAX"}

    other = (await get(server, await server.create(embedding=config))).collection

    assert other.embedding.query_prompt == "query: "
    assert other.fingerprint.prompt == "passage: "
    assert other.fingerprint.pooling == common_pb2.POOLING_MAX
    assert other.fingerprint.combined != plain.fingerprint.combined


async def test_a_collection_for_callers_vectors_has_their_length_and_no_model(server):
    external = {"dimensions": 3, "fingerprint": "theirs"}
    name = await server.create(external=external, metric="METRIC_DOT")

    found = (await get(server, name)).collection

    assert found.external.dimensions == 3
    assert found.external.fingerprint == "theirs"
    assert found.metric == collection_pb2.METRIC_DOT
    assert not found.HasField("fingerprint")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "collection.name"),
        ({"name": "Apples"}, "collection.name"),
        ({"name": "../apples"}, "collection.name"),
        ({"name": "a" * 64}, "collection.name"),
        ({"metric": 9}, "collection.metric"),
        ({"embedding": {"pooling": 9}}, "collection.embedding.pooling"),
        ({"embedding": {"dimensions": 100}}, "collection.embedding.dimensions"),
        ({"embedding": {"dimensions": -1}}, "collection.embedding.dimensions"),
        ({"embedding": {"truncation": 9}}, "collection.embedding.truncation"),
        ({"embedding": {"queryPrompt": "a\0b"}}, "collection.embedding.query_prompt"),
        ({"embedding": {"queryPrompt": "a" * 2000}}, "collection.embedding.query_prompt"),
        ({"embedding": {"documentPrompt": "! " * 400}}, "collection.embedding.document_prompt"),
        ({"description": "a" * 5000}, "collection.description"),
        ({"external": {}}, "collection.external.dimensions"),
        ({"external": {"dimensions": 10**6}}, "collection.external.dimensions"),
        (
            {"external": {"dimensions": 3, "fingerprint": "x" * 200}},
            "collection.external.fingerprint",
        ),
    ],
)
async def test_what_cannot_be_a_collection_is_refused_with_its_place(
    server, refusal, fields, field
):
    refused = await refusal(server.create(**fields))

    assert refused.code is Code.INVALID_ARGUMENT
    assert refused.fields == [field]


async def test_a_request_without_a_collection_is_refused(server, refusal):
    request = collection_pb2.CreateCollectionRequest()

    assert (await refusal(server.collections.CreateCollection(request))).fields == ["collection"]


async def test_a_name_that_is_taken_is_refused(server, refusal):
    name = await server.create()

    refused = await refusal(server.create(name=name))

    assert refused.code is Code.ALREADY_EXISTS
    assert refused.reason == "COLLECTION_EXISTS"
    assert refused.resource == name


async def test_every_call_on_an_unknown_collection_is_refused_with_its_name(server, refusal):
    stub = server.collections
    calls = [
        get(server, "nowhere"),
        stub.UpdateCollection(collection_pb2.UpdateCollectionRequest(name="nowhere")),
        stub.DeleteCollection(collection_pb2.DeleteCollectionRequest(name="nowhere")),
        stub.CreateSnapshot(collection_pb2.CreateSnapshotRequest(collection="nowhere")),
        stub.CheckCollection(collection_pb2.CheckCollectionRequest(name="nowhere")),
        stub.CompactCollection(collection_pb2.CompactCollectionRequest(name="nowhere")),
    ]
    for call in calls:
        refused = await refusal(call)
        assert refused.code is Code.NOT_FOUND
        assert refused.reason == "COLLECTION_NOT_FOUND"
        assert refused.resource == "nowhere"


async def test_pages_hold_every_collection_once_in_the_order_of_names(server):
    made = {await server.create() for _ in range(5)}
    names, token = [], ""
    while True:
        page = await server.collections.ListCollections(
            collection_pb2.ListCollectionsRequest(page_size=2, page_token=token)
        )
        assert len(page.collections) <= 2
        names += [collection.name for collection in page.collections]
        token = page.next_page_token
        if not token:
            break

    assert names == sorted(set(names))
    assert made <= set(names)


async def test_a_page_that_is_no_page_is_refused(server, refusal):
    for fields, field in (({"page_size": -1}, "page_size"), ({"page_token": "%"}, "page_token")):
        request = collection_pb2.ListCollectionsRequest(**fields)
        refused = await refusal(server.collections.ListCollections(request))
        assert refused.code is Code.INVALID_ARGUMENT
        assert refused.fields == [field]


async def test_description_and_query_prompt_change_and_so_does_the_etag(server):
    name = await server.create(description="old")
    before = (await get(server, name)).collection

    request = collection_pb2.UpdateCollectionRequest(
        name=name, description="new", query_prompt="query: ", etag=before.etag
    )
    after = (await server.collections.UpdateCollection(request)).collection

    assert (after.description, after.embedding.query_prompt) == ("new", "query: ")
    assert after.etag != before.etag
    assert after.fingerprint == before.fingerprint


async def test_a_change_of_what_someone_else_has_changed_is_refused(server, refusal):
    name = await server.create()
    seen = (await get(server, name)).collection.etag
    change = collection_pb2.UpdateCollectionRequest(name=name, description="theirs")
    await server.collections.UpdateCollection(change)

    for call in (
        server.collections.UpdateCollection(
            collection_pb2.UpdateCollectionRequest(name=name, description="mine", etag=seen)
        ),
        server.collections.DeleteCollection(
            collection_pb2.DeleteCollectionRequest(name=name, etag=seen)
        ),
    ):
        refused = await refusal(call)
        assert refused.code is Code.ABORTED
        assert refused.reason == "ETAG_MISMATCH"
        assert refused.resource == name

    assert (await get(server, name)).collection.description == "theirs"


async def test_a_prompt_that_leaves_no_half_of_a_window_for_texts_is_refused(server, refusal):
    """As it would be with every text; 200 of 256 tokens."""
    long = "word " * 200
    name = await server.create()

    for prompt in ("documentPrompt", "queryPrompt"):
        refused = await refusal(server.create(embedding={prompt: long}))
        assert refused.fields in (
            ["collection.embedding.document_prompt"],
            ["collection.embedding.query_prompt"],
        )
    update = collection_pb2.UpdateCollectionRequest(name=name, query_prompt=long)
    refused = await refusal(server.collections.UpdateCollection(update))
    assert refused.fields == ["query_prompt"]


async def test_a_query_prompt_for_callers_vectors_is_refused(server, refusal):
    name = await server.create(external={"dimensions": 3})
    request = collection_pb2.UpdateCollectionRequest(name=name, query_prompt="query: ")

    refused = await refusal(server.collections.UpdateCollection(request))

    assert refused.fields == ["query_prompt"]


async def test_a_deleted_collection_is_gone_and_its_name_is_free(server, refusal):
    name = await server.apples()

    await server.collections.DeleteCollection(collection_pb2.DeleteCollectionRequest(name=name))

    assert (await refusal(get(server, name))).code is Code.NOT_FOUND
    assert await server.create(name=name) == name
    assert (await get(server, name)).collection.statistics.documents == 0


async def test_a_snapshot_comes_back_as_another_collection_with_all_it_held(server, ids):
    name = await server.apples()
    request = collection_pb2.CreateSnapshotRequest(collection=name)
    snapshot = (await server.collections.CreateSnapshot(request)).snapshot
    await server.put(name, {"later": "A sentence that the snapshot does not have."})

    restored = await server.collections.RestoreSnapshot(
        collection_pb2.RestoreSnapshotRequest(snapshot=snapshot.name, collection=f"{name}-copy")
    )

    assert snapshot.documents == 5
    assert snapshot.sequence == 1
    assert re.fullmatch(rf"{name}/\d{{8}}T\d{{6}}\.\d{{6}}Z-1", snapshot.name)
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in snapshot.files)
    assert sum(file.bytes for file in snapshot.files) == snapshot.bytes
    assert restored.collection.statistics.documents == 5
    hits = await server.search(f"{name}-copy", "technology company", k=2)
    assert set(ids(hits)) == {"laptop", "shares"}


@pytest.mark.parametrize(
    ("snapshot", "code"),
    [
        ("", Code.INVALID_ARGUMENT),
        ("../collections/apples", Code.INVALID_ARGUMENT),
        ("apples/../../secret", Code.INVALID_ARGUMENT),
        ("/etc/passwd", Code.INVALID_ARGUMENT),
        ("apples/20260101T000000.000000Z-1\n", Code.INVALID_ARGUMENT),
        ("apples/20260101T000000.000000Z-1", Code.NOT_FOUND),
    ],
)
async def test_a_snapshot_that_is_none_is_refused(server, refusal, snapshot, code):
    request = collection_pb2.RestoreSnapshotRequest(snapshot=snapshot, collection="copy")

    assert (await refusal(server.collections.RestoreSnapshot(request))).code is code


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
async def test_a_snapshot_is_not_restored_to_what_is_no_name(server, refusal, name):
    request = collection_pb2.RestoreSnapshotRequest(
        snapshot="apples/20260101T000000.000000Z-1", collection=name
    )

    refused = await refusal(server.collections.RestoreSnapshot(request))

    assert refused.fields == ["collection"]


async def test_a_snapshot_is_not_restored_over_a_collection(server, refusal):
    name = await server.apples()
    request = collection_pb2.CreateSnapshotRequest(collection=name)
    snapshot = (await server.collections.CreateSnapshot(request)).snapshot

    request = collection_pb2.RestoreSnapshotRequest(snapshot=snapshot.name, collection=name)

    assert (await refusal(server.collections.RestoreSnapshot(request))).code is Code.ALREADY_EXISTS


async def test_a_sound_collection_has_no_findings_and_says_what_was_verified(server):
    name = await server.apples()

    checked = await server.collections.CheckCollection(
        collection_pb2.CheckCollectionRequest(name=name)
    )

    assert list(checked.findings) == []
    assert any("5 documents" in line for line in checked.verified)


async def test_restores_keep_nobody_else_waiting(server, monkeypatch):
    name = await server.apples()
    saved = await server.collections.CreateSnapshot(
        collection_pb2.CreateSnapshotRequest(collection=name)
    )
    opened = threading.Event()
    verify = snapshots.verify
    monkeypatch.setattr(snapshots, "verify", lambda path: opened.wait(30) and verify(path))

    restoring = [
        server.collections.RestoreSnapshot(
            collection_pb2.RestoreSnapshotRequest(
                snapshot=saved.snapshot.name, collection=f"{name}-again-{number}"
            )
        )
        for number in range(2 * server.settings.search_workers)
    ]
    try:
        request = document_pb2.CountDocumentsRequest(collection=name)
        await asyncio.sleep(0.1)  # they are in their threads, or wait for one
        counted = await server.documents.CountDocuments(request, timeout=10)
    finally:
        opened.set()

    assert counted.count == 5
    for restored in await asyncio.gather(*restoring):
        assert restored.collection.statistics.documents == 5


async def test_compaction_keeps_what_is_alive(server, ids):
    name = await server.apples()
    await server.put(name, {"bridge": "A new bridge."})

    compacted = await server.collections.CompactCollection(
        collection_pb2.CompactCollectionRequest(name=name)
    )

    assert compacted.before.documents == compacted.after.documents == 5
    assert compacted.after.tombstones == 0
    assert ids(await server.search(name, "bridge", k=1)) == ["bridge"]


async def test_everything_is_there_after_a_restart(serving_from, tmp_path, ids):
    async with serving_from(tmp_path) as server:
        name = await server.apples()
        before = (await get(server, name)).collection
        hits = await server.search(name, "a phone maker")
    async with serving_from(tmp_path) as server:
        after = (await get(server, name)).collection
        hits_again = await server.search(name, "a phone maker")

    assert after.etag == before.etag
    assert after.create_time == before.create_time
    assert after.statistics.documents == 5
    assert [(h.document, h.score) for h in hits_again.hits] == [
        (h.document, h.score) for h in hits.hits
    ]


async def test_a_damaged_collection_is_shown_and_the_others_are_served(
    serving_from, tmp_path, refusal
):
    async with serving_from(tmp_path) as server:
        await server.create(name="sound")
        await server.create(name="torn")
    for file in (tmp_path / "collections" / "torn").glob("*.sqlite3"):
        file.write_bytes(b"this is no database at all" * 100)

    async with serving_from(tmp_path) as server:
        page = await server.collections.ListCollections(collection_pb2.ListCollectionsRequest())
        states = {found.name: found.state for found in page.collections}
        shown = (await get(server, "torn")).collection
        refused = await refusal(server.put("torn", {"a": "b"}))
        await server.put("sound", {"a": "b"})

    assert states == {
        "sound": collection_pb2.COLLECTION_STATE_READY,
        "torn": collection_pb2.COLLECTION_STATE_DAMAGED,
    }
    assert "damaged" in shown.state_reason
    assert refused.code is Code.DATA_LOSS
    assert str(tmp_path) not in shown.state_reason + refused.message


async def test_damage_that_a_check_finds_makes_a_collection_read_only(
    serving_from, tmp_path, refusal, ids
):
    async with serving_from(tmp_path) as server:
        name = await server.apples()
        connection = sqlite3.connect(tmp_path / "collections" / name / "documents.sqlite3")
        with connection:
            connection.execute("UPDATE documents SET text = 'changed' WHERE id = 'pie'")
        connection.close()

        request = collection_pb2.CheckCollectionRequest(name=name)
        checked = await server.collections.CheckCollection(request)
        shown = (await get(server, name)).collection
        refused = await refusal(server.put(name, {"new": "A new sentence."}))
        damaged = await refusal(server.get(name, "pie"))
        found = await server.search(name, "computer", k=1)

    (finding,) = checked.findings
    assert finding.file == f"collections/{name}/documents.sqlite3"
    assert "'pie'" in finding.problem
    assert not finding.repairable  # the text that was there is lost
    assert shown.state == collection_pb2.COLLECTION_STATE_READ_ONLY
    assert (refused.code, refused.reason) == (Code.FAILED_PRECONDITION, "COLLECTION_READ_ONLY")
    assert damaged.code is Code.DATA_LOSS
    assert ids(found) == ["laptop"]
    for said in (finding.problem, shown.state_reason, refused.message, damaged.message):
        assert str(tmp_path) not in said


async def test_a_collection_of_a_later_format_is_shown_and_refused(serving_from, tmp_path, refusal):
    async with serving_from(tmp_path) as server:
        await server.create(name="future")
    connection = sqlite3.connect(tmp_path / "collections" / "future" / "documents.sqlite3")
    with connection:
        connection.execute("UPDATE meta SET value = 999 WHERE key = 'format'")
    connection.close()

    async with serving_from(tmp_path) as server:
        refused = await refusal(server.put("future", {"a": "b"}))
        shown = (await get(server, "future")).collection

    assert (refused.code, refused.reason) == (Code.FAILED_PRECONDITION, "FORMAT_TOO_NEW")
    assert shown.state == collection_pb2.COLLECTION_STATE_DAMAGED
