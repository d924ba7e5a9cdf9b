"""Counters since the start, for Prometheus and for GetStatistics."""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from server.batcher import BatchReport

# From a hit in the tokenizer's cache of luck to a bulk call of a minute.
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(slots=True)
class MethodTotals:
    """Calls of one method that ended, by the name of their status code."""

    calls: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass(slots=True)
class BatchTotals:
    """What went through the model."""

    batches: int = 0
    texts: int = 0
    tokens: int = 0
    padding_tokens: int = 0
    compute_s: float = 0.0


@dataclass(slots=True)
class Sources:
    """Numbers that others keep; read when somebody asks."""

    queue_texts: Callable[[], int] = lambda: 0
    abandoned_texts: Callable[[], int] = lambda: 0
    calls_running: Callable[[], int] = lambda: 0


class Metrics(Collector):
    """One process's counters. `batch` may be called from any thread, the rest from the loop."""

    def __init__(self) -> None:
        self.methods: dict[str, MethodTotals] = {}
        self.batches = BatchTotals()
        self.sources = Sources()
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._call_seconds = prometheus_client.Histogram(
            "polyseme_call_seconds",
            "Duration of calls",
            ["method"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._batch_texts = prometheus_client.Histogram(
            "polyseme_batch_texts", "Texts in a model call", buckets=TEXTS, registry=self._registry
        )
        self._batch_seconds = prometheus_client.Histogram(
            "polyseme_batch_seconds",
            "Duration of a model call",
            buckets=SECONDS,
            registry=self._registry,
        )
        self._registry.register(self)

    def call_ended(self, method: str, code: str, seconds: float) -> None:
        totals = self.methods.get(method)
        if totals is None:
            totals = self.methods[method] = MethodTotals()
        totals.calls[code] += 1
        totals.seconds += seconds
        self._call_seconds.labels(method).observe(seconds)

    def batch(self, report: BatchReport) -> None:
        with self._lock:
            totals = self.batches
            totals.batches += 1
            totals.texts += report.texts
            totals.tokens += report.tokens
            totals.padding_tokens += report.padding_tokens
            totals.compute_s += report.compute_s
        self._batch_texts.observe(report.texts)
        self._batch_seconds.observe(report.compute_s)

    def page(self) -> bytes:
        """Everything in Prometheus' text format."""
        return prometheus_client.generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        calls = CounterMetricFamily("polyseme_calls", "Calls ended", labels=["method", "code"])
        for method, totals in self.methods.items():
            for code, count in totals.calls.items():
                calls.add_metric([method, code], count)
        yield calls
        for name, text, value in self._counters():
            yield CounterMetricFamily(f"polyseme_{name}", text, value=value)
        for name, text, number in self._gauges():
            yield GaugeMetricFamily(f"polyseme_{name}", text, value=number)

    def _counters(self) -> list[tuple[str, str, float]]:
        totals = self.batches
        return [
            ("texts", "Texts (windows of long ones) computed", totals.texts),
            ("tokens", "Tokens computed; their rate is tokens per second", totals.tokens),
            ("padding_tokens", "Padding computed beside them", totals.padding_tokens),
            ("compute_seconds", "Time inside the model, of all its calls", totals.compute_s),
            (
                "abandoned_texts",
                "Texts whose caller had gone before the model saw them",
                self.sources.abandoned_texts(),
            ),
        ]

    def _gauges(self) -> list[tuple[str, str, float]]:
        return [
            ("queue_texts", "Texts waiting for the model", self.sources.queue_texts()),
            ("calls_running", "Calls running", self.sources.calls_running()),
            ("resident_bytes", "Resident memory of the process", resident_bytes()),
        ]


def resident_bytes() -> int:
    """Memory of this process that is in RAM; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return _resident_peak_bytes()
    pages = int(statm.read_text("ascii").split()[1])
    return pages * _page_bytes()


def _page_bytes() -> int:
    import resource  # noqa: PLC0415  Unix only

    return resource.getpagesize()


def _resident_peak_bytes() -> int:
    """The best that macOS tells without another library: the peak, in bytes there."""
    if sys.platform != "darwin":
        return 0
    import resource  # noqa: PLC0415  Unix only

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
