"""The server put together: bind, load, serve, go home. The only place where parts meet."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection

from encoder.runtime import Encoder, Graph, Precision
from encoder.translation import Translator
from encoder.translation_manifest import has_translator
from index.store import Store
from polyseme.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    attention_pb2,
    attention_pb2_grpc,
    collection_pb2,
    collection_pb2_grpc,
    compare_pb2,
    compare_pb2_grpc,
    document_pb2,
    document_pb2_grpc,
    encoder_pb2,
    encoder_pb2_grpc,
    language_model_pb2,
    language_model_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
    sense_pb2,
    sense_pb2_grpc,
    translation_pb2,
    translation_pb2_grpc,
)
from server.admission import Admission
from server.auth import ApiKeys
from server.embedder import Embedder
from server.health import Health
from server.http import application, http_side
from server.interceptors import Interceptor
from server.log import log
from server.metrics import Metrics
from server.routes import Register, Routes
from server.services.admin import AdminService, Process
from server.services.attention import AttentionService
from server.services.collection import CollectionService
from server.services.compare import CompareService
from server.services.document import DocumentService
from server.services.encoder import EncoderService
from server.services.language_model import LanguageModelService
from server.services.search import SearchService
from server.services.sense import SenseService
from server.services.translation import TranslationService
from server.settings import Settings
from server.storage import store_settings
from server.tls import server_credentials
from server.translating import Translating

_DESCRIPTORS = tuple(
    service
    for module in (
        encoder_pb2,
        compare_pb2,
        attention_pb2,
        language_model_pb2,
        translation_pb2,
        sense_pb2,
        collection_pb2,
        document_pb2,
        search_pb2,
        admin_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
)
SERVICES: tuple[str, ...] = tuple(service.full_name for service in _DESCRIPTORS)
METHODS = frozenset(
    f"/{service.full_name}/{method.name}" for service in _DESCRIPTORS for method in service.methods
)
# Services that need more of a model than vectors.
NEEDS = {
    "polyseme.v1.AttentionService": Graph.ATTENTION,
    "polyseme.v1.LanguageModelService": Graph.FILL,
}
TRANSLATION = "polyseme.v1.TranslationService"

KEEPALIVE_S = 60  # a peer that vanished without a word is found out after so long
PING_S_MIN = 10  # peers that ping more often are cut off

# Calls that came while the last ones ended are being refused; cut off, their callers would see
# CANCELLED, which says nothing of coming back. A server without calls does not wait for it.
REFUSALS_S = 3.0


class AddressUnavailable(OSError):
    """The address is in use, or not one of this machine's."""


