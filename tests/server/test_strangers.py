"""No one gets in who should not, and nothing that they sent or hold is ever told."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from google.protobuf import message_factory
from google.rpc import error_details_pb2, status_pb2

from polyseme.v1 import admin_pb2, encoder_pb2
from server.auth import Scope, append, new_key
from server.command import main
from server.rates import BURST_S
from server.scopes import NEEDED, scope_of

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "server.command"]
CODES = grpc.StatusCode

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A key for each scope, one that is slow, and the file of them."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    secrets = {}
    for name, scope, rate in [
        *((scope.value, scope, None) for scope in Scope),
        ("slow", Scope.READ, 10),
    ]:
        secrets[name], key = new_key(name, [scope], rate)
        append(file, key)
    return file, secrets


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(serving, keys):
    async with serving(api_keys=keys[0]) as stubs:
        yield stubs


def bearer(secret):
    return (("authorization", f"Bearer {secret}"),)


async def outcome(channel, method, metadata, timeout=10):
    """The code and the details of a call of `method` with an empty request, whatever its kind."""
    call = channel.stream_stream(method)(
        iter([b""]) if method.endswith("Stream") else once(b""), metadata=metadata, timeout=timeout
    )
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code(), details_of(error)
    return CODES.OK, {}


async def once(message):
    yield message


def details_of(error):
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    found = {}
    for detail in status_pb2.Status.FromString(packed).details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo):
            if detail.Is(kind.DESCRIPTOR):
                found[kind.DESCRIPTOR.name] = kind.FromString(detail.value)
    return found


@pytest.mark.parametrize("scope", Scope)
async def test_a_key_opens_what_its_scope_names_and_nothing_else(guarded, keys, scope):
    for method in NEEDED:
        if method.endswith("/Drain") and scope is Scope.ADMIN:
            continue  # it would open
        code, details = await outcome(guarded.channel, method, bearer(keys[1][scope]))

        if scope_of(method) is scope:
            assert code not in (CODES.PERMISSION_DENIED, CODES.UNAUTHENTICATED), method
        else:
            assert code is CODES.PERMISSION_DENIED, method
            info = details["ErrorInfo"]
            assert info.reason == "SCOPE_MISSING"
            assert dict(info.metadata) == {"needed": scope_of(method), "granted": scope}


async def test_without_a_key_no_method_opens(guarded, keys):
    right = keys[1]["read"]
    for method in NEEDED:
        for metadata in (
            (),
            bearer("polyseme_wrong"),
            bearer(right[:-1]),
            (("authorization", right),),
            bearer(right) * 2,
        ):
            code, details = await outcome(guarded.channel, method, metadata)
            assert code is CODES.UNAUTHENTICATED, (method, metadata)
            assert details["ErrorInfo"].reason == "UNAUTHENTICATED"


async def test_a_key_beyond_its_rate_is_told_when_to_come_back(guarded, keys):
    request = encoder_pb2.EmbedRequest(inputs=["an apple a day"] * 200)
    embed = guarded.encoder.Embed

    await embed(request, metadata=bearer(keys[1]["slow"]))
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await embed(request, metadata=bearer(keys[1]["slow"]))
    await embed(request, metadata=bearer(keys[1]["read"]))  # another key has its own

    details = details_of(refusal.value)
    assert refusal.value.code() is CODES.RESOURCE_EXHAUSTED
    assert details["ErrorInfo"].reason == "RATE_LIMITED"
    debt_s = (200 * 6 + 16) / 10 - BURST_S
    assert details["RetryInfo"].retry_delay.ToTimedelta().total_seconds() == pytest.approx(
        debt_s, rel=0.2
    )


async def test_a_stream_beyond_its_rate_waits_instead(serving, tmp_path, monkeypatch):
    monkeypatch.setattr("server.rates.BURST_S", 0.5)
    secret, key = new_key("stream", [Scope.READ], 400)
    append(tmp_path / "keys", key)
    request = encoder_pb2.EmbedStreamRequest(
        request=encoder_pb2.EmbedRequest(inputs=["an apple a day"] * 100)  # 600 tokens
    )
    async with serving(api_keys=tmp_path / "keys", stream_requests_max=1) as stubs:
        began = asyncio.get_running_loop().time()
        call = stubs.encoder.EmbedStream(iter([request] * 3), metadata=bearer(secret))
        replies = [reply async for reply in call]
        took_s = asyncio.get_running_loop().time() - began

    assert len(replies) == 3
    assert not any(reply.HasField("error") for reply in replies)
    # The last message begins when the two before it and the entrance are paid, less the burst.
    assert took_s > (2 * 600 + 16) / 400 - 0.5


@pytest_asyncio.fixture(loop_scope="session")
async def indebted(serving, tmp_path, monkeypatch):
    """A server that ends idle streams soon, and a stream that has to wait for two seconds before
    its second message is answered."""
    monkeypatch.setattr("server.rates.BURST_S", 0.5)
    secret, key = new_key("stream", [Scope.READ], 100)
    admin, admins_key = new_key("admin", [Scope.ADMIN], None)
    for one in (key, admins_key):
        append(tmp_path / "keys", one)
    request = encoder_pb2.EmbedStreamRequest(
        request=encoder_pb2.EmbedRequest(inputs=["an apple a day"] * 40)  # 240 tokens
    )
    async with serving(api_keys=tmp_path / "keys", stream_idle_s_max=1.0) as stubs:
        stream = stubs.encoder.EmbedStream(metadata=bearer(secret))
        await stream.write(request)
        assert (await stream.read()).HasField("response")
        await stream.write(request)
        drain = partial(stubs.admin.Drain, admin_pb2.DrainRequest(), metadata=bearer(admin))
        yield stream, drain


async def test_a_stream_that_waits_until_it_has_paid_is_not_idle(indebted):
    stream, _ = indebted
    began = asyncio.get_running_loop().time()

    assert (await stream.read()).HasField("response")

    assert asyncio.get_running_loop().time() - began > 1.2  # idle after 1 s
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


async def test_a_stream_in_debt_is_sent_elsewhere_at_once_when_the_server_goes_home(indebted):
    stream, drain = indebted
    began = asyncio.get_running_loop().time()

    await drain()

    with pytest.raises(grpc.aio.AioRpcError) as ending:
        await stream.read()
    assert details_of(ending.value)["ErrorInfo"].reason == "DRAINING"
    assert asyncio.get_running_loop().time() - began < 0.9


async def test_who_is_turned_away_leaves_a_line_that_names_all_but_the_key(guarded, keys, caplog):
    caplog.set_level("INFO")
    canary = "polyseme_CANARY"
    await outcome(guarded.channel, "/polyseme.v1.EncoderService/Embed", bearer(canary))
    await outcome(guarded.channel, "/polyseme.v1.AdminService/Drain", bearer(keys[1]["read"]))
    await asyncio.sleep(0.01)

    lines = [record for record in caplog.records if record.name == "polyseme.audit"]
    assert {record.levelname for record in lines} == {"WARNING"}
    stranger, reader = (record.fields for record in lines)
    assert (stranger["caller"], stranger["reason"]) == ("", "UNAUTHENTICATED")
    assert stranger["method"] == "/polyseme.v1.EncoderService/Embed"
    assert stranger["peer"].startswith("ipv4:127.0.0.1")
    assert (reader["caller"], reader["reason"]) == ("read", "SCOPE_MISSING")
    assert (reader["method"], reader["needed"]) == ("/polyseme.v1.AdminService/Drain", "admin")
    assert reader["request_id"]
    everything = [record.getMessage() + str(record.__dict__) for record in caplog.records]
    assert all(s not in line for line in everything for s in (canary, keys[1]["read"]))


# ---- secrets that were planted must appear nowhere

PLANTED = "polyseme_CANARYcanaryCANARYcanaryCANARY"


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--api-key", PLANTED),
        ("serve", f"--api-key={PLANTED}"),
        ("serve", "--api-keys", PLANTED),
        ("serve", "--insecure", PLANTED),
        ("serve", f"--insecure={PLANTED}"),
        ("serve", "--threads", PLANTED),
        ("serve", "--log-level", PLANTED),
        ("serve", PLANTED),
        (PLANTED,),
        ("key", PLANTED, "--scopes", PLANTED),
        ("key", "web", "--file", "KEYS"),
        ("config",),
        ("serve", "--help"),
        ("version",),
    ],
)
async def test_a_key_in_the_wrong_place_is_never_printed(arguments, tmp_path, monkeypatch, capsys):
    file = tmp_path / "keys"
    file.write_text(f"web {PLANTED} read\n")
    monkeypatch.setenv("POLYSEME_API_KEY", PLANTED)

    with contextlib.suppress(SystemExit):
        main([str(file) if word == "KEYS" else word for word in arguments])

    said = capsys.readouterr()
    assert said.out + said.err
    assert "CANARY" not in said.out + said.err


async def test_a_key_in_clear_in_the_file_of_keys_is_never_printed(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"web {PLANTED} read\n")

    said = subprocess.run(
        [*COMMAND, "serve", "--api-keys", str(file), "--data", str(tmp_path / "data")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert said.returncode == 1
    assert said.stderr.startswith(f"polyseme-server: {file}, line 1: not `name")
    assert "CANARY" not in said.stdout + said.stderr


async def test_a_misspelt_variable_is_named_without_its_value(monkeypatch, capsys):
    monkeypatch.setenv("POLYSEME_APIKEY", PLANTED)

    with pytest.raises(SystemExit):
        main(["serve"])

    said = capsys.readouterr()
    assert "POLYSEME_APIKEY" in said.err
    assert "CANARY" not in said.out + said.err


async def test_a_process_that_meets_every_kind_of_call_tells_no_secret(
    model_directory, tmp_path, certificate
):
    """Keys, right and wrong, the private key, texts: in everything that the process prints."""
    cert, private = certificate
    right, key = new_key("all", list(Scope), None)
    append(tmp_path / "keys", key)
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(*COMMAND, "serve", "--address", "127.0.0.1:0", "--log-level", "debug"),
                *("--model", str(model_directory), "--data", str(tmp_path / "data")),
                *("--tls-cert", str(cert), "--tls-key", str(private)),
                *("--api-keys", str(tmp_path / "keys"), "--http-address", "127.0.0.1:0"),
            ],
            stdout=out,
            stderr=out,
            cwd=ROOT,
            env={**os.environ, "POLYSEME_API_KEY": PLANTED},
        )
    try:
        port = await served(process, log)
        trusted = grpc.ssl_channel_credentials(cert.read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{port}", trusted) as channel:
            for secret in (PLANTED, right):
                for method in NEEDED:
                    if not method.endswith("/Drain"):
                        await outcome(channel, method, bearer(secret))
                        await meet(channel, method, bearer(secret))
        async with grpc.aio.insecure_channel(f"localhost:{port}") as channel:
            code, _ = await outcome(
                channel, "/polyseme.v1.EncoderService/Embed", bearer(right), timeout=2
            )
            assert code is CODES.UNAVAILABLE  # no TLS, no call
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()

    printed = log.read_text()
    assert printed.count("refused") >= len(NEEDED) - 1
    inside = private.read_text().splitlines()[1]
    hashed = key.sha256.hex()
    for secret in ("CANARY", right, right.removeprefix("polyseme_"), hashed, inside, "a secret"):
        assert secret not in printed


async def served(process, log):
    for _ in range(3000):
        lines = [json.loads(line) for line in log.read_text().splitlines() if line[:1] == "{"]
        if any(line["message"] == "serving" for line in lines):
            return next(line["port"] for line in lines if "port" in line)
        assert process.poll() is None, log.read_text()
        await asyncio.sleep(0.02)
    raise AssertionError("it does not serve")


async def meet(channel, method, metadata):
    """Call `method` with a secret in every string of its request."""
    service, _, name = method.removeprefix("/").rpartition("/")
    described = (
        encoder_pb2.DESCRIPTOR.pool.FindServiceByName(service).methods_by_name[name].input_type
    )
    request = message_factory.GetMessageClass(described)()
    for one in described.fields:
        if one.type == one.TYPE_STRING:
            if one.is_repeated:
                getattr(request, one.name).append("a secret text")
            else:
                setattr(request, one.name, "a secret text")
    call = channel.stream_stream(method)(once(request.SerializeToString()), metadata=metadata)
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError:
        return
