"""CollectionService: creating, listing, saving and mending collections."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from typing import ParamSpec, TypeVar

from index.collection import Collection
from index.errors import PageTokenInvalid
from index.store import Store
from polyseme.v1 import collection_pb2, collection_pb2_grpc
from server.collections import (
    DESCRIPTION_BYTES_MAX,
    check_phrase,
    check_prompt,
    collection_to,
    damaged_to,
    name_from,
    spec_from,
    statistics_to,
)
from server.embedder import Embedder
from server.errors import RequestInvalid
from server.maintenance import checked, is_mended_whole, problem_of
from server.pages import page_size_from
from server.recipes import recipe_of
from server.settings import Settings
from server.snapshots import Snapshots
from server.threads import in_thread

P = ParamSpec("P")
T = TypeVar("T")


class CollectionService(collection_pb2_grpc.CollectionServiceServicer):
    """A method reads: parse, ask the store in a thread, answer."""

    def __init__(
        self,
        embedder: Embedder,
        store: Store,
        settings: Settings,
        executor: Executor,
        maintenance: Executor,
    ) -> None:
        """maintenance: for what reads or writes whole collections and may take minutes"""
        self._embedder = embedder
        self._store = store
        self._settings = settings
        self._executor = executor
        self._maintenance = maintenance
        self._snapshots = Snapshots(settings.data)

    async def CreateCollection(
        self, request: collection_pb2.CreateCollectionRequest, context: object
    ) -> collection_pb2.CreateCollectionResponse:
        if not request.HasField("collection"):
            raise RequestInvalid("collection", "required")
        limit = self._store.settings.dimensions_max
        spec = spec_from(request.collection, self._embedder, limit)
        created = await self._run(lambda: collection_to(self._store.create(spec)))
        return collection_pb2.CreateCollectionResponse(collection=created)

    async def GetCollection(
        self, request: collection_pb2.GetCollectionRequest, context: object
    ) -> collection_pb2.GetCollectionResponse:
        found = await self._run(self._described, request.name)
        return collection_pb2.GetCollectionResponse(collection=found)

    async def ListCollections(
        self, request: collection_pb2.ListCollectionsRequest, context: object
    ) -> collection_pb2.ListCollectionsResponse:
        size = page_size_from(request.page_size, self._settings.page_size_max)
        return await self._run(self._page, size, after_from(request.page_token))

    async def UpdateCollection(
        self, request: collection_pb2.UpdateCollectionRequest, context: object
    ) -> collection_pb2.UpdateCollectionResponse:
        check_phrase(request.description, "description", DESCRIPTION_BYTES_MAX)
        check_prompt(request.query_prompt, "query_prompt", self._embedder.encoder)
        updated = await self._run(self._updated, request)
        return collection_pb2.UpdateCollectionResponse(collection=updated)

    async def DeleteCollection(
        self, request: collection_pb2.DeleteCollectionRequest, context: object
    ) -> collection_pb2.DeleteCollectionResponse:
        await self._run(self._store.delete, request.name, etag=request.etag)
        return collection_pb2.DeleteCollectionResponse()

    async def CreateSnapshot(
        self, request: collection_pb2.CreateSnapshotRequest, context: object
    ) -> collection_pb2.CreateSnapshotResponse:
        collection = await self._collection(request.collection)
        name, snapshot, documents = await self._maintain(self._snapshots.create, collection)
        message = collection_pb2.Snapshot(
            name=name,
            sequence=snapshot.sequence,
            documents=documents,
            bytes=snapshot.bytes,
            files=[
                collection_pb2.SnapshotFile(path=path, sha256=file.sha256, bytes=file.bytes)
                for path, file in sorted(snapshot.files.items())
            ],
        )
        return collection_pb2.CreateSnapshotResponse(snapshot=message)

    async def RestoreSnapshot(
        self, request: collection_pb2.RestoreSnapshotRequest, context: object
    ) -> collection_pb2.RestoreSnapshotResponse:
        name = name_from(request.collection, "collection")
        path = await self._run(self._snapshots.path, request.snapshot, "snapshot")
        restored = await self._maintain(lambda: collection_to(self._store.restore(path, name)))
        return collection_pb2.RestoreSnapshotResponse(collection=restored)

    async def CheckCollection(
        self, request: collection_pb2.CheckCollectionRequest, context: object
    ) -> collection_pb2.CheckCollectionResponse:
        collection = await self._collection(request.name)
        verified, findings = await self._maintain(checked, collection)
        return collection_pb2.CheckCollectionResponse(
            findings=[
                collection_pb2.Finding(
                    file=str(finding.path.relative_to(self._settings.data)),
                    problem=problem_of(finding),
                    repairable=is_mended_whole(finding),
                )
                for finding in findings
            ],
            verified=verified,
        )

    async def CompactCollection(
        self, request: collection_pb2.CompactCollectionRequest, context: object
    ) -> collection_pb2.CompactCollectionResponse:
        collection = await self._collection(request.name)
        before = await self._run(statistics_to, collection)
        await self._maintain(collection.compact)
        after = await self._run(statistics_to, collection)
        return collection_pb2.CompactCollectionResponse(before=before, after=after)

    async def _collection(self, name: str) -> Collection:
        return await self._run(self._store.collection, name)

    async def _run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await in_thread(self._executor, function, *args, **kwargs)

    async def _maintain(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await in_thread(self._maintenance, function, *args, **kwargs)

    def _described(self, name: str) -> collection_pb2.Collection:
        damage = self._store.damaged.get(name)
        if damage is not None:
            return damaged_to(name, damage)
        return collection_to(self._store.collection(name))

    def _page(self, size: int, after: str) -> collection_pb2.ListCollectionsResponse:
        damaged = self._store.damaged
        sound = {collection.name: collection for collection in self._store.list()}
        names = sorted(name for name in damaged.keys() | sound.keys() if name > after)
        return collection_pb2.ListCollectionsResponse(
            collections=[
                collection_to(sound[name]) if name in sound else damaged_to(name, damaged[name])
                for name in names[:size]
            ],
            next_page_token=token_after(names[size - 1]) if len(names) > size else "",
        )

    def _updated(
        self, request: collection_pb2.UpdateCollectionRequest
    ) -> collection_pb2.Collection:
        embedding = None
        if request.HasField("query_prompt"):
            recipe = recipe_of(self._store.collection(request.name).spec)
            if recipe is None:
                problem = f"collection {request.name!r} holds callers' vectors"
                raise RequestInvalid("query_prompt", problem)
            embedding = replace(recipe, query_prompt=request.query_prompt).to_json()
        description = request.description if request.HasField("description") else None
        collection = self._store.update(
            request.name, description=description, embedding=embedding, etag=request.etag
        )
        return collection_to(collection)


def token_after(name: str) -> str:
    """The page token that leads to what comes after `name`."""
    return base64.urlsafe_b64encode(name.encode()).decode()


def after_from(token: str) -> str:
    """The name after which a page begins. Raises PageTokenInvalid."""
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise PageTokenInvalid from error
