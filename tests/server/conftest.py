"""What the server's tests share: a real model, and a real server on a real socket."""

import contextlib
import json
import os
import subprocess
import sys
import time

import grpc
import pytest
import pytest_asyncio

from encoder.manifest import Precision
from encoder.runtime import Encoder
from polyseme.v1 import (
    admin_pb2_grpc,
    attention_pb2_grpc,
    collection_pb2_grpc,
    compare_pb2_grpc,
    document_pb2_grpc,
    encoder_pb2_grpc,
    language_model_pb2_grpc,
    search_pb2_grpc,
    sense_pb2_grpc,
    translation_pb2_grpc,
)
from server.app import running
from server.settings import Settings


@pytest.fixture(scope="session")
def encoder(model_directory):
    return Encoder.load(model_directory, precision=Precision.FP32)


@pytest.fixture(scope="session")
def settings_with(request, tmp_path_factory):
    """Settings for a server of a test's own: a free port, a fresh data directory."""

    def make(**changes):
        if "model" not in changes:  # nobody waits for a model that no test wants
            changes["model"] = request.getfixturevalue("model_directory")
        return Settings(
            **{
                "address": "127.0.0.1:0",
                "data": tmp_path_factory.mktemp("data"),
                "precision": "fp32",
                "shutdown_grace_s": 2.0,
                "log_level": "warning",
                **changes,
            }
        )

    return make


class Stubs:
    """Every service through one channel."""

    def __init__(self, channel, port):
        self.port = port
        self.channel = channel
        self.encoder = encoder_pb2_grpc.EncoderServiceStub(channel)
        self.compare = compare_pb2_grpc.CompareServiceStub(channel)
        self.attention = attention_pb2_grpc.AttentionServiceStub(channel)
        self.language_model = language_model_pb2_grpc.LanguageModelServiceStub(channel)
        self.senses = sense_pb2_grpc.SenseServiceStub(channel)
        self.collections = collection_pb2_grpc.CollectionServiceStub(channel)
        self.documents = document_pb2_grpc.DocumentServiceStub(channel)
        self.search = search_pb2_grpc.SearchServiceStub(channel)
        self.translation = translation_pb2_grpc.TranslationServiceStub(channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(channel)


@pytest.fixture(scope="session")
def serving(settings_with):
    """`async with serving(queue_texts_max=2) as stubs` runs a server of the test's own."""

    @contextlib.asynccontextmanager
    async def serve(**changes):
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        async with (
            running(settings_with(**changes)) as port,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel,
        ):
            yield Stubs(channel, port)

    return serve


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stubs(serving):
    """A server for all tests that leave it as it is. They need the session's event loop:
    `pytestmark = pytest.mark.asyncio(loop_scope="session")`."""
    async with serving() as everything:
        yield everything


class ServerProcess:
    """A real server in a process of its own, for what may kill it."""

    def __init__(self, model, directory, *arguments):
        self._log = directory / "server.log"
        with self._log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "server.command", "serve"),
                    *("--address", "127.0.0.1:0"),
                    *("--model", str(model), "--data", str(directory / "data")),
                    *arguments,
                ],
                stderr=stderr,
                env={k: v for k, v in os.environ.items() if not k.startswith("POLYSEME_")},
            )
        self.port = self._serving()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self.pid = self._process.pid

    def _serving(self):
        for _ in range(6000):
            whole = self._log.read_text().rpartition("\n")[0]  # the last line may be cut
            lines = [json.loads(line) for line in whole.splitlines()]
            if any(line["message"] == "serving" for line in lines):
                return next(line["port"] for line in lines if "port" in line)
            assert self.alive, self.last_lines()
            time.sleep(0.02)
        raise AssertionError("it does not serve")

    @property
    def alive(self):
        return self._process.poll() is None

    def errors(self):
        """The log's lines about our own bugs, and what gRPC and asyncio complain of."""
        whole = self._log.read_text().rpartition("\n")[0]  # the last line may be cut
        return [
            line
            for line in whole.splitlines()
            if not line.startswith("{") or json.loads(line)["level"] not in ("info", "warning")
        ]

    def last_lines(self):
        return "\n".join(self._log.read_text().splitlines()[-5:])

    def stop(self, within_s):
        """SIGTERM; gives the exit status."""
        self._process.terminate()
        return self._process.wait(within_s)

    def end(self):
        self.channel.close()
        self._process.kill()
        self._process.wait()


@pytest.fixture
def start_process(model_directory):
    """`start_process(directory, *arguments)`: one after the other on the same directory."""
    started = []

    def start(directory, *arguments, model=model_directory):
        started.append(ServerProcess(model, directory, *arguments))
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.fixture(scope="module")
def server_process(model_directory, tmp_path_factory):
    process = ServerProcess(model_directory, tmp_path_factory.mktemp("process"))
    yield process
    process.end()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*make.split(), *subject, *files], check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"
