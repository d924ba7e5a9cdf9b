"""A disk that fails under a running service: clear answers, nothing lost, and then work goes on."""

from pathlib import Path

import grpc
import pytest

from index.errors import StorageFailed
from index.torture.faults import Fault, Kind, Saboteur, When
from index.torture.watching import watched
from polyseme.v1 import collection_pb2, document_pb2
from server.errors import ROWS

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

Code = grpc.StatusCode

# What a caller may be told, and the reason in the details.
ANSWERS = {
    Kind.NO_ROOM: {(Code.RESOURCE_EXHAUSTED, "DISK_QUOTA"), (Code.UNAVAILABLE, "STORAGE_FAILED")},
    Kind.NO_LUCK: {(Code.UNAVAILABLE, "STORAGE_FAILED")},
    Kind.NO_MEMORY: {(Code.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY")},
}


class Client:
    """Calls one after another, and a dict of what they must have left behind."""

    def __init__(self, server, make_document):
        self.server = server
        self.document = make_document
        self.expected = {}
        self.snapshots = []

    def steps(self, number):
        """Calls with what each does to the dict: (name, call, effect, codes of `it has been`)."""
        ids = [f"d{(number + i) % 9}" for i in range(3)]
        name = f"extra{number}"
        return [
            ("upsert", lambda: self.upsert(ids, number), lambda: self.put(ids, number), ()),
            ("delete", lambda: self.delete(ids[:1], number), lambda: self.pop(ids[:1]), ()),
            ("create", lambda: self.create(name), lambda: None, (Code.ALREADY_EXISTS,)),
            ("search", self.search, lambda: None, ()),
            ("compact", self.compact, lambda: None, ()),
            ("snapshot", self.snapshot, lambda: None, ()),
            ("restore", lambda: self.restore(f"again{number}"), lambda: None,
             (Code.ALREADY_EXISTS,)),
            ("drop", lambda: self.drop(name), lambda: None, (Code.NOT_FOUND,)),
            ("drop again", lambda: self.drop(f"again{number}"), lambda: None, (Code.NOT_FOUND,)),
        ]  # fmt: skip

    def put(self, ids, number):
        self.expected |= {id: f"{id} of {number}" for id in ids}

    def pop(self, ids):
        for id in ids:
            self.expected.pop(id, None)

    async def upsert(self, ids, number):
        documents = {id: {"text": f"{id} of {number}", "vector": [1, number]} for id in ids}
        await self.server.put("fruit", documents, request_id=f"upsert{number}")

    async def delete(self, ids, number):
        request = document_pb2.DeleteDocumentsRequest(
            collection="fruit", ids=ids, request_id=f"delete{number}"
        )
        await self.server.documents.DeleteDocuments(request)

    async def create(self, name):
        await self.server.create(name=name, external={"dimensions": 2})

    async def search(self):
        await self.server.search("fruit", query={"vector": {"vector": {"values": [1, 2]}}}, k=3)

    async def compact(self):
        request = collection_pb2.CompactCollectionRequest(name="fruit")
        await self.server.collections.CompactCollection(request)

    async def snapshot(self):
        request = collection_pb2.CreateSnapshotRequest(collection="fruit")
        reply = await self.server.collections.CreateSnapshot(request)
        self.snapshots.append(reply.snapshot.name)

    async def restore(self, name):
        request = collection_pb2.RestoreSnapshotRequest(
            snapshot=self.snapshots[-1], collection=name
        )
        await self.server.collections.RestoreSnapshot(request)

    async def drop(self, name):
        await self.server.collections.DeleteCollection(
            collection_pb2.DeleteCollectionRequest(name=name)
        )

    async def read(self):
        request = document_pb2.ListDocumentsRequest(collection="fruit", page_size=100)
        page = await self.server.documents.ListDocuments(request)
        return {document.id: document.text for document in page.documents}


async def suffer(client, fault, number, refusal):
    """All steps with one fault among them; the name of the step that met it, or an empty string."""
    saboteur, met = Saboteur(fault), ""
    with watched(Path(client.server.settings.data), saboteur):
        for name, call, effect, been in client.steps(number):
            before = dict(client.expected)
            try:
                await call()
            except grpc.aio.AioRpcError as error:
                saboteur.off, met = True, name
                answer = await refusal(_raising(error))
                assert (answer.code, answer.reason) in ANSWERS[fault.kind], (fault, name, answer)
                assert answer.retry, (fault, name, answer)
                effect()
                assert await client.read() in (before, client.expected), (fault, name)
                await _again(call, been)
            else:
                effect()
        assert await client.read() == client.expected, (fault, met)
    return met


async def _raising(error):
    raise error


async def _again(call, been):
    """It works now, or says that it has been done."""
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        if error.code() not in been:
            raise


@pytest.mark.parametrize("every", [211, pytest.param(23, marks=pytest.mark.slow)])
async def test_callers_are_told_what_failed_and_lose_nothing(
    serving_from, make_document, refusal, tmp_path, every
):
    async with serving_from(tmp_path, log_level="error") as server:
        client = Client(server, make_document)
        await client.create("fruit")
        met = []
        for number, fault in enumerate(sample(every)):
            met.append(await suffer(client, fault, number, refusal))
        expected = client.expected
    async with serving_from(tmp_path) as server:
        client.server = server
        assert await client.read() == expected
        names = {c.name for c in (await listed(server)).collections}

    assert names == {"fruit"}
    assert len(set(met) - {""}) > 3


def sample(every):
    """Each kind of fault at some of the first calls of a round of steps."""
    calls = {Kind.NO_ROOM: 200, Kind.NO_LUCK: 600, Kind.NO_MEMORY: 600}
    number = 0
    for kind in Kind:
        for when in When:
            for struck in range(1 + number % every, calls[kind], every):
                number += 7
                yield Fault(kind, when, struck)


@pytest.mark.slow
async def test_a_service_that_calls_a_failing_disk_its_own_bug_is_found_out(
    serving_from, make_document, refusal, tmp_path, monkeypatch
):
    monkeypatch.delitem(ROWS, StorageFailed)
    async with serving_from(tmp_path, log_level="error") as server:
        client = Client(server, make_document)
        await client.create("fruit")

        with pytest.raises(AssertionError, match="INTERNAL"):
            await suffer_all(client, range(1, 600, 37), refusal)


async def suffer_all(client, calls, refusal):
    for number, struck in enumerate(calls):
        await suffer(client, Fault(Kind.NO_LUCK, When.EARLY, struck), number, refusal)


async def listed(server):
    return await server.collections.ListCollections(collection_pb2.ListCollectionsRequest())
