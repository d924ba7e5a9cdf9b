"""The HTTP side in the same process and loop: /metrics and /healthz."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from server.metrics import Metrics
from server.settings import host_and_port


def application(metrics: Metrics, is_serving: Callable[[], bool]) -> Starlette:
    async def metrics_page(request: Request) -> Response:
        return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)

    async def healthz(request: Request) -> Response:
        if is_serving():
            return PlainTextResponse("serving\n")
        return PlainTextResponse("not serving\n", status_code=503)

    return Starlette(routes=[Route("/metrics", metrics_page), Route("/healthz", healthz)])


@contextlib.asynccontextmanager
async def http_side(address: str, app: Starlette) -> AsyncIterator[int]:
    """Serve `app` on `address`; gives the port. Raises OSError if the address cannot be had."""
    host, port = host_and_port(address)
    listening = _listen(host, port)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2
    )
    server = _Uvicorn(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


class _Uvicorn(uvicorn.Server):
    """Signals are the whole process's business, not uvicorn's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    return listening
