"""How quickly, and how rightly, are the nearest vectors found?

    python bench/search.py --model models/all-minilm-l6-v2 --texts FILE --vectors VECTORS.npy \\
        [--documents 100000] [--peers /tmp/peers/bin/python] [--engines FAISS ...] [--rounds 5]
        [--seconds 3] [--json FILE]

VECTORS.npy is what bench/service.py keeps in its cache: vectors of MiniLM in the order of FILE's
texts. Where `--documents` asks for more than there are, the rest is mixed of them
(bench/vectors.py). The service is asked through gRPC, by vector, as it comes; peers are asked in
process, at the least effort (efSearch, probes) that reaches recall@10 of .99, or at their best.
They take turns; the median of the rounds counts, ± half the range between quartiles. A peer's round
ends after `--seconds`, answered or not. Client and server share the machine's cores: read ratios.
"CPU" is processor time a query, of the server or of the peer's process, in batches of 64;
"bytes/vector" what the process grew by, and what of it is no copy of a file's; the service's build
has in it that everything is durable and can be searched by its words too.

Then filters, hybrid search (the first words of a text beside its vector), and how soon a new server
on the same data gives its first answer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
from answering import memory
from numpy.typing import NDArray
from service import connected, listening, machine, read_texts, seconds, serving, spread_of
from vectors import Vectors, corpus_and_queries, recall, truth
from workers import Worker, worker

from polyseme import Client, OwnVectors
from polyseme.filters import Field

WORKER = Path(__file__).with_name("search_worker.py")
PEERS = ("FAISS", "hnswlib", "usearch", "LanceDB", "Chroma", "Milvus Lite")
K = 10
BATCH = 64
CALLERS = 16
RECALL = 0.99
QUERY_WORDS = 6  # of a hybrid search
WAYS = {  # name → queries a call, callers
    "1 caller": (1, 1),
    f"{CALLERS} callers": (1, CALLERS),
    f"batches of {BATCH}": (BATCH, 1),
    f"batches, {CALLERS} callers": (BATCH // 4, CALLERS),
}
SELECTIVITIES = (1, 10, 50)  # percent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--peers", default=sys.executable, help="Python that has the peers")
    parser.add_argument("--engines", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="the longest round of a peer")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    chosen = parser.parse_args()

    corpus, queries, origin = corpus_and_queries(chosen.vectors, chosen.documents)
    texts = read_texts(chosen.texts, len(np.load(chosen.vectors, mmap_mode="r")))
    with tempfile.TemporaryDirectory(prefix="polyseme-bench-") as place:
        folder = Path(place)
        np.save(folder / "corpus.npy", corpus)
        np.save(folder / "queries.npy", queries)
        with ExitStack() as stack:
            client = stack.enter_context(serving(chosen.model, "int8", folder / "data"))
            service = Service(client, corpus, queries, texts)
            ways: list[Way] = [service]
            for name in chosen.engines:
                python = sys.executable if name == "FAISS" else chosen.peers
                started = worker(python, WORKER, name, str(folder / "corpus.npy"))
                ways.append(Peer(stack.enter_context(started), folder, chosen.seconds))
            true = truth(corpus, queries, K)
            for way in ways:
                way.build()
                way.settle(true)
                print(f"{way.name}: {way.missing or way.facts}", file=sys.stderr)
            measure(ways, chosen.rounds)
            extras = {"filtered": service.filtered(chosen.rounds), "hybrid": service.hybrid()}
        extras["first_answer_s"] = first_answer_s(chosen.model, folder / "data", queries[0])
    rows = [way.figures() for way in ways]
    print(f"{machine()}; {origin}; {chosen.rounds} rounds")
    print(table(rows))
    print(extra_table(extras))
    if chosen.json:
        chosen.json.write_text(json.dumps({"origin": origin, "rows": rows, **extras}, indent=1))


@dataclass
class Way:
    """One way to search, and what it has shown."""

    name: str = ""
    missing: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)  # queries a second, by way
    count: int = 0

    def build(self) -> None:
        """Take the corpus in."""
        raise NotImplementedError

    def settle(self, true: NDArray[np.int64]) -> None:
        """Choose the effort, and note the recall."""
        raise NotImplementedError

    def round(self, batch: int, callers: int) -> dict[str, Any]:
        """Ask all queries. wall_s, cpu_s, p50_ms of a call."""
        raise NotImplementedError

    def figures(self) -> dict[str, Any]:
        row: dict[str, Any] = {"name": self.name, "missing": self.missing, **self.facts}
        for way, rates in self.rates.items():
            typical = spread_of(rates)
            row[way] = {"qps": typical["rate"], "spread": typical["spread"]}
        return row


class Service(Way):
    """The whole of it, through gRPC."""

    def __init__(
        self, client: Client, corpus: Vectors, queries: Vectors, texts: Sequence[str]
    ) -> None:
        """texts: of the real vectors of the corpus, then of the queries"""
        super().__init__("polyseme, service", count=len(queries))
        self._client, self._corpus, self._queries = client, corpus, queries
        self._texts, self._asked = texts[: -len(queries)], texts[-len(queries) :]
        [self._process] = [
            child for child in psutil.Process().children() if "serve" in child.cmdline()
        ]

    def build(self) -> None:
        self._client.create_collection(
            "bench", vectors=OwnVectors(dimensions=self._corpus.shape[1])
        )
        before = memory(self._process.pid)
        began = time.perf_counter()
        self._client.write("bench", self._documents(), batch_documents=500)
        written = time.perf_counter()
        held = self._client.get_collection("bench").statistics
        while held.building or held.buffered > 5_000:
            time.sleep(0.5)
            held = self._client.get_collection("bench").statistics
        grown = [after - now for after, now in zip(memory(self._process.pid), before, strict=True)]
        self.facts |= {
            "build_s": time.perf_counter() - began,
            "documents_s": len(self._corpus) / (written - began),
            "bytes_vector": [bytes / len(self._corpus) for bytes in grown],
            "buffered": held.buffered,
        }

    def _documents(self) -> Iterator[dict[str, Any]]:
        for row, vector in enumerate(self._corpus):
            text = self._texts[row % len(self._texts)]
            yield {"id": str(row), "text": text, "metadata": {"part": row % 100}, "vector": vector}

    def settle(self, true: NDArray[np.int64]) -> None:
        found = self._ask(self._queries)
        self.facts |= {"recall": recall(found, true), "effort": "default"}

    def _ask(self, rows: Vectors, **options: Any) -> list[list[int]]:
        if len(rows) == 1:
            answers = [self._client.search("bench", rows[0], k=K, ids_only=True, **options)]
        else:
            answers = self._client.search_many("bench", list(rows), k=K, ids_only=True, **options)
        return [[int(hit.id) for hit in answer] for answer in answers]

    def _by_words(self, words: str) -> object:
        return self._client.search("bench", words, mode="lexical", k=K, ids_only=True)

    def round(self, batch: int, callers: int) -> dict[str, Any]:
        starts = range(0, self.count, batch)
        parts = [self._queries[start : start + batch] for start in starts]
        cpu = sum(self._process.cpu_times()[:2])
        began = time.perf_counter()
        with ThreadPoolExecutor(callers) as pool:
            times = list(pool.map(lambda part: seconds(lambda: self._ask(part)), parts))
        return {
            "wall_s": time.perf_counter() - began,
            "cpu_s": sum(self._process.cpu_times()[:2]) - cpu,
            "p50_ms": statistics.median(times) * 1e3,
        }

    def filtered(self, rounds: int) -> list[dict[str, Any]]:
        """Single queries under filters that pass some percent; "none" is the same without."""
        rows: list[dict[str, Any]] = []
        for percent in (None, *SELECTIVITIES):
            filter = None if percent is None else Field("part") < percent
            passes = np.arange(len(self._corpus)) % 100 < (percent or 100)
            some = self._queries[:64]
            found = [self._ask(query[np.newaxis], filter=filter)[0] for query in some]
            times = [
                seconds(lambda: self._ask(query[np.newaxis], filter=filter))  # noqa: B023  at once
                for _ in range(rounds)
                for query in some
            ]
            true = truth(self._corpus, some, K, passes)
            p50 = statistics.median(times) * 1e3
            rows.append({"percent": percent, "p50_ms": p50, "recall": recall(found, true)})
        return rows

    def hybrid(self) -> dict[str, float]:
        """One query by vector and words against the same by vector alone, taking turns."""
        times: dict[str, list[float]] = {"dense": [], "hybrid": [], "lexical": []}
        for text, query in zip(self._asked, self._queries, strict=True):
            words = " ".join(text.split()[:QUERY_WORDS])
            one = query[np.newaxis]
            asked: dict[str, Callable[[], object]] = {
                "dense": lambda: self._ask(one),  # noqa: B023  called at once, as those below
                "hybrid": lambda: self._ask(one, mode="hybrid", lexical_text=words),  # noqa: B023
                "lexical": lambda: self._by_words(words),  # noqa: B023
            }
            for name, ask in asked.items():
                times[name].append(seconds(ask))
        found = {f"{name}_ms": statistics.median(spent) * 1e3 for name, spent in times.items()}
        return {**found, "ratio": found["hybrid_ms"] / found["dense_ms"]}


class Peer(Way):
    """An engine of bench/search_worker.py."""

    def __init__(self, asked: Worker, folder: Path, seconds_max: float) -> None:
        super().__init__(f"{asked.name} {asked.version}".strip(), asked.missing)
        self._asked, self._folder, self._seconds_max = asked, folder, seconds_max
        self._effort = 0
        self.count = len(np.load(folder / "queries.npy"))

    def build(self) -> None:
        place = self._folder / f"peer-{self._asked.name.replace(' ', '-')}"
        place.mkdir()
        built = self._asked.ask({"build": str(place)})
        self.missing = self._asked.missing
        if built:
            self._efforts = built["efforts"]
            count = len(np.load(self._folder / "corpus.npy", mmap_mode="r"))
            bytes_vector = [bytes / count for bytes in built["bytes"]]
            self.facts |= {"build_s": built["wall_s"], "bytes_vector": bytes_vector}

    def settle(self, true: NDArray[np.int64]) -> None:
        if self.missing:
            return
        for effort in self._efforts:
            self._effort = effort
            found = self._search(BATCH, 1, 1e9).get("found") or [[]] * len(true)
            reached = recall(found, true)
            self.facts |= {"recall": reached, "effort": effort}
            if reached >= RECALL:
                break

    def round(self, batch: int, callers: int) -> dict[str, Any]:
        return self._search(batch, callers, self._seconds_max)

    def _search(self, batch: int, callers: int, seconds_max: float) -> dict[str, Any]:
        file = str(self._folder / "queries.npy")
        how: dict[str, float] = {"k": K, "effort": self._effort, "batch": batch, "callers": callers}
        how["seconds_max"] = seconds_max
        answer = self._asked.ask({"search": file, **how})
        self.missing = self._asked.missing
        return answer


def first_answer_s(model: Path, data: Path, query: Vectors) -> float:
    """Of a server that opens what another one has left."""
    began = time.perf_counter()
    with listening(model, "int8", data) as address, connected(address) as client:
        client.search("bench", query, k=K)
        return time.perf_counter() - began


def measure(ways: Sequence[Way], rounds: int) -> None:
    for name, (batch, callers) in WAYS.items():
        for number in range(rounds + 1):
            for way in ways:
                if way.missing:
                    continue
                spent = way.round(batch, callers)
                if not spent or number == 0:  # the first warms
                    continue
                answered = len(spent["found"]) if "found" in spent else way.count
                way.rates.setdefault(name, []).append(answered / spent["wall_s"])
                if (batch, callers) == (1, 1):
                    way.facts["p50_ms"] = spent["p50_ms"]
                if (batch, callers) == (BATCH, 1):
                    way.facts["cpu_ms"] = spent["cpu_s"] / answered * 1e3


def table(rows: Sequence[dict[str, Any]]) -> str:
    head = ["", "effort", "recall@10", *(f"{way}, QPS" for way in WAYS), "p50 ms", "CPU ms"]
    head += ["bytes/vector (own)", "build s"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        if row["missing"]:
            lines.append(f"| {row['name']} | {row['missing']} |" + " |" * (len(head) - 2))
            continue
        cells = [row["name"], str(row["effort"]), f"{row['recall']:.4f}"]
        cells += [f"{row[way]['qps']:,.0f} ±{row[way]['spread']:.0%}" for way in WAYS]
        cells += [f"{row['p50_ms']:.2f}", f"{row['cpu_ms']:.3f}"]
        cells += ["{:,.0f} ({:,.0f})".format(*row["bytes_vector"]), f"{row['build_s']:,.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    ours = rows[0]
    for row in rows[1:]:
        if not row["missing"]:
            ratios = (f"{way} {ours[way]['qps'] / row[way]['qps']:.2f}" for way in WAYS)
            lines.append(f"\nservice / {row['name']}: " + ", ".join(ratios))
    lines.append(f"\nthe service was written to at {ours['documents_s']:,.0f} documents/s")
    return "\n".join(lines)


def extra_table(extras: dict[str, Any]) -> str:
    lines = ["", "| filter passes | p50 ms | recall@10 |", "|---|---|---|"]
    for row in extras["filtered"]:
        passes = "all (no filter)" if row["percent"] is None else f"{row['percent']} %"
        lines.append(f"| {passes} | {row['p50_ms']:.2f} | {row['recall']:.4f} |")
    hybrid = extras["hybrid"]
    lines.append(
        f"\nhybrid {hybrid['hybrid_ms']:.2f} ms, dense {hybrid['dense_ms']:.2f} ms: "
        f"{hybrid['ratio']:.2f} times; lexical {hybrid['lexical_ms']:.2f} ms"
    )
    lines.append(f"\nfirst answer {extras['first_answer_s']:.1f} s after the start of a server")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
