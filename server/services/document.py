"""DocumentService: writing, reading, listing, counting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor

import server.store_errors  # noqa: F401  puts the index's errors into the table
from index.collection import Collection
from index.errors import DocumentNotFound
from index.filter import Filter
from index.paging import token_after
from index.store import Store
from index.validation import check_id
from polyseme.v1 import document_pb2, document_pb2_grpc
from server.documents import document_to, mode_from, request_id_from
from server.embedder import Embedder, Lane
from server.errors import LimitExceeded, RequestInvalid
from server.filters import filter_from
from server.ingest import Batch, Ingest
from server.messages import lane_from, timing_to
from server.pages import fitting, page_size_from
from server.settings import Settings
from server.threads import in_thread
from server.write_stream import answers

COUNT_TRIES_MAX = 3
# Of a message; the rest is for what surrounds the documents.
PAGE_SHARE_MAX = 0.9


class DocumentService(document_pb2_grpc.DocumentServiceServicer):
    """A method reads: parse, ask the collection in a thread, answer."""

    def __init__(
        self, embedder: Embedder, store: Store, settings: Settings, executor: Executor
    ) -> None:
        self._ingest = Ingest(embedder, store, executor)
        self._store = store
        self._settings = settings
        self._executor = executor

    async def UpsertDocuments(
        self, request: document_pb2.UpsertDocumentsRequest, context: object
    ) -> document_pb2.UpsertDocumentsResponse:
        batch = Batch(
            documents=request.documents,
            mode=mode_from(request.mode),
            request_id=request_id_from(request.request_id),
            lane=lane_from(request.priority, Lane.INTERACTIVE),
        )
        collection = await self._collection(request.collection)
        ready = await self._ingest.prepare(collection, batch)
        written = await self._ingest.write(collection, batch, ready)
        return document_pb2.UpsertDocumentsResponse(
            sequence=written.sequence,
            inserted=written.inserted,
            updated=written.updated,
            replayed=written.replayed,
            timing=timing_to(ready.timings),
        )

    async def DeleteDocuments(
        self, request: document_pb2.DeleteDocumentsRequest, context: object
    ) -> document_pb2.DeleteDocumentsResponse:
        request_id = request_id_from(request.request_id)
        collection = await self._collection(request.collection)
        written = await in_thread(
            self._executor, collection.delete, list(request.ids), request_id=request_id
        )
        return document_pb2.DeleteDocumentsResponse(
            sequence=written.sequence, deleted=written.deleted, replayed=written.replayed
        )

    async def PurgeDocuments(
        self, request: document_pb2.PurgeDocumentsRequest, context: object
    ) -> document_pb2.PurgeDocumentsResponse:
        if not request.HasField("filter"):
            problem = "required; to remove everything use DeleteCollection"
            raise RequestInvalid("filter", problem)
        filter = filter_from(request.filter, "filter", self._settings)
        request_id = request_id_from(request.request_id)
        collection = await self._collection(request.collection)
        count, sequence = await in_thread(self._executor, count_at, collection, filter)
        if request.dry_run:
            return document_pb2.PurgeDocumentsResponse(sequence=sequence, deleted=count)
        self._check_purge(count)
        written = await in_thread(self._executor, collection.purge, filter, request_id=request_id)
        return document_pb2.PurgeDocumentsResponse(
            sequence=written.sequence, deleted=written.deleted, replayed=written.replayed
        )

    async def GetDocument(
        self, request: document_pb2.GetDocumentRequest, context: object
    ) -> document_pb2.GetDocumentResponse:
        check_id(request.id, "id", self._store.settings)
        collection = await self._collection(request.collection)
        documents = await self._get(collection, [request.id], request.with_vector)
        return document_pb2.GetDocumentResponse(document=documents[0])

    async def BatchGetDocuments(
        self, request: document_pb2.BatchGetDocumentsRequest, context: object
    ) -> document_pb2.BatchGetDocumentsResponse:
        collection = await self._collection(request.collection)
        documents = await self._get(
            collection, request.ids, request.with_vectors, allow_missing=request.allow_missing
        )
        return document_pb2.BatchGetDocumentsResponse(documents=documents)

    async def ListDocuments(
        self, request: document_pb2.ListDocumentsRequest, context: object
    ) -> document_pb2.ListDocumentsResponse:
        filter = self._filter(request)
        page_size = page_size_from(request.page_size, self._settings.page_size_max)
        collection = await self._collection(request.collection)
        return await in_thread(
            self._executor,
            self._page,
            collection,
            filter,
            page_size,
            request.page_token,
            with_vectors=request.with_vectors,
        )

    async def CountDocuments(
        self, request: document_pb2.CountDocumentsRequest, context: object
    ) -> document_pb2.CountDocumentsResponse:
        filter = self._filter(request)
        collection = await self._collection(request.collection)
        count, sequence = await in_thread(self._executor, count_at, collection, filter)
        return document_pb2.CountDocumentsResponse(count=count, sequence=sequence)

    async def WriteStream(
        self,
        request_iterator: AsyncIterator[document_pb2.WriteStreamRequest],
        context: object,
    ) -> AsyncIterator[document_pb2.WriteStreamResponse]:
        async for answer in answers(
            request_iterator, self._collection, self._ingest, self._settings
        ):
            yield answer

    async def _collection(self, name: str) -> Collection:
        return await in_thread(self._executor, self._store.collection, name)

    def _filter(
        self, request: document_pb2.ListDocumentsRequest | document_pb2.CountDocumentsRequest
    ) -> Filter | None:
        if not request.HasField("filter"):
            return None
        return filter_from(request.filter, "filter", self._settings)

    def _check_purge(self, count: int) -> None:
        limit = self._store.settings.purge_documents_max
        if count > limit:
            raise LimitExceeded("filter", count, limit, "documents match")

    async def _get(
        self,
        collection: Collection,
        ids: Sequence[str],
        with_vectors: bool,
        *,
        allow_missing: bool = False,
    ) -> list[document_pb2.Document]:
        """In the order of `ids`. Raises DocumentNotFound unless missing ones are allowed."""

        def found() -> list[document_pb2.Document]:
            documents = []
            stored = collection.get(list(ids), with_vectors=with_vectors)
            for id, document in zip(ids, stored, strict=True):
                if document is not None:
                    documents.append(document_to(document, collection.spec))
                elif not allow_missing:
                    raise DocumentNotFound(id)
            return documents

        return await in_thread(self._executor, found)

    def _page(
        self,
        collection: Collection,
        filter: Filter | None,
        page_size: int,
        page_token: str,
        *,
        with_vectors: bool,
    ) -> document_pb2.ListDocumentsResponse:
        """A page that fits into a message: shorter than asked for where texts are long."""
        page = collection.list(
            page_size=page_size, page_token=page_token, filter=filter, with_vectors=with_vectors
        )
        documents = fitting(
            (document_to(stored, collection.spec) for stored in page.documents),
            int(PAGE_SHARE_MAX * self._settings.message_bytes_max),
        )
        cut = len(documents) < len(page.documents)
        return document_pb2.ListDocumentsResponse(
            documents=documents,
            next_page_token=token_after(documents[-1].id, filter) if cut else page.next_page_token,
        )


def count_at(collection: Collection, filter: Filter | None) -> tuple[int, int]:
    """How many documents match, and the sequence they were counted at.

    Beside a busy writer the sequence may be an older one than the count saw: a lower bound.
    """
    for _ in range(COUNT_TRIES_MAX):
        sequence = collection.sequence
        count = collection.count(filter)
        if sequence == collection.sequence:
            break
    return count, sequence
