"""Callers who cancel, vanish, dawdle or send too much end their own calls and nothing else."""

import asyncio
import contextlib
import itertools
import random

import grpc
import numpy as np
import psutil
import pytest
from google.protobuf import message_factory
from grpc import StatusCode

from polyseme.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    collection_pb2,
    collection_pb2_grpc,
    common_pb2,
    compare_pb2,
    document_pb2,
    document_pb2_grpc,
    encoder_pb2,
    encoder_pb2_grpc,
    search_pb2,
)

DIMENSIONS = 16
LONG = "apples and oranges are fruit. " * 30
ANSWER_S_MAX = 60
UNLIMITED = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
]
MIB = 1024 * 1024

pytestmark = pytest.mark.slow


def document(number):
    values = np.random.default_rng(number).normal(size=DIMENSIONS).astype("<f4")
    vector = common_pb2.Vector(data=values.tobytes(), dimensions=DIMENSIONS)
    return document_pb2.Document(id=str(number), text=f"text {number}", vector=vector)


def query():
    vector = search_pb2.QueryVector(vector=document(1).vector)
    return search_pb2.SearchQuery(vector=vector)


# A call of every kind that has work to do.
REQUESTS = {
    "encoder_pb2.Embed": encoder_pb2.EmbedRequest(inputs=[LONG] * 4),
    "encoder_pb2.EmbedStream": encoder_pb2.EmbedStreamRequest(
        request=encoder_pb2.EmbedRequest(inputs=[LONG] * 2)
    ),
    "encoder_pb2.EmbedWords": encoder_pb2.EmbedWordsRequest(
        inputs=[encoder_pb2.WordsInput(text=LONG)]
    ),
    "encoder_pb2.EmbedTokens": encoder_pb2.EmbedTokensRequest(inputs=[LONG]),
    "encoder_pb2.Tokenize": encoder_pb2.TokenizeRequest(inputs=[LONG] * 20),
    "collection_pb2.GetCollection": collection_pb2.GetCollectionRequest(name="own"),
    "collection_pb2.ListCollections": collection_pb2.ListCollectionsRequest(),
    "collection_pb2.CreateSnapshot": collection_pb2.CreateSnapshotRequest(collection="own"),
    "collection_pb2.CheckCollection": collection_pb2.CheckCollectionRequest(name="own"),
    "collection_pb2.CompactCollection": collection_pb2.CompactCollectionRequest(name="own"),
    "document_pb2.UpsertDocuments": document_pb2.UpsertDocumentsRequest(
        collection="own", documents=[document(number) for number in range(100)]
    ),
    "document_pb2.DeleteDocuments": document_pb2.DeleteDocumentsRequest(
        collection="own", ids=["5", "6"]
    ),
    "document_pb2.BatchGetDocuments": document_pb2.BatchGetDocumentsRequest(
        collection="own", ids=["1", "2"], allow_missing=True
    ),
    "document_pb2.ListDocuments": document_pb2.ListDocumentsRequest(collection="own"),
    "document_pb2.CountDocuments": document_pb2.CountDocumentsRequest(collection="own"),
    "document_pb2.WriteStream": document_pb2.WriteStreamRequest(
        collection="own", documents=[document(number) for number in range(50)]
    ),
    "search_pb2.Search": search_pb2.SearchRequest(collection="own", query=query()),
    "search_pb2.BatchSearch": search_pb2.BatchSearchRequest(
        collection="own", queries=[query()] * 50
    ),
    "admin_pb2.GetStatistics": admin_pb2.GetStatisticsRequest(),
    "admin_pb2.GetServerInfo": admin_pb2.GetServerInfoRequest(),
}
MODULES = {
    module.__name__.rpartition(".")[2]: module
    for module in (admin_pb2, collection_pb2, compare_pb2, document_pb2, encoder_pb2, search_pb2)
}


def method_of(name):
    module, _, method = name.partition(".")
    for service in MODULES[module].DESCRIPTOR.services_by_name.values():
        if method in service.methods_by_name:
            return service.methods_by_name[method]
    raise LookupError(name)


