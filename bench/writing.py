"""How many documents a second are durable, and how soon does a large collection answer again?

    python bench/writing.py --model models/all-minilm-l6-v2 --vectors VECTORS.npy \\
        [--peers /tmp/peers/bin/python] [--rounds 5] [--start-up 100000] [--json FILE]

Documents of forty words with metadata and a vector each, in commits of 1, 32 and 1,000, all on
one disk, taking turns: the service through gRPC; the index in process; SQLite by itself with the
same pragmas (WAL, synchronous=FULL), with and without a full-text index like ours; and stores of
the environment `--peers`, as durable as they are by themselves (Milvus Lite 3 does not sync a
commit). Nobody's turn begins before our segments are built. "16 writers" are sixteen callers that
each write one document a call: they share an fsync. `--start-up` loads so many documents (mixed of
the real vectors where these do not suffice), ends the server and times the next one from its start
to its first answer; `--engines` without names leaves the rest short.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from service import machine, serving, spread_of
from vectors import Vectors, corpus_and_queries
from workers import Worker, worker
from writing_worker import text_of

from index.documents import Document
from index.settings import StoreSettings
from index.spec import CollectionSpec
from index.store import Store
from polyseme import Client, OwnVectors

WORKER = Path(__file__).with_name("writing_worker.py")
PEERS = ("SQLite", "SQLite and FTS5", "Chroma", "LanceDB", "Milvus Lite")
# Commits of so many: documents a round.
COUNTS = {1: 200, 32: 1_600, 1_000: 5_000}
WRITERS = 16
WRITES = 50  # of each writer a round
OWN = ("polyseme, service", "polyseme, index in process")
Write = Callable[[int, int, int], "float | None"]  # first, count, batch → seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--peers", default=sys.executable, help="Python that has the peers")
    parser.add_argument("--engines", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--start-up", type=int, default=0, help="documents; 0: leave it out")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    chosen = parser.parse_args()

    vectors, _, _ = corpus_and_queries(chosen.vectors, 20_000)
    rows: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="polyseme-bench-")))
        np.save(folder / "vectors.npy", vectors)
        client = stack.enter_context(serving(chosen.model, "int8", folder / "data"))
        store = stack.enter_context(Store.open(folder / "index", StoreSettings()))
        ours = (Service(client, vectors).write, in_process(store, vectors))
        ways: dict[str, Write] = dict(zip(OWN, ours, strict=True))
        peers = []
        for name in chosen.engines:
            place = folder / name.replace(" ", "-")
            place.mkdir()
            python = sys.executable if name.startswith("SQLite") else chosen.peers
            arguments = (str(place), str(folder / "vectors.npy"))
            started = stack.enter_context(worker(python, WORKER, name, *arguments))
            ways[f"{name} {started.version}".strip()] = asking(started)
            peers.append(started)
        rows |= measure(ways, chosen.rounds)
        rows |= {peer.name: {"missing": peer.missing} for peer in peers if peer.missing}
        writers = Service(client, vectors, "writers").writers_rate(chosen.rounds)
    start = start_up(chosen) if chosen.start_up else None
    print(f"{machine()}; {chosen.rounds} rounds")
    print(table(rows, writers, start))
    if chosen.json:
        found = {"rows": rows, "writers": writers, "start_up": start}
        chosen.json.write_text(json.dumps(found, indent=1))


class Service:
    """Writes through gRPC."""

    def __init__(self, client: Client, vectors: Vectors, name: str = "bench") -> None:
        self._client, self._vectors, self._name = client, vectors, name
        client.create_collection(name, vectors=OwnVectors(dimensions=vectors.shape[1]))

    def write(self, first: int, count: int, batch: int) -> float:
        spent = self._write(first, count, batch)
        while self._client.get_collection(self._name).statistics.building:
            time.sleep(0.05)
        return spent

    def _write(self, first: int, count: int, batch: int) -> float:
        documents = list(as_documents(self._vectors, first, count))
        began = time.perf_counter()
        for start in range(0, count, batch):
            self._client.upsert(self._name, documents[start : start + batch])
        return time.perf_counter() - began

    def writers_rate(self, rounds: int) -> float:
        """Documents a second of WRITERS callers that write one a call."""
        rates = []
        count = WRITES * WRITERS
        for first in range(0, rounds * count, count):
            with ThreadPoolExecutor(WRITERS) as pool:
                began = time.perf_counter()
                starts = range(first, first + count, WRITES)
                list(pool.map(lambda start: self._write(start, WRITES, 1), starts))
                rates.append(count / (time.perf_counter() - began))
        return statistics.median(rates)


def as_documents(vectors: Vectors, first: int, count: int) -> Iterator[dict[str, Any]]:
    for row in range(first, first + count):
        yield {
            "id": str(row),
            "text": text_of(row),
            "metadata": {"part": row % 100},
            "vector": vectors[row % len(vectors)],
        }


def in_process(store: Store, vectors: Vectors) -> Write:
    collection = store.create(CollectionSpec(name="bench", dimensions=vectors.shape[1]))

    def write(first: int, count: int, batch: int) -> float:
        documents = [Document(**one) for one in as_documents(vectors, first, count)]
        began = time.perf_counter()
        for start in range(0, count, batch):
            collection.upsert(documents[start : start + batch])
        spent = time.perf_counter() - began
        collection.wait_for_builds()
        return spent

    return write


def asking(started: Worker) -> Write:
    def write(first: int, count: int, batch: int) -> float | None:
        answer = started.ask({"first": first, "count": count, "batch": batch})
        return answer.get("wall_s")

    return write


def measure(ways: dict[str, Write], rounds: int) -> dict[str, dict[str, Any]]:
    rates: dict[str, dict[int, list[float]]] = {name: {} for name in ways}
    first = 0
    for batch, count in COUNTS.items():
        for number in range(rounds + 1):
            for name, write in ways.items():
                spent = write(first, count, batch)
                if spent is not None and number:  # the first warms
                    rates[name].setdefault(batch, []).append(count / spent)
            first += count
    return {
        name: {str(batch): spread_of(found) for batch, found in batches.items()}
        for name, batches in rates.items()
        if batches
    }


def start_up(chosen: argparse.Namespace) -> dict[str, float]:
    """Seconds from the start of a server with a large collection to its first answer."""
    corpus, queries, _ = corpus_and_queries(chosen.vectors, chosen.start_up)
    with tempfile.TemporaryDirectory(prefix="polyseme-bench-") as data:
        with serving(chosen.model, "int8", Path(data)) as client:
            Service(client, corpus)
            documents = as_documents(corpus, 0, len(corpus))
            began = time.perf_counter()
            client.write("bench", documents, batch_documents=500)
            loaded = time.perf_counter() - began
            while client.get_collection("bench").statistics.building:
                time.sleep(0.5)
        began = time.perf_counter()
        with serving(chosen.model, "int8", Path(data)) as client:
            client.search("bench", queries[0])
            answered = time.perf_counter() - began
    return {"documents": len(corpus), "load_s": loaded, "first_answer_s": answered}


def table(rows: dict[str, dict[str, Any]], writers: float, start: dict[str, float] | None) -> str:
    head = ["documents/s, durable", *(f"commits of {batch:,}" for batch in COUNTS)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        if "missing" in row:
            lines.append(f"| {name} | {row['missing']} | | |")
            continue
        cells = [
            f"{row[key]['rate']:,.0f} ±{row[key]['spread']:.0%}" if key in row else "failed"
            for key in map(str, COUNTS)
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for own, (name, row) in itertools.product(OWN, rows.items()):
        ratios = [
            f"{key} {rows[own][key]['rate'] / row[key]['rate']:.2f}"
            for key in map(str, COUNTS)
            if key in row
        ]
        if ratios and name not in OWN:
            lines.append(f"\n{own} / {name}: " + ", ".join(ratios))
    lines.append(
        f"\n{WRITERS} writers of one document a call: {writers:,.0f} documents/s, "
        f"{writers / rows[OWN[0]]['1']['rate']:.2f} times one writer"
    )
    if start:
        lines.append(
            f"\n{start['documents']:,.0f} documents: first answer {start['first_answer_s']:.1f} s "
            f"after the server's start (loaded in {start['load_s']:.0f} s)"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
