"""How do time and memory grow with the work?

    python bench/curves.py --model models/all-minilm-l6-v2 --vectors VECTORS.npy --out FOLDER
        [--curves length batch corpus callers footprint] [--largest 1000000] [--repeats 5]

Writes curves.json and one SVG a curve (both axes logarithmic), all through gRPC on loopback:

length     one text of 1 to 8,192 tokens, in windows where the model reads fewer
batch      1 to 4,096 short texts in one `embed`
corpus     search by vector in 1,000 to `--largest` documents
callers    1 to 512 callers, each with one short text at a time
footprint  start to first answer, memory before and after work, what pip installs (no plot)

Each point has the server's memory beside it, what is no copy of a file's: "server_mib".
"exponent" is the slope of the last decade: 1 is in proportion, above 1 is worse than that.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from html import escape
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from answering import memory
from service import machine, seconds, serving
from vectors import corpus_and_queries

from polyseme import Client, OwnVectors

CURVES = ("length", "batch", "corpus", "callers", "footprint")
LENGTHS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
CORPUS = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
CALLERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CALLS = 1_024  # of each point of "callers", at most
STARTS = 3  # of a server, of which the median counts
DISTRIBUTION = "polyseme-server"
SHORT = "The quick brown fox jumps over the lazy dog by the river."
MIB = 1024 * 1024


@dataclass
class Curve:
    """Points (x, y), and what else was seen at them."""

    name: str
    x_axis: str
    y_axis: str
    points: list[tuple[float, float]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    exponent: float = 0.0

    def add(self, x: float, y: float, **notes: Any) -> None:
        notes["server_mib"] = server_mib()[1]
        self.points.append((x, y))
        self.notes.append(notes)
        print(f"{self.name}: {self.x_axis} {x:,.0f}, {self.y_axis} {y:,.2f} {notes or ''}")

    def finished(self) -> Curve:
        last, _ = self.points[-1]
        tail = [(x, y) for x, y in self.points if x >= last / 10]
        if len(tail) > 1:
            (x0, y0), (x1, y1) = tail[0], tail[-1]
            self.exponent = math.log(y1 / y0) / math.log(x1 / x0)
        return self


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--vectors", type=Path, help="for the corpus curve")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--curves", nargs="*", default=list(CURVES), choices=CURVES)
    parser.add_argument("--largest", type=int, default=1_000_000, help="of the corpus, callers")
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    if "corpus" in chosen.curves and chosen.vectors is None:
        parser.error("the corpus curve wants --vectors")

    chosen.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": machine(), "model": chosen.model.name}
    if "footprint" in chosen.curves:
        starts = [footprint(chosen.model) for _ in range(STARTS)]
        found["footprint"] = {key: statistics.median(s[key] for s in starts) for key in starts[0]}
        found["footprint"]["installed_mib"] = installed_mib()
        print(found["footprint"])
    drawn = {"length": lengths, "batch": batches, "callers": callers}
    curves = []
    with tempfile.TemporaryDirectory(prefix="polyseme-bench-") as data:
        with serving(chosen.model, "int8", Path(data)) as client:
            client.embed([SHORT])
            for name, draw in drawn.items():
                if name in chosen.curves:
                    curves.append(draw(client, chosen.repeats, chosen.largest).finished())
        if "corpus" in chosen.curves:
            curves.append(corpus(chosen, Path(data)).finished())
    for curve in curves:
        (chosen.out / f"{curve.name}.svg").write_text(svg(curve))
        print(f"{curve.name}: exponent of the last decade {curve.exponent:.2f}")
    found["curves"] = [asdict(curve) for curve in curves]
    (chosen.out / "curves.json").write_text(json.dumps(found, indent=1))


def lengths(client: Client, repeats: int, largest: int) -> Curve:
    curve = Curve("length", "tokens of one text", "ms")
    for tokens in LENGTHS[: None if largest >= LENGTHS[-1] else -3]:
        text = " ".join(["dog"] * tokens)  # a token each, beside two special ones a window
        curve.add(tokens, typical_ms(lambda: client.embed([text], truncation="windows"), repeats))  # noqa: B023  called at once
    return curve


def batches(client: Client, repeats: int, largest: int) -> Curve:
    curve = Curve("batch", "texts in one embed", "ms")
    for size in BATCHES:
        if size > largest:
            break
        texts = [f"{SHORT} {number}" for number in range(size)]
        took = typical_ms(lambda: client.embed(texts), repeats)  # noqa: B023  called at once
        curve.add(size, took, texts_s=round(size / took * 1e3))
    return curve


def callers(client: Client, repeats: int, largest: int) -> Curve:
    curve = Curve("callers", "callers of one short text each", "ms, p50 of a call")
    for count in CALLERS:
        if count > largest:
            break
        calls = min(CALLS, max(2 * count, 10 * repeats))
        with ThreadPoolExecutor(count) as pool:
            began = time.perf_counter()
            ask = [lambda number=n: client.embed([f"{SHORT} {number}"]) for n in range(calls)]
            times = sorted(pool.map(seconds, ask))
            rate = calls / (time.perf_counter() - began)
        p99 = times[min(len(times) - 1, int(0.99 * len(times)))] * 1e3
        curve.add(count, statistics.median(times) * 1e3, p99_ms=round(p99, 2), texts_s=round(rate))
    return curve


def corpus(chosen: argparse.Namespace, data: Path) -> Curve:
    """One collection that grows; the index is ready before each point."""
    curve = Curve("corpus", "documents", "ms, p50 of a search by vector")
    sizes = [size for size in CORPUS if size <= chosen.largest]
    vectors, queries, _ = corpus_and_queries(chosen.vectors, sizes[-1])

    def documents(start: int, stop: int) -> Iterator[dict[str, Any]]:
        for row in range(start, stop):
            yield {"id": str(row), "text": f"number {row}", "vector": vectors[row]}

    with serving(chosen.model, "int8", data / "corpus") as client:
        own = OwnVectors(dimensions=vectors.shape[1])
        client.create_collection("bench", vectors=own)
        for before, size in pairwise([0, *sizes]):
            began = time.perf_counter()
            client.write("bench", documents(before, size), batch_documents=500)
            held = client.get_collection("bench").statistics
            while held.building or held.buffered > 5_000:
                time.sleep(0.2)
                held = client.get_collection("bench").statistics
            ready_s = time.perf_counter() - began
            times = [
                seconds(lambda: client.search("bench", query, ids_only=True))  # noqa: B023  at once
                for query in queries[: 20 * chosen.repeats]
            ]
            curve.add(size, statistics.median(times) * 1e3, ready_s=round(ready_s, 1))
    return curve


def footprint(model: Path) -> dict[str, float]:
    """Start to first answer, and the server's own memory."""
    began = time.perf_counter()
    with (
        tempfile.TemporaryDirectory(prefix="polyseme-bench-") as data,
        serving(model, "int8", Path(data)) as client,
    ):
        client.embed([SHORT])
        answered = time.perf_counter() - began
        idle, spent = server_mib(), sum(server_process().cpu_times()[:2])
        client.embed([f"{SHORT} {number}" for number in range(2_000)])
        busy = server_mib()
    return {
        "first_answer_s": round(answered, 2),
        "start_cpu_s": round(spent, 2),
        "idle_resident_mib": idle[0],
        "idle_own_mib": idle[1],
        "after_2000_texts_resident_mib": busy[0],
        "after_2000_texts_own_mib": busy[1],
    }


