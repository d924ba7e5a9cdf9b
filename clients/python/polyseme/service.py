"""The server itself: its limits and models, its counters, its health."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from google.protobuf import wrappers_pb2

from polyseme import methods
from polyseme.errors import DeadlineExceeded, PolysemeError, Unavailable
from polyseme.plans import Plan, Sleep, call
from polyseme.retry import Budget, Retry, unavailable
from polyseme.v1 import admin_pb2
from polyseme.vectors import Fingerprint, check_fields, fingerprint_from

Health = Literal["unknown", "serving", "not serving"]
_HEALTH: dict[int, Health] = {1: "serving", 2: "not serving"}
HEALTH_TIMEOUT_S = 2.0
HEALTH_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the server takes in one call."""

    message_bytes_max: int
    inputs_max: int
    call_tokens_max: int
    text_bytes_max: int
    spans_max: int
    k_max: int
    page_size_max: int
    filter_depth_max: int
    filter_terms_max: int
    documents_max: int
    metadata_bytes_max: int
    queue_texts_max: int
    id_bytes_max: int
    attention_cells_max: int
    masks_max: int
    beams_max: int
    translation_tokens_max: int
    senses_max: int
    hits_max: int  # of one call, all its queries together; 0 from servers that have no such limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that the server has loaded."""

    name: str
    fingerprint: Fingerprint  # of its vectors with default options
    tokens_max: int  # its longest input, special tokens included
    dimensions: int
    matryoshka_dimensions: tuple[int, ...]  # shorter lengths that it was trained for
    layers: int
    word_layers: tuple[int, ...]  # what `words` averages by default
    prompts: Mapping[str, str]
    exact: bool  # whether the same text gives the same bytes whatever its neighbours
    cosine_distance_max: float  # if not exact: the bound on 1 - cosine; 0 if not measured
    device: str  # "cpu" or "cuda"
    sense_layers: tuple[int, ...]  # what words' vectors of the space "sense" average
    sense_whitened: bool  # whether a whitening that ships with the model evens them out
    sense_fingerprint: Fingerprint  # what such vectors, and sense inventories, carry

    @property
    def sense_dimensions(self) -> int:
        """Length of words' vectors of the space "sense"."""
        return self.sense_fingerprint.dimensions


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What the server is."""

    version: str
    api_version: str
    limits: Limits
    models: tuple[Model, ...]  # the first is the default
    build: Mapping[str, str]  # versions of what it is built on
    start_time: datetime
    draining: bool

    @property
    def model(self) -> Model:
        """The default model."""
        return self.models[0]


@dataclass(frozen=True, slots=True)
class MethodStatistics:
    """Counters of one RPC since the server started."""

    calls: Mapping[str, int]  # ended, by status code
    seconds_total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """How the server fares: counters since its start."""

    uptime_s: float
    methods: Mapping[str, MethodStatistics]  # by path
    queue_texts: int  # waiting now
    batches: int
    texts: int
    tokens: int
    padding_tokens: int
    abandoned_texts: int
    resident_bytes: int
    collections: int
    documents: int


def info(budget: Budget) -> Plan[ServerInfo]:
    """What the server is."""
    answer = yield from call(budget, methods.GET_SERVER_INFO, admin_pb2.GetServerInfoRequest())
    return _info_from(answer)


def known_info(budget: Budget) -> Plan[ServerInfo]:
    """What the server is, asked once per client: its limits change only with its settings."""
    if budget.known.info is None:
        budget.known.info = yield from info(budget)
    return budget.known.info


def statistics(budget: Budget) -> Plan[Statistics]:
    """How the server fares."""
    request = admin_pb2.GetStatisticsRequest()
    a = yield from call(budget, methods.GET_STATISTICS, request)
    return Statistics(
        uptime_s=a.uptime.ToTimedelta().total_seconds(),
        methods={m.method: MethodStatistics(dict(m.calls), m.seconds_total) for m in a.methods},
        queue_texts=a.queue_texts,
        batches=a.batches,
        texts=a.texts,
        tokens=a.tokens,
        padding_tokens=a.padding_tokens,
        abandoned_texts=a.abandoned_texts,
        resident_bytes=a.resident_bytes,
        collections=a.collections,
        documents=a.documents,
    )


def drain(budget: Budget, *, grace_s: float | None) -> Plan[int]:
    """Send the server home; the result is how many calls still run."""
    request = admin_pb2.DrainRequest()
    if grace_s is not None:
        request.grace.FromTimedelta(timedelta(seconds=grace_s))
    answer = yield from call(budget, methods.DRAIN, request)
    return answer.calls_running


def health(budget: Budget, *, service: str = "") -> Plan[Health]:
    """Whether the server, or one of its services, takes calls."""
    check_fields(service=service)
    request = wrappers_pb2.StringValue(value=service)
    answer = yield from call(budget, methods.HEALTH_CHECK, request)
    return _HEALTH.get(answer.value, "unknown")


def wait_until_serving(budget: Budget) -> Plan[None]:
    """Ask for the health until it is `serving`. Raises what was wrong last when time is up."""
    once = Budget(
        request_timeout_s=HEALTH_TIMEOUT_S, retry=Retry(attempts_max=1), known=budget.known
    )
    deadline = budget.request_deadline()
    while True:
        try:
            if (state := (yield from health(once))) == "serving":
                return
            error: PolysemeError = unavailable(f"the server is {state}")
        except (Unavailable, DeadlineExceeded) as failure:
            error = failure
        if budget.now() + HEALTH_PAUSE_S > deadline:
            raise error
        yield Sleep(HEALTH_PAUSE_S)


def _info_from(answer: admin_pb2.GetServerInfoResponse) -> ServerInfo:
    return ServerInfo(
        version=answer.version,
        api_version=answer.api_version,
        limits=_limits_from(answer.limits),
        models=tuple(_model_from(m) for m in answer.models),
        build=dict(answer.build),
        start_time=answer.start_time.ToDatetime(tzinfo=UTC),
        draining=answer.draining,
    )


def _limits_from(limits: admin_pb2.Limits) -> Limits:
    return Limits(
        message_bytes_max=limits.message_bytes_max,
        inputs_max=limits.inputs_max,
        call_tokens_max=limits.call_tokens_max,
        text_bytes_max=limits.text_bytes_max,
        spans_max=limits.spans_max,
        k_max=limits.k_max,
        page_size_max=limits.page_size_max,
        filter_depth_max=limits.filter_depth_max,
        filter_terms_max=limits.filter_terms_max,
        documents_max=limits.documents_max,
        metadata_bytes_max=limits.metadata_bytes_max,
        queue_texts_max=limits.queue_texts_max,
        id_bytes_max=limits.id_bytes_max,
        attention_cells_max=limits.attention_cells_max,
        masks_max=limits.masks_max,
        beams_max=limits.beams_max,
        translation_tokens_max=limits.translation_tokens_max,
        senses_max=limits.senses_max,
        hits_max=limits.hits_max,
    )


def _model_from(model: admin_pb2.Model) -> Model:
    return Model(
        name=model.name,
        fingerprint=fingerprint_from(model.fingerprint),
        tokens_max=model.tokens_max,
        dimensions=model.dimensions,
        matryoshka_dimensions=tuple(model.matryoshka_dimensions),
        layers=model.layers,
        word_layers=tuple(model.word_layers),
        prompts=dict(model.prompts),
        exact=model.reproducibility.exact,
        cosine_distance_max=model.reproducibility.cosine_distance_max,
        device=model.device,
        sense_layers=tuple(model.sense_vectors.layers),
        sense_whitened=model.sense_vectors.whitened,
        sense_fingerprint=fingerprint_from(model.sense_vectors.fingerprint),
    )
