"""The workload's steps as calls of the API, and the answers as the model wants them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc
import numpy as np
from numpy.typing import NDArray

from polyseme.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    common_pb2,
    document_pb2,
    document_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)
from server.torture.model import Answer, Seen
from server.torture.workload import (
    DIMENSIONS,
    Change,
    Plan,
    Purge,
    Put,
    Remove,
    content_of,
)

PATIENCE_S = 600.0  # a call that takes longer hangs, also on a machine that others use
PAGE_DOCUMENTS = 1000
Vector = NDArray[np.float32]


class Api:
    """One incarnation of the server. Methods raise grpc.aio.AioRpcError."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1)]
        )
        self.collections = collection_pb2_grpc.CollectionServiceStub(self._channel)
        self._documents = document_pb2_grpc.DocumentServiceStub(self._channel)
        self._search = search_pb2_grpc.SearchServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close(None)

    async def create(self, plan: Plan) -> None:
        collection = collection_pb2.Collection(name=plan.collection)
        if not plan.texts:
            collection.external.dimensions = DIMENSIONS
        request = collection_pb2.CreateCollectionRequest(collection=collection)
        await self.collections.CreateCollection(request, timeout=PATIENCE_S)

    async def write(self, plan: Plan, change: Change, timeout_s: float = PATIENCE_S) -> Answer:
        match change:
            case Put():
                return await self._put(plan, change, timeout_s)
            case Remove():
                request = document_pb2.DeleteDocumentsRequest(
                    collection=plan.collection, ids=change.ids, request_id=change.request_id
                )
                removed = await self._documents.DeleteDocuments(request, timeout=timeout_s)
                return answer_from(removed)
            case Purge():
                purge = document_pb2.PurgeDocumentsRequest(
                    collection=plan.collection,
                    filter=filter_of(plan.lane, change.bucket),
                    request_id=change.request_id,
                )
                return answer_from(await self._documents.PurgeDocuments(purge, timeout=timeout_s))

    async def _put(self, plan: Plan, put: Put, timeout_s: float) -> Answer:
        request = document_pb2.UpsertDocumentsRequest(
            collection=plan.collection,
            documents=documents_of(plan, put),
            request_id=put.request_id,
        )
        written = await self._documents.UpsertDocuments(request, timeout=timeout_s)
        changed = written.inserted + written.updated
        return Answer(sequence=written.sequence, changed=changed, replayed=written.replayed)

    async def bulk(self, plan: Plan, puts: Sequence[Put]) -> AsyncIterator[Answer]:
        """One answer for each. An answer with an error, or the wrong tag, is a changed of -1."""
        requests = [
            document_pb2.WriteStreamRequest(
                collection=plan.collection,
                documents=documents_of(plan, put),
                request_id=put.request_id,
                tag=put.version,
            )
            for put in puts
        ]
        expected = iter(puts)
        async for reply in self._documents.WriteStream(iter(requests), timeout=PATIENCE_S):
            sound = reply.tag == next(expected).version and not reply.HasField("error")
            yield Answer(
                sequence=reply.durable_sequence,
                changed=reply.written if sound else -1,
                replayed=reply.replayed,
                bulk=True,
            )

    async def get(self, plan: Plan, ids: Sequence[str]) -> list[Seen]:
        reply = await self._documents.BatchGetDocuments(
            document_pb2.BatchGetDocumentsRequest(
                collection=plan.collection, ids=ids, with_vectors=True, allow_missing=True
            ),
            timeout=PATIENCE_S,
        )
        return [seen(document) for document in reply.documents]

    async def all(self, collection: str) -> list[Seen]:
        """By a scan of all pages."""
        request = document_pb2.ListDocumentsRequest(
            collection=collection, page_size=PAGE_DOCUMENTS, with_vectors=True
        )
        found: list[Seen] = []
        while True:
            page = await self._documents.ListDocuments(request, timeout=PATIENCE_S)
            found.extend(seen(document) for document in page.documents)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def count(
        self, collection: str, filter: document_pb2.Filter | None = None
    ) -> tuple[int, int]:
        """How many, and the sequence."""
        request = document_pb2.CountDocumentsRequest(collection=collection, filter=filter)
        reply = await self._documents.CountDocuments(request, timeout=PATIENCE_S)
        return reply.count, reply.sequence

    async def nearest(
        self, collection: str, wanted: Vector | str, *, exact: bool, sequence: int
    ) -> tuple[str, float]:
        """The best hit for a vector or a text, and its score; an empty id where there is none."""
        if isinstance(wanted, str):
            query = search_pb2.SearchQuery(text=wanted)
        else:
            query = search_pb2.SearchQuery(vector=search_pb2.QueryVector(vector=vector_of(wanted)))
        options = search_pb2.SearchOptions(k=1, exact=exact, min_sequence=sequence, ids_only=True)
        request = search_pb2.SearchRequest(collection=collection, query=query, options=options)
        reply = await self._search.Search(request, timeout=PATIENCE_S)
        return (reply.hits[0].document.id, reply.hits[0].score) if reply.hits else ("", 0.0)

    async def compact(self, collection: str) -> None:
        request = collection_pb2.CompactCollectionRequest(name=collection)
        await self.collections.CompactCollection(request, timeout=PATIENCE_S)

    async def check(self, collection: str) -> list[str]:
        request = collection_pb2.CheckCollectionRequest(name=collection)
        reply = await self.collections.CheckCollection(request, timeout=PATIENCE_S)
        return [f"{finding.file}: {finding.problem}" for finding in reply.findings]

    async def snapshot(self, collection: str) -> str:
        request = collection_pb2.CreateSnapshotRequest(collection=collection)
        reply = await self.collections.CreateSnapshot(request, timeout=PATIENCE_S)
        return str(reply.snapshot.name)

    async def restore(self, snapshot: str, collection: str) -> None:
        request = collection_pb2.RestoreSnapshotRequest(snapshot=snapshot, collection=collection)
        await self.collections.RestoreSnapshot(request, timeout=PATIENCE_S)

    async def delete(self, collection: str) -> None:
        request = collection_pb2.DeleteCollectionRequest(name=collection)
        await self.collections.DeleteCollection(request, timeout=PATIENCE_S)

    async def states(self) -> dict[str, str]:
        """READY or why not, by collection."""
        request = collection_pb2.ListCollectionsRequest(page_size=100)
        reply = await self.collections.ListCollections(request, timeout=PATIENCE_S)
        ready = collection_pb2.COLLECTION_STATE_READY
        return {c.name: "" if c.state == ready else c.state_reason for c in reply.collections}