class Application:
    """One server from its first moment to its last: `start`, `load`, `stop`, in this order."""

    def __init__(self, settings: Settings) -> None:
        """Raises KeysUnreadable."""
        self._settings = settings
        self._metrics = Metrics()
        keys = ApiKeys.read(settings.api_keys) if settings.api_keys else None
        self._admission = Admission(
            calls_max=settings.calls_max, streams_max=settings.streams_max, keys=keys
        )
        interceptor = Interceptor(
            self._admission,
            self._metrics,
            message_bytes_max=settings.message_bytes_max,
            stream_idle_s_max=settings.stream_idle_s_max,
        )
        self._routes = Routes(METHODS, interceptor)
        self._health = Health(SERVICES)
        self._server = grpc.aio.server(options=grpc_options(settings))
        self._executor = ThreadPoolExecutor(settings.search_workers, thread_name_prefix="index")
        # One, and not one of those: a few checks and restores would keep every search waiting.
        self._maintenance = ThreadPoolExecutor(1, thread_name_prefix="maintenance")
        self._closing = contextlib.AsyncExitStack()  # what `load` opened, closed by `stop`
        self._started = datetime.now(UTC)
        self._tasks: set[asyncio.Task[None]] = set()
        self.stop_asked = asyncio.Event()
        self.grace_s = settings.shutdown_grace_s
        self.http_port: int | None = None

    async def start(self) -> int:
        """Bind and answer: health says NOT_SERVING, calls get UNAVAILABLE. Gives the port.

        Raises AddressUnavailable, TlsFilesUnreadable.
        """
        await self._health.register(self._server)
        reflection.enable_server_reflection(
            (*SERVICES, "grpc.health.v1.Health", reflection.SERVICE_NAME), self._server
        )
        self._server.add_generic_rpc_handlers((self._routes,))
        port = self._bind()
        await self._server.start()
        if self._settings.http_address:
            await self._start_http(self._settings.http_address)
        return port

    async def load(self) -> None:
        """Open the data directory, load and warm the model, begin to serve.

        Raises what encoder.runtime.Encoder.load and index.store.Store.open raise.
        """
        store = await asyncio.to_thread(
            Store.open, self._settings.data, store_settings(self._settings)
        )
        self._closing.push_async_callback(asyncio.to_thread, store.close)
        # Before the store: a call that was cut off may still be in its thread.
        for executor in (self._executor, self._maintenance):
            self._closing.push_async_callback(asyncio.to_thread, executor.shutdown)
        encoder = await asyncio.to_thread(self._load_encoder)
        embedder = Embedder(encoder, self._settings, self._metrics.batch)
        self._closing.push_async_callback(embedder.close)
        await asyncio.to_thread(embedder.warm_up)
        translating = await self._load_translating()
        sources = self._metrics.sources
        sources.queue_texts = lambda: embedder.batcher.waiting
        sources.abandoned_texts = lambda: embedder.batcher.abandoned
        sources.calls_running = lambda: self._admission.running
        for register, servicer in self._servicers(embedder, translating, store):
            self._routes.add(register, servicer)
        lacking = [name for name, graph in NEEDS.items() if graph not in encoder.graphs]
        self._health.lacks([*lacking, *([] if translating else [TRANSLATION])])
        if not self._admission.draining:
            self._admission.ready = True
            await self._health.set(serving=True)
            log.info("serving", extra={"fields": {"model": encoder.name}})

    def drain(self, grace_s: float) -> None:
        """Refuse new calls from now on, and ask for `stop`."""
        self._admission.drain()
        self.grace_s = grace_s
        task = asyncio.get_running_loop().create_task(self._health.set(serving=False))
        self._tasks.add(task)  # the loop alone would let it be collected
        task.add_done_callback(self._tasks.discard)
        self.stop_asked.set()

    async def stop(self) -> None:
        """Let running calls finish within the grace period, then close everything."""
        self.drain(self.grace_s)
        await self._admission.idle(self.grace_s)
        if self._admission.running:
            fields = {"calls": self._admission.running, "grace_s": self.grace_s}
            log.warning("calls are cut off", extra={"fields": fields})
        await self._server.stop(grace=REFUSALS_S if self._admission.running == 0 else 0)
        await self._closing.aclose()

    def _bind(self) -> int:
        address, settings = self._settings.address, self._settings
        credentials = server_credentials(settings)
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as error:  # all that gRPC says of any cause
            raise AddressUnavailable(
                f"cannot listen on {address}: another process may have it, or it is not an "
                "address of this machine"
            ) from error

    async def _start_http(self, address: str) -> None:
        app = application(self._metrics, lambda: self._admission.serving)
        try:
            self.http_port = await self._closing.enter_async_context(http_side(address, app))
        except OSError as error:
            raise AddressUnavailable(f"cannot listen on {address} for HTTP: {error}") from error

    def _load_encoder(self) -> Encoder:
        settings = self._settings
        return Encoder.load(
            settings.model,
            precision=Precision(settings.precision),
            threads=settings.threads,
            device=settings.device,
        )

    async def _load_translating(self) -> Translating | None:
        """The door to the translator, if there is one. Raises what Translator.load raises."""
        settings = self._settings
        directory = settings.translation_model or settings.model
        if settings.translation_model is None and not has_translator(directory):
            return None
        load = partial(
            Translator.load,
            directory,
            precision=Precision(settings.precision),
            device=settings.device,
        )
        translating = Translating(await asyncio.to_thread(load), settings)
        self._closing.push_async_callback(translating.close)
        return translating

    def _servicers(
        self, embedder: Embedder, translating: Translating | None, store: Store
    ) -> Sequence[tuple[Register, Any]]:
        settings, executor = self._settings, self._executor
        process = Process(
            metrics=self._metrics,
            admission=self._admission,
            started=self._started,
            drain=self.drain,
        )
        data = (embedder, store, settings, executor)
        return [
            (
                encoder_pb2_grpc.add_EncoderServiceServicer_to_server,
                EncoderService(embedder, settings),
            ),
            (
                compare_pb2_grpc.add_CompareServiceServicer_to_server,
                CompareService(embedder, settings),
            ),
            (
                attention_pb2_grpc.add_AttentionServiceServicer_to_server,
                AttentionService(embedder, settings),
            ),
            (
                language_model_pb2_grpc.add_LanguageModelServiceServicer_to_server,
                LanguageModelService(embedder, settings),
            ),
            (sense_pb2_grpc.add_SenseServiceServicer_to_server, SenseService(embedder, settings)),
            (
                translation_pb2_grpc.add_TranslationServiceServicer_to_server,
                TranslationService(translating, settings),
            ),
            (
                collection_pb2_grpc.add_CollectionServiceServicer_to_server,
                CollectionService(*data, self._maintenance),
            ),
            (document_pb2_grpc.add_DocumentServiceServicer_to_server, DocumentService(*data)),
            (
                search_pb2_grpc.add_SearchServiceServicer_to_server,
                SearchService(*data, translating),
            ),
            (admin_pb2_grpc.add_AdminServiceServicer_to_server, AdminService(*data, process)),
        ]


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[int]:
    """A server that is loaded and serves; gives the port. Exactly what production runs."""
    application = Application(settings)
    try:
        port = await application.start()
        await application.load()
        yield port
    finally:
        await application.stop()


def grpc_options(settings: Settings) -> list[tuple[str, int]]:
    calls_max = settings.calls_max + settings.streams_max
    return [
        # A second server on the same port shall fail instead of taking half of the calls.
        ("grpc.so_reuseport", 0),
        # Our own check of outgoing messages speaks before gRPC's; 1 KiB is for its framing.
        ("grpc.max_receive_message_length", settings.message_bytes_max),
        ("grpc.max_send_message_length", settings.message_bytes_max + 1024),
        ("grpc.max_concurrent_streams", calls_max),
        # Of a burst that the event loop has not met yet gRPC would cancel what goes beyond 1,000,
        # which says nothing of coming back; our own limits speak instead.
        ("grpc.server.max_pending_requests", calls_max),
        ("grpc.server.max_pending_requests_hard_limit", 2 * calls_max),
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_S * 1000 // 3),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_S_MIN * 1000),
    ]
