"""What the client does when the network or the server does not: against a scripted server."""

import time

import grpc
import pytest
from google.protobuf import wrappers_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from polyseme import (
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    Retry,
    Unavailable,
    methods,
)
from polyseme.aio import AsyncDriver
from polyseme.connection import Connection
from polyseme.plans import Open
from polyseme.retry import unavailable
from polyseme.v1 import admin_pb2, collection_pb2, document_pb2, encoder_pb2

FAST = Retry(wait_first_s=0.01, wait_max_s=2.0)
INFO = admin_pb2.GetServerInfoResponse(
    version="9",
    limits=admin_pb2.Limits(
        message_bytes_max=2**24,
        inputs_max=100,
        call_tokens_max=10**6,
        documents_max=100,
        page_size_max=100,
    ),
    models=[admin_pb2.Model(name="m", dimensions=1, tokens_max=256)],
)


def details(status, *messages):
    for message in messages:
        status.details.add().Pack(message)
    return status


def queue_full(retry_after_ms=None):
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="full")
    details(status, error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="polyseme"))
    if retry_after_ms is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(retry_after_ms)
        details(status, retry)
    return status


def fail(context, status):
    trailer = (("grpc-status-details-bin", status.SerializeToString()), ("x-request-id", "r-1"))
    context.set_trailing_metadata(trailer)
    context.abort(next(c for c in grpc.StatusCode if c.value[0] == status.code), status.message)


def failing_first(statuses, answer):
    """A method that fails with each of `statuses`, then answers."""
    left = list(statuses)

    def respond(request, context):
        if left:
            fail(context, left.pop(0))
        return answer

    return respond


async def test_reads_are_tried_again_and_waits_are_honoured(scripted):
    answers = {
        "GetServerInfo": (
            methods.GET_SERVER_INFO,
            failing_first([queue_full(200), status_pb2.Status(code=14)] * 1, INFO),
        )
    }
    with scripted(answers) as (address, handler):
        async with AsyncClient(address, retry=FAST) as client:
            began = time.monotonic()
            info = await client.info()

    assert info.version == "9"
    assert [path for path, _ in handler.calls] == ["GetServerInfo"] * 3
    assert time.monotonic() - began >= 0.2


def test_what_changes_something_is_sent_once(scripted):
    unavailable = status_pb2.Status(code=14, message="draining")
    answers = {
        "CreateCollection": (
            methods.CREATE_COLLECTION,
            failing_first([unavailable], collection_pb2.CreateCollectionResponse()),
        )
    }
    with (
        scripted(answers) as (address, handler),
        Client(address, retry=FAST) as client,
        pytest.raises(Unavailable, match="draining"),
    ):
        client.create_collection("articles")

    assert len(handler.calls) == 1


def test_a_retried_write_carries_one_request_id(scripted):
    seen = []

    def respond(request, context):
        seen.append(request.request_id)
        if len(seen) < 3:
            fail(context, queue_full())
        return document_pb2.UpsertDocumentsResponse(sequence=7)

    with (
        scripted({"UpsertDocuments": (methods.UPSERT, respond)}) as (address, _),
        Client(address, retry=FAST) as client,
    ):
        written = client.upsert("articles", [{"id": "a", "text": "b"}])
        client.upsert("articles", [{"id": "a", "text": "b"}])

    assert written.sequence == 7
    assert len(seen) == 4
    assert len(set(seen[:3])) == 1
    assert seen[3] != seen[0]


def test_attempts_end_and_the_last_failure_is_told(scripted):
    answers = {"GetServerInfo": (methods.GET_SERVER_INFO, failing_first([queue_full()] * 9, INFO))}
    with (
        scripted(answers) as (address, handler),
        Client(address, retry=FAST) as client,
        pytest.raises(Overloaded) as refusal,
    ):
        client.info()

    assert len(handler.calls) == FAST.attempts_max
    assert refusal.value.reason == "QUEUE_FULL"
    assert refusal.value.request_id == "r-1"


def test_a_deadline_holds_for_attempts_and_waits_together(scripted):
    def respond(request, context):
        time.sleep(0.3)
        fail(context, queue_full())

    with (
        scripted({"GetServerInfo": (methods.GET_SERVER_INFO, respond)}) as (address, _),
        Client(address, retry=FAST, timeout_s=0.8) as client,
    ):
        began = time.monotonic()
        with pytest.raises((DeadlineExceeded, Overloaded)):
            client.info()

    assert time.monotonic() - began < 1.5


