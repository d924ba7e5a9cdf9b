"""The bulk load: acknowledgements, refusals on the way, and callers who leave."""

import asyncio
import contextlib

import grpc
import pytest

from polyseme.v1 import document_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

Code = grpc.StatusCode
VECTORS = {"external": {"dimensions": 2}}


@pytest.fixture(scope="session")
def message(make_document):
    """A message of a stream; documents as {id: fields}."""

    def make(documents, **fields):
        made = [make_document(id, **given) for id, given in documents.items()]
        return document_pb2.WriteStreamRequest(documents=made, **fields)

    return make


def vectors(*ids):
    return {id: {"vector": [1, 2]} for id in ids}


async def counted(server, name):
    request = document_pb2.CountDocumentsRequest(collection=name)
    return (await server.documents.CountDocuments(request)).count


async def written(server, *messages):
    return [answer async for answer in server.documents.WriteStream(iter(messages))]


async def test_thousands_of_documents_are_acknowledged_in_order(server, message):
    name = await server.create(**VECTORS)
    messages = [
        message(vectors(*(f"{batch:02}-{i:03}" for i in range(100))), tag=batch)
        for batch in range(30)
    ]
    messages[0].collection = name

    answers = await written(server, *messages)

    assert [answer.tag for answer in answers] == list(range(30))
    assert [answer.written for answer in answers] == [100] * 30
    sequences = [answer.durable_sequence for answer in answers]
    assert sequences == sorted(sequences)
    assert sequences[-1] == 30
    assert await counted(server, name) == 3000


async def test_texts_are_embedded_on_the_way_and_found(server, message, ids):
    name = await server.create()
    sentences = {"pie": "An apple pie.", "car": "A fast car.", "sea": "Waves at sea."}
    messages = [message({id: {"text": text}}) for id, text in sentences.items()]
    messages[0].collection = name

    await written(server, *messages)

    assert ids(await server.search(name, "the ocean", k=1)) == ["sea"]


async def test_a_later_batch_replaces_what_an_earlier_one_wrote(server, message):
    name = await server.create()
    long = "An old sentence that takes the model much longer than the new one does. " * 20
    first = message({"a": {"text": long}}, collection=name)

    await written(server, first, message({"a": {"text": "New."}}))

    assert (await server.get(name, "a")).text == "New."


async def test_a_refused_batch_is_answered_with_its_error_and_the_stream_goes_on(
    server, message, told_of
):
    name = await server.create(**VECTORS)

    answers = await written(
        server,
        message(vectors("a"), collection=name, tag=1),
        message({"b": {"vector": [1]}}, tag=2),
        message({}, tag=3),
        message(vectors("c"), collection="elsewhere", tag=4),
        message(vectors("a"), mode=document_pb2.WRITE_MODE_INSERT, tag=5),
        message(vectors("d"), collection=name, tag=6),
    )

    assert [answer.tag for answer in answers] == [1, 2, 3, 4, 5, 6]
    errors = [told_of(answer.error) if answer.HasField("error") else None for answer in answers]
    assert errors[0] is errors[5] is None
    assert errors[1].fields == ["documents[0].vector"]
    assert errors[2].fields == ["documents"]
    assert errors[3].fields == ["collection"]
    assert errors[4].code is Code.ALREADY_EXISTS
    assert answers[4].written == 0
    assert answers[5].durable_sequence == 2
    assert await counted(server, name) == 2


async def test_a_batch_that_comes_again_with_its_request_id_is_not_written_again(server, message):
    name = await server.create(**VECTORS)
    once = message(vectors("a"), collection=name, request_id="once")

    answers = await written(server, once, message(vectors("b")), once)

    assert [answer.replayed for answer in answers] == [False, False, True]
    assert [answer.written for answer in answers] == [1, 1, 1]
    assert answers[-1].durable_sequence == 2


async def test_the_first_message_names_the_collection(server, message, refusal):
    unnamed = await refusal(written(server, message(vectors("a"))))
    unknown = await refusal(written(server, message(vectors("a"), collection="nowhere")))

    assert unnamed.fields == ["collection"]
    assert (unknown.code, unknown.resource) == (Code.NOT_FOUND, "nowhere")


async def test_a_stream_without_messages_ends_without_answers(server):
    assert await written(server) == []


async def test_half_a_stream_and_then_silence_keeps_what_was_acknowledged(
    serving_from, tmp_path, message, refusal
):
    async with serving_from(tmp_path, stream_idle_s_max=0.3) as server:
        name = await server.create(**VECTORS)

        async def half():
            yield message(vectors("a", "b"), collection=name)
            await asyncio.sleep(30)

        call = server.documents.WriteStream(half())
        acknowledged = await call.read()
        refused = await refusal(call.read())

        assert acknowledged.durable_sequence == 1
        assert refused.reason == "STREAM_IDLE"
        assert await counted(server, name) == 2
        await server.put(name, vectors("c"))

    async with serving_from(tmp_path) as server:
        assert await counted(server, name) == 3


async def test_a_caller_who_never_says_anything_is_sent_away(serving_from, tmp_path, refusal):
    async with serving_from(tmp_path, stream_idle_s_max=0.2) as server:

        async def silence():
            await asyncio.sleep(30)
            yield document_pb2.WriteStreamRequest()

        async def load():
            return [answer async for answer in server.documents.WriteStream(silence())]

        assert (await refusal(load())).reason == "STREAM_IDLE"


async def test_a_caller_who_cancels_leaves_whole_batches_and_a_working_server(server, message):
    name = await server.create()
    text = "A sentence with an apple in it. " * 20

    async def endless():
        for batch in range(10_000):
            documents = {f"{batch}-{i}": {"text": text} for i in range(8)}
            yield message(documents, collection=name, tag=batch)

    call = server.documents.WriteStream(endless())
    acknowledged = 0
    async for answer in call:
        acknowledged += answer.written
        if answer.tag == 2:
            call.cancel()
            break
    with contextlib.suppress(asyncio.CancelledError):
        await call.code()

    left = await settled(server, name)
    assert acknowledged == 24
    assert left >= acknowledged
    assert left % 8 == 0
    assert left <= 8 * (3 + server.settings.stream_requests_max)


async def settled(server, name):
    """The number of documents when it no longer changes."""
    before = -1
    while (now := await counted(server, name)) != before:
        before = now
        await asyncio.sleep(0.2)
    return now
