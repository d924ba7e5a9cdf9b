"""The server as a whole: admission, overload, health, keys, TLS, the HTTP side, going home."""

import asyncio
import hashlib
from pathlib import Path

import grpc
import httpx
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from encoder.manifest import ModelDamaged, ModelNotFound
from index.errors import DataDamaged, StorageFailed
from polyseme.v1 import (
    admin_pb2,
    collection_pb2,
    common_pb2,
    document_pb2,
    encoder_pb2,
    encoder_pb2_grpc,
)
from server.app import SERVICES, AddressUnavailable, Application, running
from server.tls import TlsFilesUnreadable

pytestmark = pytest.mark.asyncio(loop_scope="session")

Request = encoder_pb2.EmbedRequest
LONG = "apples and oranges are fruit. " * 30  # about 180 tokens: milliseconds of work each


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call
    return refusal.value


async def ended(stream):
    """The code of its last answer's error, or of itself."""
    try:
        reply = await stream.read()
    except grpc.aio.AioRpcError as error:
        return error.code()
    return next(code for code in grpc.StatusCode if code.value[0] == reply.error.code)


def detail(error, kind):
    status = status_pb2.Status.FromString(
        dict(error.trailing_metadata())["grpc-status-details-bin"]
    )
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            message = kind()
            packed.Unpack(message)
            return message
    return None


def reason(error):
    return detail(error, error_details_pb2.ErrorInfo).reason


async def until(stubs, holds):
    """The first statistics of which `holds` is true."""
    for _ in range(500):
        seen = await statistics(stubs)
        if holds(seen):
            return seen
        await asyncio.sleep(0.01)
    raise AssertionError(f"never: {seen}")


async def statistics(stubs):
    return await stubs.admin.GetStatistics(admin_pb2.GetStatisticsRequest())


# ---- overload


async def test_overload_is_refused_with_the_time_to_come_back(serving):
    async with serving(queue_texts_max=4, inputs_max=4, batch_tokens_max=64) as small:
        outcomes = await asyncio.gather(
            *(small.encoder.Embed(Request(inputs=[LONG[:200]] * 4)) for _ in range(20)),
            return_exceptions=True,
        )
        errors = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
        assert await small.encoder.Embed(Request(inputs=["the crowd has gone"]))

    assert 0 < len(errors) < 20
    for error in errors:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason(error) == "QUEUE_FULL"
        assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0


async def test_a_cancelled_call_uses_no_model_time(serving):
    async with serving(batch_tokens_max=256) as slow:
        kept = slow.encoder.Embed(Request(inputs=[LONG] * 4))
        dropped = slow.encoder.Embed(Request(inputs=[LONG] * 400))
        await until(slow, lambda seen: seen.queue_texts > 300)
        dropped.cancel()
        await kept
        seen = await until(slow, lambda seen: seen.texts + seen.abandoned_texts == 404)

    assert seen.abandoned_texts > 200
    assert seen.queue_texts == 0


async def test_a_deadline_that_passes_in_the_queue_ends_the_call_and_its_work(serving):
    # With threads of its own the stream, which is bulk, would not wait for a person's call.
    async with serving(batch_tokens_max=256, bulk_niceness=0) as slow:
        before = slow.encoder.Embed(Request(inputs=[LONG] * 400))
        await until(slow, lambda seen: seen.queue_texts > 300)
        late = Request(inputs=["a", "b", "c"])
        requests = iter([encoder_pb2.EmbedStreamRequest(request=late)])
        stream = slow.encoder.EmbedStream(requests, timeout=0.3)  # it waits, whatever is before it
        code = await ended(stream)
        seen = await until(slow, lambda seen: seen.abandoned_texts > 0)
        before.cancel()

    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert seen.abandoned_texts == 3


