"""The server as a process: signals, exit statuses, sentences on stderr."""

import asyncio
import gc
import os
import signal
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from encoder.manifest import ModelDamaged, ModelNotFound
from encoder.runtime import PrecisionMissing
from encoder.session import DeviceMissing
from index.errors import StoreError
from server.app import AddressUnavailable, Application
from server.auth import KeysUnreadable
from server.log import log, start_logging
from server.settings import Settings
from server.tls import TlsFilesUnreadable

# What an operator can mend; anything else is our bug and shows its stack.
EXPECTED = (
    AddressUnavailable,
    DeviceMissing,
    KeysUnreadable,
    ModelDamaged,
    ModelNotFound,
    PrecisionMissing,
    StoreError,
    TlsFilesUnreadable,
)

# A thread that comes back from the model waits so long for one that runs Python, such as a
# tokenizer's; by default 5 ms.
SWITCH_S = 0.001

INTERRUPTED = 130  # as shells have it for Ctrl-C


def serve(settings: Settings) -> int:
    """Serve until SIGTERM, SIGINT or Drain. The exit status: 0 after a graceful end, 1 when the
    server could not start; then one sentence on stderr says why."""
    start_logging(settings.log_level)
    sys.setswitchinterval(SWITCH_S)
    try:
        asyncio.run(_serve(settings))
    except EXPECTED as error:
        print(f"polyseme-server: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(settings: Settings) -> None:
    application = Application(settings)
    _on_signals(application)
    try:
        port = await application.start()
        fields = {"address": settings.address, "port": port, "pid": os.getpid()}
        log.info("listening", extra={"fields": fields})
        await application.load()
        # The model and the index stay for ever: the collector need not look at them again.
        gc.collect()
        gc.freeze()
        await application.stop_asked.wait()
    finally:
        await application.stop()
    log.info("stopped")


def _on_signals(application: Application) -> None:
    loop = asyncio.get_running_loop()

    def ask(number: int) -> None:
        if application.stop_asked.is_set() and number == signal.SIGINT:
            # A second Ctrl-C: the caller means it. What was answered OK is on the disk already.
            os._exit(INTERRUPTED)
        log.info("stopping", extra={"fields": {"signal": signal.Signals(number).name}})
        application.drain(application.grace_s)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask, number)


def healthcheck(address: str, timeout_s: float, tls_ca: Path | None) -> int:
    """0 if the server at `address` says SERVING within `timeout_s`, else 1 and a sentence."""
    with _channel(address, tls_ca) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            print(f"{address}: {error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    print(f"{address}: {status}")
    return 0 if reply.status == health_pb2.HealthCheckResponse.SERVING else 1


def _channel(address: str, tls_ca: Path | None) -> grpc.Channel:
    if tls_ca is None:
        return grpc.insecure_channel(address)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(tls_ca.read_bytes()))