def documents_of(plan: Plan, put: Put) -> list[document_pb2.Document]:
    documents = []
    for id in put.ids:
        content = content_of(id, put.version)
        document = document_pb2.Document(id=id, text=content.text)
        document.metadata.update(
            {"lane": plan.lane, "version": put.version, "bucket": content.bucket}
        )
        if not plan.texts:
            document.vector.CopyFrom(vector_of(content.vector))
        documents.append(document)
    return documents


def answer_from(
    removed: document_pb2.DeleteDocumentsResponse | document_pb2.PurgeDocumentsResponse,
) -> Answer:
    return Answer(sequence=removed.sequence, changed=removed.deleted, replayed=removed.replayed)


def seen(document: document_pb2.Document) -> Seen:
    return Seen(
        id=document.id,
        version=int(document.metadata.fields["version"].number_value),
        text=document.text,
        bucket=int(document.metadata.fields["bucket"].number_value),
        sequence=document.sequence,
        vector=np.frombuffer(document.vector.data, "<f4"),
    )


def vector_of(values: Vector) -> common_pb2.Vector:
    data = values.astype("<f4").tobytes()
    return common_pb2.Vector(data=data, dimensions=len(values))


def filter_of(lane: str, bucket: int | None = None) -> document_pb2.Filter:
    conditions: dict[str, str | int] = {"lane": lane}
    if bucket is not None:
        conditions["bucket"] = bucket
    filter = document_pb2.Filter()
    for field, value in conditions.items():
        equal = filter.all.filters.add().equal
        equal.field = field
        if isinstance(value, str):
            equal.value.string_value = value
        else:
            equal.value.number_value = value
    return filter
