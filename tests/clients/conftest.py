"""What the client's tests share: a real server for what it does, a scripted one for the network."""

import asyncio
import contextlib
import io
import os
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from polyseme import Client
from polyseme.cli import app as cli

PACKAGE = Path(cli.__file__).parents[2]


@pytest.fixture(scope="session")
def start_server(request, tmp_path_factory):
    """`with start_server(inputs_max=8) as address` runs a real server beside the test."""
    from server.app import running
    from server.settings import Settings

    @contextlib.contextmanager
    def start(**changes):
        if "model" not in changes:  # nobody waits for a model that no test wants
            changes["model"] = request.getfixturevalue("model_directory")
        settings = Settings(
            **{
                "address": "127.0.0.1:0",
                "data": tmp_path_factory.mktemp("data"),
                "precision": "fp32",
                "shutdown_grace_s": 2.0,
                "log_level": "warning",
                **changes,
            }
        )
        ready, stop = threading.Event(), asyncio.Event()
        ports, loops = [], []

        async def serve():
            loops.append(asyncio.get_running_loop())
            async with running(settings) as port:
                ports.append(port)
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        assert ready.wait(60), "the server did not start"
        yield f"127.0.0.1:{ports[0]}"
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(30)

    return start


@pytest.fixture(scope="session")
def server_address(start_server):
    """A server for all tests that leave it usable."""
    with start_server() as address:
        with Client(address) as client:
            client.wait_until_serving(timeout_s=60)
        yield address


@pytest.fixture(scope="session")
def small_server_address(start_server):
    """A server whose limits a short input reaches."""
    limits = {"inputs_max": 4, "call_tokens_max": 2048, "documents_max": 3, "page_size_max": 2}
    with start_server(**limits) as address:
        with Client(address) as client:
            client.wait_until_serving(timeout_s=60)
        yield address


@pytest.fixture
def client(server_address):
    with Client(server_address) as client:
        yield client


@pytest.fixture
def collection(client):
    """A collection of the test's own."""
    name = f"c-{uuid.uuid4().hex[:12]}"
    client.create_collection(name)
    yield name
    client.delete_collection(name)


@pytest.fixture
def environment(server_address, tmp_path):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("POLYSEME_")}
    return {
        **kept,
        "POLYSEME_SERVER": server_address,
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "PYTHONPATH": str(PACKAGE),
    }


@pytest.fixture
def polyseme(environment, capfd, monkeypatch):
    """Run the command in this process, which spares its start; returns (status, out, err)."""

    def run(*args, stdin=None, **changes):
        for key, value in {**environment, **changes}.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setattr(sys, "argv", ["polyseme", *map(str, args)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        status = cli.run()
        out, err = capfd.readouterr()
        return status, out, err

    return run


class Scripted(grpc.GenericRpcHandler):
    """Answers each path by a function of (request, context), or of (requests, context)."""

    def __init__(self, unary, streams):
        self._unary = unary
        self._streams = streams
        self.calls = []

    def service(self, handler_call_details):
        path = handler_call_details.method.rpartition("/")[2]
        self.calls.append((path, dict(handler_call_details.invocation_metadata)))
        if path in self._streams:
            method, answer = self._streams[path]
            return grpc.stream_stream_rpc_method_handler(
                answer, method.request.FromString, method.answer.SerializeToString
            )
        if path in self._unary:
            method, answer = self._unary[path]
            return grpc.unary_unary_rpc_method_handler(
                answer, method.request.FromString, method.answer.SerializeToString
            )
        return None


@pytest.fixture
def scripted():
    """`with scripted(unary, streams) as (address, handler)`: a server that does as told."""

    @contextlib.contextmanager
    def start(unary=(), streams=()):
        handler = Scripted(dict(unary), dict(streams))
        server = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}", handler
        finally:
            server.stop(0).wait()

    return start
