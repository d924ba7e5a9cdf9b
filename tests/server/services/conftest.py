"""What callers of the data services do again and again."""

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from google.rpc import error_details_pb2, status_pb2

from polyseme.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    document_pb2,
    document_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)

# The apple that is eaten, the Apple that is bought, and neither.
APPLES = {
    "pie": "She baked a pie of sour apples from her garden.",
    "orchard": "In autumn the apple trees of the orchard bend under ripe fruit.",
    "laptop": "Apple presented a thinner laptop with a chip of its own design.",
    "shares": "Shares of Apple rose after the company sold more phones than expected.",
    "bridge": "The old stone bridge was closed because of the flood.",
}

_names = (f"collection-{number}" for number in count())


@dataclass(frozen=True)
class Refusal:
    """What a caller is told."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    fields: list[str] = field(default_factory=list)
    resource: str = ""
    retry: bool = False


class Server:
    """A running server as its callers see it."""

    def __init__(self, channel, settings):
        self.channel = channel
        self.settings = settings
        self.collections = collection_pb2_grpc.CollectionServiceStub(channel)
        self.documents = document_pb2_grpc.DocumentServiceStub(channel)
        self.searches = search_pb2_grpc.SearchServiceStub(channel)

    async def create(self, **fields):
        """A new collection's name; by default one whose texts the server embeds."""
        fields.setdefault("name", next(_names))
        request = collection_pb2.CreateCollectionRequest(
            collection=ParseDict(fields, collection_pb2.Collection())
        )
        return (await self.collections.CreateCollection(request)).collection.name

    async def apples(self):
        """A collection of the sentences above; `kind` and `year` are metadata."""
        kinds = {"pie": "fruit", "orchard": "fruit", "laptop": "company", "shares": "company"}
        name = await self.create()
        await self.put(
            name,
            {
                id: {"text": text, "metadata": {"kind": kinds.get(id), "year": 2000 + number}}
                for number, (id, text) in enumerate(APPLES.items())
            },
        )
        return name

    async def put(self, collection, documents, **fields):
        """Write documents given as {id: text} or {id: {field: value}}."""
        request = document_pb2.UpsertDocumentsRequest(
            collection=collection,
            documents=[
                document(id, **({"text": given} if isinstance(given, str) else given))
                for id, given in documents.items()
            ],
            **fields,
        )
        return await self.documents.UpsertDocuments(request)

    async def get(self, collection, id, **fields):
        request = document_pb2.GetDocumentRequest(collection=collection, id=id, **fields)
        return (await self.documents.GetDocument(request)).document

    async def search(self, collection, text=None, query=None, **options):
        """A search by text, or by the query given as a dictionary."""
        wanted = ParseDict(query or {"text": text}, search_pb2.SearchQuery())
        request = search_pb2.SearchRequest(
            collection=collection,
            query=wanted,
            options=ParseDict(options, search_pb2.SearchOptions()),
        )
        return await self.searches.Search(request)


def document(id, *, text="", metadata=None, vector=None, fingerprint=""):
    made = document_pb2.Document(id=id, text=text, vector_fingerprint=fingerprint)
    if metadata is not None:
        ParseDict(metadata, made.metadata)
    if vector is not None:
        made.vector.values.extend(vector)
    return made


@pytest.fixture(scope="session")
def ids():
    """The ids of a search's hits."""
    return lambda response: [hit.document.id for hit in response.hits]


@pytest.fixture(scope="session")
def make_document():
    return document


@pytest.fixture(scope="session")
def struct():
    return lambda values: ParseDict(values, Struct())


@pytest.fixture(scope="session")
def refusal():
    """Waits for a call that must be refused; gives what its caller is told."""

    async def refused(call):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        error = raised.value
        packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
        status = status_pb2.Status.FromString(packed)
        assert status.code == error.code().value[0]
        return told(status)

    return refused


@pytest.fixture(scope="session")
def told_of():
    """What a google.rpc.Status inside an answer says."""
    return told


def told(status):
    codes = {code.value[0]: code for code in grpc.StatusCode}
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    resource = error_details_pb2.ResourceInfo()
    retry = error_details_pb2.RetryInfo()
    unpacked = [m for m in (info, bad, resource, retry) for d in status.details if d.Unpack(m)]
    assert info in unpacked
    assert info.domain == "polyseme"
    return Refusal(
        code=codes[status.code],
        message=status.message,
        reason=info.reason,
        metadata=dict(info.metadata),
        fields=[violation.field for violation in bad.field_violations],
        resource=resource.resource_name,
        retry=retry.HasField("retry_delay"),
    )


@pytest.fixture(scope="session")
def server(stubs, settings_with):
    """The server that tests share; each makes collections of its own."""
    return Server(stubs.channel, settings_with())


@pytest.fixture(scope="session")
def serving_from(serving, settings_with):
    """`async with serving_from(data) as server` runs a server on that data directory."""

    @asynccontextmanager
    async def serve(data, **changes):
        async with serving(data=data, **changes) as stubs:
            yield Server(stubs.channel, settings_with(data=data, **changes))

    return serve
