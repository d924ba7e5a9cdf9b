"""What the server is, how it fares, and how to send it home."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from encoder.manifest import Precision
from encoder.runtime import Encoder
from encoder.words import SubwordPooling
from index.store import Store
from polyseme.v1 import admin_pb2, admin_pb2_grpc
from server.admission import Admission
from server.embedder import Embedder
from server.errors import RequestInvalid
from server.limits import limits_to
from server.messages import fingerprint_to
from server.metrics import Metrics, resident_bytes
from server.settings import Settings
from server.threads import in_thread
from server.version import API_VERSION, server_version, versions

DURATION_S_MAX = 315_576_000_000  # of any google.protobuf.Duration: ten thousand years


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What AdminService knows of the process that it runs in."""

    metrics: Metrics
    admission: Admission
    started: datetime
    drain: Callable[[float], None]  # with the seconds that running calls get


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    def __init__(
        self,
        embedder: Embedder,
        store: Store,
        settings: Settings,
        executor: Executor,
        process: Process,
    ) -> None:
        self._embedder = embedder
        self._store = store
        self._settings = settings
        self._executor = executor
        self._process = process

    async def GetServerInfo(
        self, request: admin_pb2.GetServerInfoRequest, context: object
    ) -> admin_pb2.GetServerInfoResponse:
        started = Timestamp()
        started.FromDatetime(self._process.started)
        return admin_pb2.GetServerInfoResponse(
            version=server_version(),
            api_version=API_VERSION,
            limits=limits_to(self._settings),
            models=[model_to(self._embedder.encoder, self._settings.device)],
            build=versions(),
            start_time=started,
            draining=self._process.admission.draining,
        )

    async def GetStatistics(
        self, request: admin_pb2.GetStatisticsRequest, context: object
    ) -> admin_pb2.GetStatisticsResponse:
        metrics, totals = self._process.metrics, self._process.metrics.batches
        uptime = Duration()
        uptime.FromTimedelta(datetime.now(UTC) - self._process.started)
        counts = await in_thread(self._executor, self._documents)
        return admin_pb2.GetStatisticsResponse(
            uptime=uptime,
            methods=[
                admin_pb2.MethodStatistics(
                    method=method, calls=ended.calls, seconds_total=ended.seconds
                )
                for method, ended in sorted(metrics.methods.items())
            ],
            queue_texts=self._embedder.batcher.waiting,
            batches=totals.batches,
            texts=totals.texts,
            tokens=totals.tokens,
            padding_tokens=totals.padding_tokens,
            abandoned_texts=self._embedder.batcher.abandoned,
            resident_bytes=resident_bytes(),
            collections=len(counts),
            documents=sum(counts),
        )

    async def Drain(
        self, request: admin_pb2.DrainRequest, context: object
    ) -> admin_pb2.DrainResponse:
        grace_s = self._settings.shutdown_grace_s
        if request.HasField("grace"):
            grace_s = request.grace.seconds + request.grace.nanos / 1e9
        if not 0 <= grace_s <= DURATION_S_MAX:
            raise RequestInvalid("grace", f"{grace_s:g} s is not within 0 to {DURATION_S_MAX}")
        self._process.drain(grace_s)
        others = self._process.admission.running - 1  # this call is one of the running
        return admin_pb2.DrainResponse(calls_running=others)

    def _documents(self) -> list[int]:
        """Documents of each collection."""
        return [collection.documents_count for collection in self._store.list()]


def model_to(encoder: Encoder, device: str) -> admin_pb2.Model:
    choices = [length for length in encoder.dimensions_choices if length != encoder.width]
    return admin_pb2.Model(
        name=encoder.name,
        fingerprint=fingerprint_to(
            encoder.fingerprint(
                pooling=encoder.pooling, prompt="", dimensions=encoder.width, normalized=True
            )
        ),
        tokens_max=encoder.tokens_max,
        dimensions=encoder.width,
        matryoshka_dimensions=choices,
        layers=encoder.layers,
        word_layers=encoder.word_layers,
        prompts=dict(encoder.prompts),
        # What tests/encoder shows to the byte, and no more: nobody has measured fp16, nor a GPU.
        reproducibility=admin_pb2.Reproducibility(
            exact=device == "cpu" and encoder.precision in (Precision.FP32, Precision.INT8)
        ),
        device=device,
        sense_vectors=admin_pb2.SenseVectors(
            fingerprint=fingerprint_to(encoder.sense_fingerprint(SubwordPooling.MEAN)),
            layers=encoder.sense_space.layers,
            whitened=encoder.sense_space.whitening is not None,
        ),
    )