def installed_mib() -> int:
    """The files of everything that the server's distribution needs, itself not counted."""
    todo, seen, total = [DISTRIBUTION], set(), 0
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another machine
        places = [Path(str(file.locate())) for file in found.files or ()]
        total += sum(place.stat().st_size for place in places if place.is_file())
        needed = (line for line in found.requires or () if "extra ==" not in line)
        todo += [re.findall(r"[\w.-]+", line)[0] for line in needed]
    return round(total / MIB)


def server_process() -> Any:
    """The server that `serving` started last."""
    children = [child for child in psutil.Process().children() if "serve" in child.cmdline()]
    return children[-1]


def server_mib() -> tuple[int, int]:
    resident, own = memory(server_process().pid)
    return round(resident / MIB), round(own / MIB)


def typical_ms(work: Callable[[], object], repeats: int) -> float:
    work()
    return statistics.median(seconds(work) for _ in range(repeats)) * 1e3


# ---- plots

WIDTH, HEIGHT, MARGIN = 640, 360, 60
DECADES_MIN = 1


def svg(curve: Curve) -> str:
    """The points on two logarithmic axes, with a grey line of slope 1 through the last one."""
    x_low, x_high = decades([x for x, _ in curve.points])
    y_low, y_high = decades([y for _, y in curve.points])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_low) / (x_high - x_low)
        up = (math.log10(y) - y_low) / (y_high - y_low)
        return MARGIN + across * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for power in range(x_low, x_high + 1):
        x, _ = place(10.0**power, 10.0**y_low)
        parts.append(line([(x, MARGIN), (x, HEIGHT - MARGIN)], "#ddd"))
        parts.append(label(x, HEIGHT - MARGIN + 16, f"{10.0**power:,g}", "middle"))
    for power in range(y_low, y_high + 1):
        _, y = place(10.0**x_low, 10.0**power)
        parts.append(line([(MARGIN, y), (WIDTH - MARGIN, y)], "#ddd"))
        parts.append(label(MARGIN - 6, y + 4, f"{10.0**power:,g}", "end"))
    last_x, last_y = curve.points[-1]
    share = max(10.0**x_low / last_x, 10.0**y_low / last_y)
    ideal = [place(last_x * share, last_y * share), place(last_x, last_y)]
    parts.append(line(ideal, "#999", dashed=True))
    places = [place(x, y) for x, y in curve.points]
    parts.append(line(places, "#06c"))
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#06c"/>' for x, y in places]
    parts.append(label(WIDTH / 2, HEIGHT - 16, curve.x_axis, "middle"))
    parts.append(label(MARGIN, MARGIN - 16, f"{curve.y_axis} (dashed: in proportion)", "start"))
    return "\n".join([*parts, "</svg>\n"])


def decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + DECADES_MIN)


def line(points: Sequence[tuple[float, float]], color: str, *, dashed: bool = False) -> str:
    listed = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<polyline points="{listed}" fill="none" stroke="{color}"{dashes}/>'


def label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


if __name__ == "__main__":
    main()