def test_nobody_there_is_told_with_the_address():
    nobody = r"no polyseme server answers at 127\.0\.0\.1:1"
    with Client("127.0.0.1:1", retry=FAST) as client, pytest.raises(Unavailable, match=nobody):
        client.info()


def test_a_closed_client_says_so(scripted):
    with scripted() as (address, _):
        client = Client(address, retry=Retry(attempts_max=1))
        client.close()
        with pytest.raises((Unavailable, Cancelled)):
            client.info()


def test_the_api_key_travels_as_a_bearer_token(scripted):
    answers = {"GetServerInfo": (methods.GET_SERVER_INFO, failing_first([], INFO))}
    with scripted(answers) as (address, handler), Client(address, api_key="k") as client:
        client.info()

    assert handler.calls[0][1]["authorization"] == "Bearer k"


class Disk:
    """A scripted WriteStream: writes each request id once, and hangs up when told."""

    def __init__(self, hang_up_after=(), refuse=None, silent=False):
        self.batches = {}
        self.streams = 0
        self._hang_up_after = list(hang_up_after)
        self._refuse = refuse
        self._silent = silent

    def __call__(self, requests, context):
        self.streams += 1
        left = self._hang_up_after.pop(0) if self._hang_up_after else None
        for request in requests:
            if self._silent:
                time.sleep(30)
            ids = [d.id for d in request.documents]
            if self._refuse in ids:
                status = status_pb2.Status(code=3, message="no")
                bad = error_details_pb2.BadRequest()
                bad.field_violations.add(
                    field=f"documents[{ids.index(self._refuse)}].text", description="is empty"
                )
                yield document_pb2.WriteStreamResponse(tag=request.tag, error=details(status, bad))
                continue
            replayed = request.request_id in self.batches
            self.batches.setdefault(request.request_id, ids)
            if left == 0:  # written, but the answer is lost
                context.abort(grpc.StatusCode.UNAVAILABLE, "hung up")
            left = None if left is None else left - 1
            yield document_pb2.WriteStreamResponse(
                tag=request.tag,
                durable_sequence=len(self.batches),
                written=len(ids),
                replayed=replayed,
            )

    def ids(self):
        return [i for ids in self.batches.values() for i in ids]


def writing(scripted, disk):
    return scripted(
        {"GetServerInfo": (methods.GET_SERVER_INFO, failing_first([], INFO))},
        {"WriteStream": (methods.WRITE_STREAM, disk)},
    )


DOCUMENTS = [{"id": f"d{i}", "text": "text"} for i in range(95)]


def test_a_lost_stream_is_opened_again_and_nothing_is_written_twice_or_lost(scripted):
    disk = Disk(hang_up_after=[2, 0, 3])
    progress = []
    with writing(scripted, disk) as (address, _), Client(address, retry=FAST) as client:
        done = client.write("articles", DOCUMENTS, batch_documents=10, on_progress=progress.append)

    assert disk.streams == 4
    assert disk.ids() == [d["id"] for d in DOCUMENTS]
    assert done.documents == 95
    assert [p.documents for p in progress] == [*range(10, 91, 10), 95]


async def test_the_asyncio_client_does_the_same_with_an_asynchronous_source(scripted):
    async def documents():
        for document in DOCUMENTS:
            yield document

    disk = Disk(hang_up_after=[2, 0, 3])
    with writing(scripted, disk) as (address, _):
        async with AsyncClient(address, retry=FAST) as client:
            done = await client.write("articles", documents(), batch_documents=10)

    assert disk.ids() == [d["id"] for d in DOCUMENTS]
    assert done.documents == 95


def test_an_interrupted_write_goes_on_from_its_token(scripted):
    disk = Disk(hang_up_after=[3])
    once = Retry(attempts_max=1)
    with writing(scripted, disk) as (address, _), Client(address, retry=once) as client:
        with pytest.raises(Unavailable) as interruption:
            client.write("articles", DOCUMENTS, batch_documents=10)
        token = interruption.value.resume
        done = client.write("articles", DOCUMENTS, batch_documents=10, resume=token)

    assert disk.ids() == [d["id"] for d in DOCUMENTS]
    assert done.documents == 95


