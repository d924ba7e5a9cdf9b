"""The command as a process: what it prints, when it ends, and with what status."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from polyseme.v1 import encoder_pb2, encoder_pb2_grpc

ROOT = Path(__file__).parents[2]
LONG = "apples and oranges are fruit. " * 30
COMMAND = [sys.executable, "-m", "server.command"]

# Serving needs neither torch nor what needs it; here they cannot even be found.
WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "transformers", "sentence_transformers"}:
            raise ModuleNotFoundError(f"{name} must not be needed", name=name)

sys.meta_path.insert(0, Absent())
from server.command import main
main()
"""


def run(*arguments, **environment):
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextlib.asynccontextmanager
async def process(model, data, *arguments, command=COMMAND):
    """A server of its own process, serving; gives it, its port and its log lines so far."""
    started = await asyncio.create_subprocess_exec(
        *command,
        "serve",
        *("--address", "127.0.0.1:0", "--precision", "fp32"),
        *("--model", str(model), "--data", str(data), *arguments),
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        lines = []
        while not lines or lines[-1]["message"] != "serving":
            lines.append(json.loads(await asyncio.wait_for(started.stderr.readline(), 60)))
        yield started, next(line["port"] for line in lines if "port" in line)
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def test_sigterm_under_load_finishes_what_runs_and_exits_0(model_directory, tmp_path):
    async with (
        process(model_directory, tmp_path, "--batch-tokens-max", "256") as (server, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        request = encoder_pb2.EmbedRequest(inputs=[LONG] * 5)
        calls = [stub.Embed(request) for _ in range(8)]
        await calls[0]  # by now the server has taken them all
        server.send_signal(signal.SIGTERM)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        rest = (await server.stderr.read()).decode().splitlines()

        assert await server.wait() == 0

    for outcome in outcomes:  # all of them had been accepted
        assert len(outcome.embeddings) == 5
    assert json.loads(rest[-1])["message"] == "stopped"


async def test_it_serves_where_torch_cannot_be_imported(model_directory, tmp_path):
    command = [sys.executable, "-c", WITHOUT_TORCH]
    async with (
        process(model_directory, tmp_path, command=command) as (server, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        reply = await stub.Embed(encoder_pb2.EmbedRequest(inputs=["no torch here"]))
        words = encoder_pb2.WordsInput(text="no torch here")
        await stub.EmbedWords(encoder_pb2.EmbedWordsRequest(inputs=[words]))
        healthy = await asyncio.to_thread(run, "healthcheck", POLYSEME_ADDRESS=f"127.0.0.1:{port}")
        taken = await asyncio.to_thread(
            run, "serve", "--address", f"127.0.0.1:{port}", "--data", str(tmp_path / "other")
        )
        server.send_signal(signal.SIGINT)
        await server.stderr.read()
        status = await server.wait()

    assert len(reply.embeddings) == 1
    assert (healthy.returncode, healthy.stdout.strip()[-8:]) == (0, " SERVING")
    assert taken.returncode == 1
    assert re.search(rf"cannot listen on 127\.0\.0\.1:{port}", taken.stderr.splitlines()[-1])
    assert status == 0


@pytest.mark.slow
async def test_a_second_interrupt_ends_it_at_once(model_directory, tmp_path):
    async with (
        process(model_directory, tmp_path, "--batch-tokens-max", "256") as (server, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        endless = stub.Embed(encoder_pb2.EmbedRequest(inputs=[LONG] * 1000))
        await asyncio.sleep(0.5)
        server.send_signal(signal.SIGINT)
        await asyncio.sleep(0.2)
        assert server.returncode is None
        server.send_signal(signal.SIGINT)

        assert await asyncio.wait_for(server.wait(), 2) == 130
        await server.stderr.read()
        with pytest.raises(grpc.aio.AioRpcError):
            await endless


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "sentence"),
    [
        (["serve", "--model", "no/such/model"], {}, 1, "no/such/model"),
        (["serve", "--address", "0.0.0.0:1"], {}, 2, "not loopback"),
        (["serve", "--threads", "many"], {}, 2, "threads: Input should be a valid integer"),
        (["serve"], {"POLYSEME_THREADS": "many"}, 2, "threads: Input should be a valid integer"),
        (["serve"], {"POLYSEME_THREAD": "1"}, 2, "POLYSEME_THREAD: no such setting"),
        (["serve", "--thread", "1"], {}, 2, "unrecognized arguments"),
        (["healthcheck", "--address", "127.0.0.1:9"], {}, 1, "UNAVAILABLE"),
    ],
)
def test_what_goes_wrong_is_one_sentence(tmp_path, arguments, environment, status, sentence):
    if arguments[0] == "serve":
        arguments = ["serve", "--address", "127.0.0.1:0", "--data", str(tmp_path), *arguments[1:]]

    outcome = run(*arguments, **environment)

    assert outcome.returncode == status
    assert sentence in outcome.stderr.splitlines()[-1]
    assert "Traceback" not in outcome.stderr


def test_config_prints_every_setting_as_serve_would_see_it():
    outcome = run("config", "--queue-texts-max", "5000", POLYSEME_THREADS="3")

    assert outcome.returncode == 0
    lines = dict(line.split("=", 1) for line in outcome.stdout.splitlines())
    assert (lines["POLYSEME_QUEUE_TEXTS_MAX"], lines["POLYSEME_THREADS"]) == ("5000", "3")


def test_help_needs_neither_model_nor_heavy_imports():
    outcome = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "server.command", "serve", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert outcome.returncode == 0
    assert "--batch-tokens-max" in outcome.stdout
    assert not re.search(r"\b(onnxruntime|faiss|grpc|torch)$", outcome.stderr, re.MULTILINE)


async def test_cancelled_streams_are_logged_and_end_nothing_else(model_directory, tmp_path):
    """gRPC frees a cancelled call; asking it for its peer afterwards killed the process."""
    streams = 60
    async with process(model_directory, tmp_path / "data") as (started, port):
        lines = asyncio.create_task(read_lines(started.stderr, streams))
        for _ in range(streams):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                embed = encoder_pb2_grpc.EncoderServiceStub(channel).EmbedStream()
                request = encoder_pb2.EmbedRequest(inputs=["apple"])
                await embed.write(encoder_pb2.EmbedStreamRequest(request=request))
                await embed.read()
                embed.cancel()
        logged = await asyncio.wait_for(lines, 30)

        assert started.returncode is None
    assert all(re.fullmatch(r"ipv4:127\.0\.0\.1:\d+", line["peer"]) for line in logged)


async def read_lines(stream, count):
    return [json.loads(await stream.readline()) for _ in range(count)]