def begin(channel, name, *, timeout=ANSWER_S_MAX, messages=3):
    """Start a call; a stream sends its request `messages` times."""
    method = method_of(name)
    path = f"/{method.containing_service.full_name}/{method.name}"
    parse = message_factory.GetMessageClass(method.output_type).FromString
    data = REQUESTS[name].SerializeToString()
    if method.client_streaming:
        return channel.stream_stream(path, None, parse)(iter([data] * messages), timeout=timeout)
    return channel.unary_unary(path, None, parse)(data, timeout=timeout)


async def ended(call):
    """The code that a call ends with, as the server knows it.

    grpc.aio tells its own caller INTERNAL when the deadline passes while it sends.
    """
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    if await call.details() == "Internal error from Core":
        return StatusCode.DEADLINE_EXCEEDED
    return await call.code()


@contextlib.asynccontextmanager
async def connected(process, options=UNLIMITED):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{process.port}", options=options) as channel:
        yield channel


@pytest.fixture
async def channel(server_process):
    """A connection to a server with a collection; afterwards the server must be as before."""
    process = server_process
    async with connected(process) as channel:
        await provide(channel)
        yield channel
    await sound(process)


async def provide(channel):
    external = collection_pb2.ExternalVectors(dimensions=DIMENSIONS)
    collection = collection_pb2.Collection(name="own", external=external)
    with contextlib.suppress(grpc.aio.AioRpcError):  # it is there already
        await collection_pb2_grpc.CollectionServiceStub(channel).CreateCollection(
            collection_pb2.CreateCollectionRequest(collection=collection)
        )
    for name in ("document_pb2.UpsertDocuments", "collection_pb2.CompactCollection"):
        assert await ended(begin(channel, name)) is StatusCode.OK


async def sound(process):
    """It lives, answers every kind of call, has nothing left to do and logged no bug."""
    assert process.alive, process.last_lines()
    async with connected(process) as channel:
        await provide(channel)
        for name in REQUESTS:
            assert await ended(begin(channel, name)) is StatusCode.OK, name
        seen = await admin_pb2_grpc.AdminServiceStub(channel).GetStatistics(
            admin_pb2.GetStatisticsRequest()
        )
    assert seen.queue_texts == 0
    assert not process.errors()


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_storm_of_cancelled_calls_ends_nothing_else(server_process, channel, name):
    rng = random.Random(name)
    for _ in range(4):
        calls = [begin(channel, name) for _ in range(25)]
        tasks = [asyncio.create_task(ended(call)) for call in calls]
        for call in calls:
            await asyncio.sleep(rng.uniform(0, 0.004))
            call.cancel()
        codes = await asyncio.gather(*tasks)
        assert set(codes) <= {StatusCode.OK, StatusCode.CANCELLED}


async def test_calls_with_a_millisecond_end_in_time_or_with_their_deadline(channel):
    for timeout in (0.0001, 0.001, 0.003):
        calls = [begin(channel, name, timeout=timeout) for name in REQUESTS for _ in range(10)]
        codes = await asyncio.gather(*(ended(call) for call in calls))

        assert set(codes) <= {StatusCode.OK, StatusCode.DEADLINE_EXCEEDED}


