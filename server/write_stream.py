"""The bulk load: batches are embedded ahead of each other, written in order, answered in order.

While one batch is being written the next ones are embedded, at most `stream_requests_max` at a
time; then the stream is not read on, and the caller's flow control is what waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from index.collection import Collection
from index.documents import Written
from index.errors import StoreError
from polyseme.v1 import document_pb2
from server.call import request_id
from server.documents import mode_from, request_id_from
from server.embedder import Lane
from server.errors import CallRefused, RequestInvalid, status_of
from server.ingest import Batch, Ingest, Ready
from server.settings import Settings
from server.streams import in_order

Request = document_pb2.WriteStreamRequest
Response = document_pb2.WriteStreamResponse
FindCollection = Callable[[str], Awaitable[Collection]]


async def answers(
    requests: AsyncIterator[Request],
    find_collection: FindCollection,
    ingest: Ingest,
    settings: Settings,
) -> AsyncIterator[Response]:
    """One answer a message, in order. A message that is refused is answered with its error.

    Raises RequestInvalid or CollectionNotFound for the first message's collection, and what
    `requests` raises. What is prepared but not written then is dropped.
    """
    first = await anext(requests, None)
    if first is None:
        return
    if not first.collection:
        raise RequestInvalid("collection", "the first message names it")
    load = Load(await find_collection(first.collection), ingest)
    async for answer in in_order(
        _with_first(first, requests),
        load.answer,
        in_flight_max=settings.stream_requests_max,
    ):
        yield answer


class Load:
    """The messages of one stream. `answer` is called in their order and runs side by side."""

    def __init__(self, collection: Collection, ingest: Ingest) -> None:
        self._collection = collection
        self._ingest = ingest
        self._before = asyncio.Event()  # set when the last message's write has ended
        self._before.set()

    async def answer(self, request: Request) -> Response:
        """When every message before it is durable or refused, and so is this one."""
        before, done = self._before, asyncio.Event()
        self._before = done
        outcome = await self._outcome(request, before)
        done.set()
        response = Response(tag=request.tag, durable_sequence=self._collection.sequence)
        if isinstance(outcome, Written):
            response.written = outcome.inserted + outcome.updated
            response.replayed = outcome.replayed
        else:
            response.error.CopyFrom(status_of(outcome, request_id()))
        return response

    async def _outcome(
        self, request: Request, before: asyncio.Event
    ) -> Written | CallRefused | StoreError:
        """The write, or why there was none. Other errors are our bugs, and end the stream."""
        try:
            batch, ready = await self._prepared(request)
        except (CallRefused, StoreError) as error:
            await before.wait()
            return error
        await before.wait()
        try:
            return await self._ingest.write(self._collection, batch, ready)
        except (CallRefused, StoreError) as error:
            return error

    async def _prepared(self, request: Request) -> tuple[Batch, Ready]:
        name = self._collection.name
        if request.collection not in ("", name):
            problem = f"this stream writes to {name!r}; open another one"
            raise RequestInvalid("collection", problem)
        batch = Batch(
            documents=request.documents,
            mode=mode_from(request.mode),
            request_id=request_id_from(request.request_id),
            lane=Lane.BULK,
            patient=True,
        )
        return batch, await self._ingest.prepare(self._collection, batch)


async def _with_first(first: Request, requests: AsyncIterator[Request]) -> AsyncIterator[Request]:
    yield first
    async for request in requests:
        yield request
