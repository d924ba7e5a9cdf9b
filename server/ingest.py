"""Documents into a collection: checked, embedded, written. The steps that every write shares."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from index.collection import Collection
from index.documents import Document, WriteMode, Written
from index.store import Store
from polyseme.v1 import document_pb2
from server.documents import Draft, digest_of, drafts_from
from server.embedder import Embedder, Lane, Timings
from server.recipes import embed_named, usable_recipe
from server.threads import in_thread

NO_TIME = Timings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Documents that are written all or none, as they were sent.

    patient: their texts wait for room in the model's queue instead of being refused
    """

    documents: Sequence[document_pb2.Document]
    mode: WriteMode
    request_id: str
    lane: Lane
    patient: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A batch with all its vectors; or the answer that it got before."""

    documents: Sequence[Document] = ()
    digest: bytes = b""
    replayed: Written | None = None
    timings: Timings = NO_TIME


class Ingest:
    """Two steps, so that a stream can embed the next batches while one is being written."""

    def __init__(self, embedder: Embedder, store: Store, executor: Executor) -> None:
        self._embedder = embedder
        self._limits = store.settings
        self._executor = executor

    async def prepare(self, collection: Collection, batch: Batch) -> Ready:
        """Check the documents and embed their texts; a retry of what is written costs neither.

        Raises what `drafts_from` and the embedder raise, RequestIdReused, FingerprintMismatch.
        """
        digest = b""
        if batch.request_id:
            digest = await in_thread(self._executor, digest_of, batch.documents, batch.mode)
            written = await in_thread(self._executor, collection.replay, batch.request_id, digest)
            if written is not None:
                return Ready(replayed=written)
        drafts = await in_thread(
            self._executor, drafts_from, batch.documents, collection.spec, self._limits
        )
        documents, timings = await self._embedded(collection, drafts, batch)
        return Ready(documents=documents, digest=digest, timings=timings)

    async def write(self, collection: Collection, batch: Batch, ready: Ready) -> Written:
        """Durable on return. Raises what `Collection.upsert` raises; then nothing was changed."""
        if ready.replayed is not None:
            return ready.replayed
        return await in_thread(
            self._executor,
            collection.upsert,
            ready.documents,
            request_id=batch.request_id,
            digest=ready.digest,
            mode=batch.mode,
        )

    async def _embedded(
        self, collection: Collection, drafts: Sequence[Draft], batch: Batch
    ) -> tuple[list[Document], Timings]:
        vectors = [draft.vector for draft in drafts]
        missing = [i for i, vector in enumerate(vectors) if vector is None]
        timings = NO_TIME
        if missing:
            recipe = usable_recipe(collection.spec, self._embedder)
            embedded = await embed_named(
                self._embedder,
                [drafts[i].text for i in missing],
                recipe.for_documents(),
                batch.lane,
                together="documents",
                each=lambda i: f"documents[{missing[i]}].text",
                patient=batch.patient,
            )
            timings = embedded.timing
            for i, vector in zip(missing, embedded.vectors, strict=True):
                vectors[i] = vector
        documents = [
            Document(id=draft.id, text=draft.text, metadata=draft.metadata, vector=vector)
            for draft, vector in zip(drafts, vectors, strict=True)
            if vector is not None  # always, by now
        ]
        return documents, timings