@contextlib.asynccontextmanager
async def doorway(port):
    """A TCP proxy whose connections can be cut as by a pulled plug; gives its port and the cut."""
    writers = []

    async def pump(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    async def accept(reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", port)
        writers.extend((writer, back))
        await asyncio.gather(pump(reader, back), pump(there, writer))

    def cut():
        for writer in writers:
            writer.transport.abort()
        writers.clear()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], cut
    finally:
        cut()
        server.close()


async def test_connections_that_are_cut_in_the_middle_end_nothing_else(server_process, channel):
    rng = random.Random(7)
    for _ in range(25):
        async with doorway(server_process.port) as (port, cut):
            options = [*UNLIMITED, ("grpc.enable_retries", 0)]
            address = f"127.0.0.1:{port}"
            async with grpc.aio.insecure_channel(address, options=options) as other:
                calls = [begin(other, name, messages=20) for name in REQUESTS]
                tasks = [asyncio.create_task(ended(call)) for call in calls]
                await asyncio.sleep(rng.uniform(0.005, 0.15))
                cut()
                await asyncio.wait_for(asyncio.gather(*tasks), ANSWER_S_MAX)


async def test_channels_that_are_closed_in_the_middle_end_nothing_else(server_process, channel):
    rng = random.Random(8)
    for _ in range(25):
        async with connected(server_process) as other:
            calls = [begin(other, name, messages=20) for name in REQUESTS]
            tasks = [asyncio.create_task(ended(call)) for call in calls]
            await asyncio.sleep(rng.uniform(0.005, 0.1))
        await asyncio.wait_for(asyncio.gather(*tasks), ANSWER_S_MAX)


@pytest.mark.parametrize("name", ["encoder_pb2.EmbedStream", "document_pb2.WriteStream"])
async def test_streams_that_are_left_after_an_answer_end_nothing_else(
    server_process, channel, name
):
    for _ in range(60):
        async with connected(server_process) as other:
            call = begin(other, name, messages=2)
            await call.read()
            call.cancel()


async def test_garbage_on_the_socket_ends_nothing_else(server_process, channel):
    rng = random.Random(9)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    for start in (b"", b"GET / HTTP/1.1\r\n\r\n", preface, preface + b"\0\0\4\1\4\0\0\0\1"):
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", server_process.port)
            writer.write(start + rng.randbytes(rng.randrange(2000)))
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(reader.read(100), 0.05)
            writer.transport.abort()


async def test_a_slow_reader_waits_alone(server_process, channel):
    """Its stream is not read on, and memory does not grow with what it would like to send."""
    resident = psutil.Process(server_process.pid).memory_info
    before = resident().rss
    sent = 0

    async def endless():
        nonlocal sent
        inputs = ["apple"] * 200
        request = encoder_pb2.EmbedStreamRequest(request=encoder_pb2.EmbedRequest(inputs=inputs))
        for _ in itertools.repeat(None):
            sent += 1
            yield request

    async with connected(server_process) as other:
        streams = [encoder_pb2_grpc.EncoderServiceStub(other).EmbedStream() for _ in range(4)]
        senders = [asyncio.create_task(push(stream, endless())) for stream in streams]
        await asyncio.sleep(8)
        between = sent
        assert await ended(begin(channel, "search_pb2.Search", timeout=5)) is StatusCode.OK
        await asyncio.sleep(3)
        assert sent - between < 40, "the server still reads what nobody takes answers to"
        assert resident().rss - before < 300 * MIB
        for task in senders:
            task.cancel()
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*senders, return_exceptions=True)


async def push(stream, requests):
    async for request in requests:
        await stream.write(request)


async def test_five_hundred_idle_streams_leave_room_for_others(server_process, channel):
    resident = psutil.Process(server_process.pid).memory_info
    before = resident().rss
    async with connected(server_process) as other:
        embed = encoder_pb2_grpc.EncoderServiceStub(other)
        write = document_pb2_grpc.DocumentServiceStub(other)
        streams = [embed.EmbedStream() for _ in range(250)]
        streams += [write.WriteStream() for _ in range(250)]
        await asyncio.gather(*(stream.wait_for_connection() for stream in streams))
        for name in REQUESTS:
            assert await ended(begin(channel, name)) is StatusCode.OK, name
        grown = resident().rss - before
        for stream in streams[::2]:
            stream.cancel()
        # The other half vanishes with its connection.
    assert grown < 100 * MIB


async def test_messages_beyond_the_limit_are_refused(server_process, channel):
    resident = psutil.Process(server_process.pid).memory_info
    before = resident().rss
    stub = encoder_pb2_grpc.EncoderServiceStub(channel)
    for size in (17 * MIB, 40 * MIB):
        request = encoder_pb2.EmbedRequest(inputs=["a" * size])
        for _ in range(3):
            assert await ended(stub.Embed(request)) is StatusCode.RESOURCE_EXHAUSTED
    fitting = encoder_pb2.EmbedRequest(inputs=["a" * (15 * MIB)])
    codes = await asyncio.gather(*(ended(stub.Embed(fitting)) for _ in range(4)))
    assert set(codes) == {StatusCode.INVALID_ARGUMENT}
    assert resident().rss - before < 400 * MIB


async def test_after_all_this_nothing_is_left_over_and_it_goes_home_at_once(server_process):
    await sound(server_process)

    assert server_process.stop(within_s=10) == 0
    assert "cut off" not in server_process.last_lines()
    assert not server_process.errors()