async def test_a_call_that_would_be_too_late_is_told_so_at_once(serving):
    async with serving(batch_tokens_max=256) as slow:
        before = slow.encoder.Embed(Request(inputs=[LONG] * 400))
        await until(slow, lambda seen: seen.queue_texts > 300)
        late = Request(inputs=["a", "b", "c"], priority=common_pb2.PRIORITY_BULK)
        error = await refused(slow.encoder.Embed(late, timeout=0.3))
        before.cancel()

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason(error) == "QUEUE_FULL"
    assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 300


async def test_more_streams_than_the_limit_are_refused(serving):
    # gRPC itself keeps one connection to so many; a second connection brings more.
    own_connection = [("grpc.use_local_subchannel_pool", 1)]
    async with (
        serving(calls_max=1, streams_max=1) as small,
        grpc.aio.insecure_channel(f"127.0.0.1:{small.port}", options=own_connection) as second,
    ):
        requests = _one_then_silence()
        open_stream = small.encoder.EmbedStream(requests)
        await open_stream.read()

        other = encoder_pb2_grpc.EncoderServiceStub(second).EmbedStream(_one_then_silence())
        error = await refused(other.read())
        open_stream.cancel()

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason(error) == "TOO_MANY_CALLS"


async def _one_then_silence():
    yield encoder_pb2.EmbedStreamRequest(request=Request(inputs=["one"]))
    await asyncio.sleep(30)


async def test_a_message_above_the_limit_is_refused(serving):
    async with serving(message_bytes_max=10_000) as small:
        error = await refused(small.encoder.Embed(Request(inputs=["x" * 20_000])))
        reply = await refused(small.encoder.Embed(Request(inputs=["x"] * 20)))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason(reply) == "REPLY_TOO_LARGE"


# ---- health, reflection, information


async def health_of(channel, service=""):
    stub = health_pb2_grpc.HealthStub(channel)
    reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)