def test_a_refused_document_is_named_by_its_place_in_the_whole_load(scripted):
    named = r"documents\[57\]\.text: is empty"
    with (
        writing(scripted, Disk(refuse="d57")) as (address, _),
        Client(address) as client,
        pytest.raises(InvalidRequest, match=named) as refusal,
    ):
        client.write("articles", DOCUMENTS, batch_documents=10)

    assert refusal.value.resume.split(".")[1] == "50"


def test_a_silent_stream_is_given_up(scripted):
    with (
        writing(scripted, Disk(silent=True)) as (address, _),
        Client(address, timeout_s=0.3, retry=Retry(attempts_max=1)) as client,
    ):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="answered nothing"):
            client.write("articles", DOCUMENTS)

    assert time.monotonic() - began < 5


def test_documents_are_taken_from_the_source_only_as_the_server_takes_them(scripted):
    taken = []

    def documents():
        for document in DOCUMENTS:
            taken.append(document["id"])
            yield document

    ahead = []
    disk = Disk()
    with writing(scripted, disk) as (address, _), Client(address) as client:
        client.write(
            "articles",
            documents(),
            batch_documents=5,
            on_progress=lambda p: ahead.append(len(taken) - p.documents),
        )

    assert max(ahead) <= 5 * 4 + 1  # four batches on their way, and the next one's first document


def test_a_broken_trailer_still_tells_the_code(scripted):
    def respond(request, context):
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    with (
        scripted({"GetCollection": (methods.GET_COLLECTION, respond)}) as (address, _),
        Client(address) as client,
        pytest.raises(NotFound, match="gone"),
    ):
        client.get_collection("articles")


def test_waiting_for_a_server_ends_when_it_serves(scripted):
    states = iter([2, 2, 1])

    def respond(request, context):
        return wrappers_pb2.Int32Value(value=next(states))

    with (
        scripted({"Check": (methods.HEALTH_CHECK, respond)}) as (address, handler),
        Client(address) as client,
    ):
        client.wait_until_serving(timeout_s=5)

    assert len(handler.calls) == 3


def cancelled_first(answer):
    """As gRPC ends a call that reaches a server in the moment when it closes."""
    return failing_first([status_pb2.Status(code=code_pb2.CANCELLED)], answer)


async def test_a_call_that_the_closing_server_cancelled_is_made_again(scripted):
    answers = {"GetServerInfo": (methods.GET_SERVER_INFO, cancelled_first(INFO))}
    with scripted(answers) as (address, _), Client(address, retry=FAST) as client:
        assert client.info().version == "9"

    answers = {"GetServerInfo": (methods.GET_SERVER_INFO, cancelled_first(INFO))}
    with scripted(answers) as (address, _):
        async with AsyncClient(address, retry=FAST) as client:
            assert (await client.info()).version == "9"


async def test_a_stream_whose_time_is_up_while_it_is_written_to_is_late_and_not_lost(scripted):
    """grpc.aio itself says INTERNAL, "Internal error from Core"."""

    def deaf(requests, context):
        while context.is_active():
            time.sleep(0.005)
        return
        yield

    big = document_pb2.Document(id="d", text="x" * 200_000)
    request = document_pb2.WriteStreamRequest(documents=[big])
    streams = {"WriteStream": (methods.WRITE_STREAM, deaf)}
    with scripted({}, streams) as (address, _):
        driver = AsyncDriver(Connection(target=address))
        for _ in range(5):
            stream = driver.stream(Open(methods.WRITE_STREAM, timeout_s=0.1))
            for _ in range(100):  # more than the window holds
                await stream.send(request)
            with pytest.raises(DeadlineExceeded):
                await stream.receive(5.0)
        await driver.close()


def test_a_stream_of_embeddings_goes_on_behind_a_lost_connection(scripted):
    left = [2]

    def respond(requests, context):
        for request in requests:
            if left and left[0] == 0:
                left.pop()
                context.abort(grpc.StatusCode.UNAVAILABLE, "hung up")
            if left:
                left[0] -= 1
            answer = encoder_pb2.EmbedStreamResponse(tag=request.tag)
            for text in request.request.inputs:
                vector = answer.response.embeddings.add().vector
                vector.encoding, vector.dimensions = 5, 1
                vector.values.append(float(text))
            yield answer

    streams = {"EmbedStream": (methods.EMBED_STREAM, respond)}
    info = {"GetServerInfo": (methods.GET_SERVER_INFO, failing_first([], INFO))}
    with scripted(info, streams) as (address, _), Client(address, retry=FAST) as client:
        batches = client.embed_iter((str(i) for i in range(25)), batch_texts=4)
        values = [v for batch in batches for v in batch.array[:, 0]]

    assert values == list(range(25))


class Broken(Exception):
    """Stands in for what goes wrong in the caller's own code."""


def ten_then(error):
    yield from DOCUMENTS[:10]
    raise error


@pytest.mark.parametrize("error", [unavailable("another server's"), Broken()])
async def test_a_source_that_fails_ends_the_write_and_is_not_taken_for_a_lost_stream(
    scripted, error
):
    disk = Disk()
    with writing(scripted, disk) as (address, _):
        with Client(address, retry=FAST) as client, pytest.raises(type(error)) as told:
            client.write("articles", ten_then(error), batch_documents=4)
        async with AsyncClient(address, retry=FAST) as client:
            with pytest.raises(type(error)) as awaited:
                await client.write("articles", ten_then(error), batch_documents=4)

    assert told.value is awaited.value is error
    assert disk.streams <= 2  # one each; a stream that ends at once may not have been seen at all


async def test_texts_that_fail_end_a_stream_of_embeddings(scripted):
    def texts():
        yield "1"
        raise error

    def respond(requests, context):
        yield from ()

    error = unavailable("another server's")
    info = {"GetServerInfo": (methods.GET_SERVER_INFO, failing_first([], INFO))}
    streams = {"EmbedStream": (methods.EMBED_STREAM, respond)}
    with scripted(info, streams) as (address, _):
        with Client(address, retry=FAST) as client, pytest.raises(Unavailable) as told:
            list(client.embed_iter(texts(), batch_texts=4))
        async with AsyncClient(address, retry=FAST) as client:
            with pytest.raises(Unavailable) as awaited:
                [batch async for batch in client.embed_iter(texts(), batch_texts=4)]

    assert told.value is awaited.value is error


@pytest.mark.parametrize("error", [unavailable("another server's"), Broken()])
async def test_what_on_progress_raises_reaches_the_caller(scripted, error):
    def on_progress(progress):
        raise error

    disk = Disk()
    with writing(scripted, disk) as (address, _):
        with Client(address, retry=FAST) as client, pytest.raises(type(error)) as told:
            client.write("articles", DOCUMENTS, on_progress=on_progress)
        async with AsyncClient(address, retry=FAST) as client:
            with pytest.raises(type(error)) as awaited:
                await client.write("articles", DOCUMENTS, on_progress=on_progress)

    assert told.value is awaited.value is error
    assert disk.streams == 2


def test_a_callback_that_raises_stop_iteration_does_not_end_the_write_as_done(scripted):
    def on_progress(progress):
        next(iter(()))

    with (
        writing(scripted, Disk()) as (address, _),
        Client(address) as client,
        pytest.raises(RuntimeError, match="StopIteration"),
    ):
        client.write("articles", DOCUMENTS, batch_documents=10, on_progress=on_progress)


async def test_a_timeout_of_ones_own_takes_the_place_of_the_clients_where_there_is_one_request(
    scripted,
):
    left = []

    def respond(request, context):
        left.append(context.time_remaining())
        return collection_pb2.CompactCollectionResponse()

    def serving(request, context):
        return wrappers_pb2.Int32Value(value=1 if time.monotonic() > ready else 2)

    answers = {
        "CompactCollection": (methods.COMPACT_COLLECTION, respond),
        "Check": (methods.HEALTH_CHECK, serving),
    }
    with scripted(answers) as (address, _):
        ready = time.monotonic() + 0.4
        with Client(address, timeout_s=0.2) as client:
            client.wait_until_serving(timeout_s=30)
            client.compact_collection("articles", timeout_s=30)
        ready = time.monotonic() + 0.4
        async with AsyncClient(address, timeout_s=0.2) as client:
            await client.wait_until_serving(timeout_s=30)
            await client.compact_collection("articles", timeout_s=30)

    assert min(left) > 25