async def test_every_service_that_the_model_can_answer_is_healthy_and_all_are_reflected(stubs):
    lacking = {  # of MiniLM: a masked-LM head, a translator
        "polyseme.v1.LanguageModelService",
        "polyseme.v1.TranslationService",
    }
    for service in ("", *SERVICES):
        expected = "NOT_SERVING" if service in lacking else "SERVING"
        assert await health_of(stubs.channel, service) == expected

    reflected = reflection_pb2_grpc.ServerReflectionStub(stubs.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")

    async def once():
        yield asked

    (reply,) = [reply async for reply in reflected.ServerReflectionInfo(once())]
    assert set(SERVICES) <= {service.name for service in reply.list_services_response.service}


async def test_before_the_model_is_loaded_nothing_serves(settings_with):
    application = Application(settings_with())
    port = await application.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        assert await health_of(channel) == "NOT_SERVING"
        for call in (stub.Embed(Request(inputs=["a"])), _first(stub.EmbedStream(_one()))):
            error = await refused(call)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert reason(error) == "NOT_READY"
            assert detail(error, error_details_pb2.RetryInfo)

        made_up = channel.unary_unary("/polyseme.v1.EncoderService/MadeUp")
        assert (await refused(made_up(b""))).code() is grpc.StatusCode.UNIMPLEMENTED

        await application.load()
        assert await health_of(channel) == "SERVING"
        assert await stub.Embed(Request(inputs=["a"]))
    await application.stop()


async def _one():
    yield encoder_pb2.EmbedStreamRequest(request=Request(inputs=["a"]))


async def _first(stream):
    return await anext(aiter(stream))


async def test_an_unknown_method_is_unimplemented(stubs):
    call = stubs.channel.unary_unary("/polyseme.v1.EncoderService/Nothing")

    assert (await refused(call(b""))).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_server_tells_its_limits_and_models(stubs):
    info = await stubs.admin.GetServerInfo(admin_pb2.GetServerInfoRequest())

    assert (info.api_version, info.draining) == ("v1", False)
    assert info.limits.inputs_max == 2048
    (model,) = info.models
    reply = await stubs.encoder.Embed(Request(inputs=["a"]))
    assert model.fingerprint == reply.fingerprint
    assert (model.dimensions, model.tokens_max, model.device) == (384, 256, "cpu")
    assert model.reproducibility.exact


async def test_statistics_count_what_was_done(serving):
    async with serving() as fresh:
        await fresh.encoder.Embed(Request(inputs=["one", "two words"]))
        await refused(fresh.encoder.Embed(Request()))
        seen = await statistics(fresh)

    (embed,) = [m for m in seen.methods if m.method == "/polyseme.v1.EncoderService/Embed"]
    assert dict(embed.calls) == {"OK": 1, "INVALID_ARGUMENT": 1}
    assert (seen.texts, seen.tokens) == (2, 7)
    assert seen.resident_bytes > 10_000_000
    assert seen.uptime.ToTimedelta().total_seconds() > 0


async def test_a_bug_tells_the_caller_nothing_but_the_request_id(serving, monkeypatch, caplog):
    async def broken(*_, **__):
        raise ValueError("/a/path and a secret")

    async with serving() as fresh:
        monkeypatch.setattr("server.embedder.Embedder.embed", broken)
        error = await refused(fresh.encoder.Embed(Request(inputs=["a"])))

    request_id = dict(error.trailing_metadata())["x-request-id"]
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == f"internal error; request id {request_id}"
    (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert line.fields["request_id"] == request_id
    assert "a secret" in str(line.exc_info[1])


FAILURES = [
    (StorageFailed(Path("/data/a.sqlite3"), "I/O error"), "STORAGE_FAILED"),
    (DataDamaged(Path("/data/a.sqlite3"), "I/O error"), "DATA_DAMAGED"),
    (MemoryError("/data/a.sqlite3: I/O error"), "OUT_OF_MEMORY"),
]


@pytest.mark.parametrize(("failure", "told"), FAILURES, ids=[told for _, told in FAILURES])
async def test_of_a_failed_disk_the_log_has_the_path_and_the_caller_has_not(
    stubs, monkeypatch, caplog, failure, told
):
    def broken(*_, **__):
        raise failure

    name = told.lower().replace("_", "-")
    given = collection_pb2.Collection(name=name, external={"dimensions": 2})
    create = collection_pb2.CreateCollectionRequest(collection=given)
    await stubs.collections.CreateCollection(create)
    monkeypatch.setattr("index.collection.Collection.upsert", broken)
    vector = common_pb2.Vector(values=[1, 2])
    write = {"collection": name, "documents": [document_pb2.Document(id="1", vector=vector)]}

    once = document_pb2.UpsertDocumentsRequest(**write)
    unary = (await refused(stubs.documents.UpsertDocuments(once))).trailing_metadata()
    stream = stubs.documents.WriteStream(iter([document_pb2.WriteStreamRequest(**write)]))
    try:
        streamed = (await _first(stream)).error.SerializeToString()
    except grpc.aio.AioRpcError as error:  # what is no answer to a message ends the stream
        streamed = dict(error.trailing_metadata())["grpc-status-details-bin"]

    for details in (dict(unary)["grpc-status-details-bin"], streamed):
        assert told.encode() in details
        assert b"/data" not in details
    lines = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == 2
    assert all("/data/a.sqlite3" in str(line.exc_info[1]) for line in lines)
    assert all(line.fields["request_id"] for line in lines)


async def test_the_log_has_a_line_a_call_and_no_text(serving, caplog):
    caplog.set_level("INFO", "polyseme.calls")
    async with serving() as fresh:
        metadata = (("x-request-id", "r-1"), ("authorization", "Bearer key-in-clear"))
        await fresh.encoder.Embed(Request(inputs=["a private text"]), metadata=metadata)
        await asyncio.sleep(0.01)

    (line,) = [record.fields for record in caplog.records if record.name == "polyseme.calls"]
    assert line["method"] == "/polyseme.v1.EncoderService/Embed"
    assert (line["code"], line["request_id"]) == ("OK", "r-1")
    assert line["duration_ms"] > 0
    assert "private" not in caplog.text
    assert "key-in-clear" not in str(line)


# ---- who may come in


async def test_with_keys_only_their_holders_come_in(serving, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"web {hashlib.sha256(b'the-key').hexdigest()} read\n")
    async with serving(api_keys=keys) as guarded:
        request = Request(inputs=["a"])
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            error = await refused(guarded.encoder.Embed(request, metadata=metadata))
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert reason(error) == "UNAUTHENTICATED"
        header = (("authorization", "Bearer the-key"),)
        assert await guarded.encoder.Embed(request, metadata=header)
        assert await health_of(guarded.channel) == "SERVING"  # probes have no key


async def test_tls_and_client_certificates(settings_with, certificate):
    cert, key = certificate
    settings = settings_with(tls_cert=cert, tls_key=key, tls_client_ca=cert)
    known = grpc.ssl_channel_credentials(cert.read_bytes(), key.read_bytes(), cert.read_bytes())
    unknown = grpc.ssl_channel_credentials(cert.read_bytes())
    async with running(settings) as port:
        async with grpc.aio.secure_channel(f"localhost:{port}", known) as channel:
            stub = encoder_pb2_grpc.EncoderServiceStub(channel)
            assert await stub.Embed(Request(inputs=["a"]))
        async with grpc.aio.secure_channel(f"localhost:{port}", unknown) as channel:
            stub = encoder_pb2_grpc.EncoderServiceStub(channel)
            error = await refused(stub.Embed(Request(inputs=["a"]), timeout=2))
            assert error.code() is grpc.StatusCode.UNAVAILABLE


# ---- what keeps a server from starting


async def test_an_address_in_use_is_an_error(stubs, settings_with):
    with pytest.raises(AddressUnavailable, match=str(stubs.port)):
        async with running(settings_with(address=f"127.0.0.1:{stubs.port}")):
            pass


async def test_a_missing_model_is_an_error(settings_with, tmp_path):
    with pytest.raises(ModelNotFound):
        async with running(settings_with(model=tmp_path / "none")):
            pass


async def test_a_damaged_model_is_an_error(settings_with, model_directory, tmp_path):
    damaged = tmp_path / "model"
    damaged.mkdir()
    for file in model_directory.rglob("*"):
        target = damaged / file.relative_to(model_directory)
        if file.is_dir():
            target.mkdir(exist_ok=True)
        elif file.name == "tokenizer.json":
            target.write_bytes(file.read_bytes()[:-1] + b" ")
        else:
            target.symlink_to(file)

    with pytest.raises(ModelDamaged, match=r"tokenizer\.json"):
        async with running(settings_with(model=damaged)):
            pass


async def test_unreadable_tls_files_are_an_error(settings_with, tmp_path):
    with pytest.raises(TlsFilesUnreadable, match="nowhere"):
        async with running(
            settings_with(tls_cert=tmp_path / "nowhere", tls_key=tmp_path / "nowhere")
        ):
            pass


async def test_tls_files_that_hold_something_else_are_named(settings_with, certificate, tmp_path):
    cert, key = certificate
    other = tmp_path / "other.pem"
    other.write_text("not in PEM\n")
    for files in (
        {"tls_cert": other, "tls_key": key},
        {"tls_cert": cert, "tls_key": other},
        {"tls_cert": cert, "tls_key": key, "tls_client_ca": other},
    ):
        with pytest.raises(TlsFilesUnreadable, match=r"other\.pem"):
            async with running(settings_with(**files)):
                pass


# ---- the HTTP side


async def test_metrics_and_health_over_http(settings_with):
    application = Application(settings_with(http_address="127.0.0.1:0"))
    await application.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{application.http_port}") as http:
        assert (await http.get("/healthz")).status_code == 503
        await application.load()
        assert (await http.get("/healthz")).status_code == 200
        page = (await http.get("/metrics")).text
        assert "polyseme_queue_texts 0.0" in page
    await application.stop()


# ---- going home


async def test_draining_refuses_new_calls_and_finishes_the_running_ones(serving):
    async with serving(batch_tokens_max=256) as leaving:
        slow = leaving.encoder.Embed(Request(inputs=[LONG] * 10))
        await asyncio.sleep(0.05)

        reply = await leaving.admin.Drain(admin_pb2.DrainRequest())

        assert reply.calls_running == 1
        assert await health_of(leaving.channel) == "NOT_SERVING"
        info = await leaving.admin.GetServerInfo(admin_pb2.GetServerInfoRequest())
        assert info.draining
        error = await refused(leaving.encoder.Embed(Request(inputs=["late"])))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert reason(error) == "DRAINING"
        assert detail(error, error_details_pb2.RetryInfo)
        assert len((await slow).embeddings) == 10


@pytest.mark.parametrize("seconds", [-1, 10**15])
async def test_a_grace_that_no_duration_can_have_is_refused(stubs, seconds):
    request = admin_pb2.DrainRequest(grace=Duration(seconds=seconds))

    error = await refused(stubs.admin.Drain(request))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await health_of(stubs.channel) == "SERVING"


@pytest.mark.parametrize("messages", [0, 3])
async def test_draining_answers_what_a_stream_has_sent_and_sends_it_elsewhere(serving, messages):
    request = encoder_pb2.EmbedStreamRequest(request=Request(inputs=[LONG] * 2))
    async with serving(batch_tokens_max=256, shutdown_grace_s=30.0) as leaving:
        stream = leaving.encoder.EmbedStream()
        for _ in range(messages):
            await stream.write(request)
        replies = [await stream.read() for _ in range(min(messages, 1))]
        await stream.wait_for_connection()
        await asyncio.sleep(0.1)
        began = asyncio.get_running_loop().time()

        await leaving.admin.Drain(admin_pb2.DrainRequest())

        replies += [await stream.read() for _ in range(messages - len(replies))]
        ending = await refused(stream.read())
        assert ending.code() is grpc.StatusCode.UNAVAILABLE
        assert reason(ending) == "DRAINING"
        assert detail(ending, error_details_pb2.RetryInfo)
    assert asyncio.get_running_loop().time() - began < 15  # the grace period is 30 s


async def test_silent_streams_take_no_room_from_calls(serving):
    async with serving(calls_max=2, streams_max=20) as small:
        streams = [small.encoder.EmbedStream() for _ in range(20)]
        await asyncio.gather(*(stream.wait_for_connection() for stream in streams))
        await asyncio.sleep(0.1)
        assert await small.encoder.Embed(Request(inputs=["still served"]))
        further = small.encoder.EmbedStream()
        assert await ended(further) is grpc.StatusCode.RESOURCE_EXHAUSTED
        for stream in streams:
            stream.cancel()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_burst_of_streams_is_let_in_and_none_is_cancelled(serving):
    """gRPC by itself cancels what goes beyond a thousand calls that nobody has taken up yet."""
    async with serving() as big:
        streams = [big.encoder.EmbedStream() for _ in range(3500)]
        await asyncio.gather(*(stream.wait_for_connection() for stream in streams))
        assert await big.encoder.Embed(Request(inputs=["behind all of them"]))
        assert not [stream for stream in streams if stream.done()]
        for stream in streams:
            stream.cancel()


async def test_what_outlasts_the_grace_period_is_cut_off(settings_with):
    application = Application(settings_with(batch_tokens_max=256, shutdown_grace_s=0.1))
    port = await application.start()
    await application.load()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        endless = stub.Embed(Request(inputs=[LONG] * 500))
        await asyncio.sleep(0.1)
        await asyncio.wait_for(application.stop(), 5)
        assert (await refused(endless)).code() in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
        )
