"""What does the service add to the engines below it?

    python bench/service.py --model models/all-minilm-l6-v2 --texts FILE [--documents 100000]

Starts a server on loopback and compares, alternating in one run on the same cores:

- Embed of 1 and of 1,000 texts through gRPC, in one call and as a stream, with the engine in
  process, and with the same ONNX graph on plain onnxruntime (the same tokenizer, batches of 32
  sorted by length);
- calls of 1 text with the same calls while another process embeds in bulk; and an empty call;
- Search on `--documents` documents through gRPC with FAISS in process on the same vectors
  (`PQ192x4fs,Refine(SQ8)`, the best setting known for this size), with the recall of both.

FILE holds a text a line (.txt or .txt.xz); vectors are real, made by the model once and kept in
`--cache`. Read ratios, not absolutes: client and server share this machine's cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import lzma
import multiprocessing
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import engine_worker
import faiss
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from encoder.runtime import Encoder, Precision, normalize
from encoder.tokenizer import Tokenizer, Truncation
from polyseme import Client
from polyseme.searching import ByVector

TOKENS_MAX = 256
EMBED_TEXTS = 1_000
K = 10
BATCH = 32
QUERIES = 256
PERSON_CALLS = 1_000
LOAD_S = 2.0  # of bulk, before the person calls beside it
# Threads of FAISS spin for 7 ms after a call, onnxruntime's for 33: without a rest the service
# would work beside them, on the same two cores.
REST_S = 0.05
STOP_S_MAX = 300.0  # of the server: it reads a large collection once more when it ends
Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cache", type=Path, default=Path(".cache/bench"))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    chosen = parser.parse_args()

    texts = read_texts(chosen.texts, chosen.documents + QUERIES)
    rows: list[Row] = []
    vectors = cached_vectors(chosen, texts)
    with (
        tempfile.TemporaryDirectory(prefix="polyseme-bench-") as data,
        listening(chosen.model, chosen.precision, Path(data)) as address,
        connected(address) as client,
    ):
        rows += embed_rows(client, engines(chosen.model, chosen.precision), texts, chosen.rounds)
        person = beside_bulk(client, address, texts)
        rows += search_rows(client, texts, vectors, chosen.rounds)
    print(f"\n{machine()}; model {chosen.model.name} {chosen.precision}; {chosen.rounds} rounds")
    print(table(rows))
    print(person_line(person))
    if chosen.json:
        found = {"rows": [row.as_dict() for row in rows], "person": person}
        chosen.json.write_text(json.dumps(found, indent=1))


class Row:
    """Two ways to do one thing: seconds of every round, and what else is worth saying."""

    def __init__(self, name: str, unit: str, per_round: float, note: str = "") -> None:
        self.name, self.unit, self.per_round, self.note = name, unit, per_round, note
        self.plain: list[float] = []
        self.served: list[float] = []

    def alternate(self, plain: Callable[[], object], served: Callable[[], object], n: int) -> Row:
        plain(), served()  # warm both
        for _ in range(n):
            for way, times in ((plain, self.plain), (served, self.served)):
                time.sleep(REST_S)
                times.append(seconds(way))
        return self

    def figure(self, times: Sequence[float]) -> float:
        """Milliseconds for one, or how many a second."""
        typical = statistics.median(times)
        return typical * 1e3 / self.per_round if self.unit == "ms" else self.per_round / typical

    @property
    def ratio(self) -> float:
        """Service over plain engine; above 1 the service is better."""
        return statistics.median(self.plain) / statistics.median(self.served)

    @property
    def spread(self) -> float:
        """Half the range between quartiles over the median, of the service."""
        low, _, high = statistics.quantiles(self.served, n=4)
        return (high - low) / 2 / statistics.median(self.served)

    @property
    def remark(self) -> str:
        added = f"{self.figure(self.served) - self.figure(self.plain):+.2f} ms"
        return "; ".join(filter(None, [added if self.unit == "ms" else "", self.note]))

    def as_dict(self) -> dict[str, object]:
        figures = {"plain": self.figure(self.plain), "service": self.figure(self.served)}
        return {"name": self.name, "unit": self.unit, "ratio": self.ratio, **figures}


def engines(model: Path, precision: str) -> dict[str, Embed]:
    """The engine as bench/engine.py measures it, and plain onnxruntime."""
    embed, _ = engine_worker.polyseme(precision)({"model": str(model)})
    plain = PlainRuntime(model, precision)
    return {"engine": lambda texts: normalize(embed(texts)), "onnxruntime": plain.embed}


def embed_rows(
    client: Client, engines: dict[str, Embed], texts: Sequence[str], rounds: int
) -> list[Row]:
    many, short = texts[:EMBED_TEXTS], short_texts(texts)
    calls: dict[str, Callable[[], object]] = {
        "in one call": lambda: client.embed(many, truncation="head"),
        "as a stream": lambda: list(client.embed_iter(many, truncation="head")),
    }
    rows = []
    for name, embed in engines.items():
        check_same(embed(many[:64]), client.embed(many[:64], truncation="head").array)
        ours, theirs = itertools.cycle(short), itertools.cycle(short)
        one = Row(f"Embed, 1 short text, p50; {name}", "ms", 1)
        one.alternate(
            lambda: embed([next(theirs)]),  # noqa: B023  called at once, as those below
            lambda: client.embed([next(ours)], truncation="head"),  # noqa: B023
            max(200, rounds * 20),
        )
        rows.append(one)
        for way, call in calls.items():
            bulk = Row(f"Embed, {EMBED_TEXTS} texts {way}; {name}", "texts/s", EMBED_TEXTS)
            rows.append(bulk.alternate(lambda: embed(many), call, rounds))  # noqa: B023
    return rows


def short_texts(texts: Sequence[str]) -> list[str]:
    return [text for text in texts if 40 <= len(text) <= 70][:200]  # about 13 tokens


def beside_bulk(client: Client, address: str, texts: Sequence[str]) -> dict[str, float]:
    """How long calls of one text take alone, and while a process of its own embeds in bulk."""
    turn = itertools.cycle(short_texts(texts))

    def person() -> list[float]:
        return [seconds(lambda: client.embed([next(turn)])) * 1e3 for _ in range(PERSON_CALLS)]

    empty_ms = statistics.median(seconds(client.health) for _ in range(PERSON_CALLS)) * 1e3
    alone = person()
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with gRPC in it may hang
    load = spawn.Process(target=embed_for_ever, args=(address, list(texts[:EMBED_TEXTS])))
    load.start()
    try:
        computed = client.statistics().texts
        while load.is_alive() and client.statistics().texts < computed + EMBED_TEXTS:
            time.sleep(0.1)
        time.sleep(LOAD_S)
        before, began = client.statistics().texts, time.perf_counter()
        beside = person()
        bulk = client.statistics().texts - before - PERSON_CALLS
        bulk_rate = bulk / (time.perf_counter() - began)
    finally:
        load.terminate()
        load.join()
    found = {"empty_ms": empty_ms, "bulk_texts_s": bulk_rate}
    for name, times in (("alone", alone), ("beside", beside)):
        for percent in (50, 99):
            found[f"{name}_p{percent}_ms"] = float(np.percentile(times, percent))
    return found


def embed_for_ever(address: str, texts: Sequence[str]) -> None:
    with Client(address, timeout_s=120) as client:
        for _ in client.embed_iter(itertools.cycle(texts), priority="bulk", truncation="head"):
            pass


def person_line(person: dict[str, float]) -> str:
    p50, p99 = (person[f"beside_{p}_ms"] / person[f"alone_{p}_ms"] for p in ("p50", "p99"))
    return (
        f"\nan empty call: {person['empty_ms']:.2f} ms; 1 short text beside a bulk stream of "
        f"{person['bulk_texts_s']:,.0f} texts/s: p50 {person['alone_p50_ms']:.2f} to "
        f"{person['beside_p50_ms']:.2f} ms ({p50:.2f} times), p99 {person['alone_p99_ms']:.2f} to "
        f"{person['beside_p99_ms']:.2f} ms ({p99:.2f} times)"
    )


def search_rows(client: Client, texts: Sequence[str], vectors: Vectors, rounds: int) -> list[Row]:
    corpus, queries = vectors[:-QUERIES], np.ascontiguousarray(vectors[-QUERIES:])
    fingerprint = load(client, texts, corpus)
    index = faiss.index_factory(
        corpus.shape[1], "PQ192x4fs,Refine(SQ8)", faiss.METRIC_INNER_PRODUCT
    )
    index.train(corpus)
    index.add(corpus)
    index.k_factor = 4
    truth = np.argsort(-(queries @ corpus.T), axis=1)[:, :K]

    def served(rows: Vectors) -> list[list[int]]:
        wanted = [ByVector(row, fingerprint) for row in rows]
        answers = client.search_many("bench", wanted, k=K, ids_only=True)
        return [[int(hit.id) for hit in answer] for answer in answers]

    def note(found: Sequence[Sequence[int]], plain: NDArray[np.int64]) -> str:
        ours = np.mean([len(set(a) & set(b)) / K for a, b in zip(found, truth, strict=True)])
        theirs = np.mean([len(set(a) & set(b)) / K for a, b in zip(plain, truth, strict=True)])
        return f"recall@10 {theirs:.4f} / {ours:.4f}"

    recall = note(served(queries), index.search(queries, K)[1])
    ours, theirs = itertools.cycle(range(QUERIES)), itertools.cycle(range(QUERIES))
    size = f"{len(corpus):,} documents"
    faiss.omp_set_num_threads(1)
    one = Row(f"Search by vector, {size}, p50", "ms", 1, recall)

    def single(row: int) -> object:
        query = ByVector(queries[row], fingerprint)
        return client.search("bench", query, k=K, ids_only=True)

    one.alternate(lambda: index.search(queries[[next(theirs)]], K), lambda: single(next(ours)), 300)
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    batch = Row(f"Search by vector, {size}, 64 a call", "queries/s", 64)
    batch.alternate(lambda: index.search(queries[:64], K), lambda: served(queries[:64]), rounds * 5)
    return [one, batch]


def load(client: Client, texts: Sequence[str], corpus: Vectors) -> str:
    """Index the corpus through the API, by vector; wait for the index. Returns the fingerprint."""
    fingerprint = client.create_collection("bench").fingerprint
    assert fingerprint is not None
    began = time.perf_counter()
    client.write("bench", documents(texts, corpus, fingerprint.combined), batch_documents=500)
    written = time.perf_counter()
    while (held := client.get_collection("bench").statistics).building or held.buffered > 5_000:
        time.sleep(0.2)
    built = time.perf_counter()
    print(
        f"loaded {len(corpus):,} documents with vectors: {len(corpus) / (written - began):,.0f}/s "
        f"durable; index ready {built - written:.1f} s later ({held.index_kind})"
    )
    return fingerprint.combined


def documents(
    texts: Sequence[str], corpus: Vectors, fingerprint: str
) -> Iterator[dict[str, object]]:
    for row, vector in enumerate(corpus):
        yield {
            "id": str(row),
            "text": texts[row],
            "vector": vector,
            "vector_fingerprint": fingerprint,
        }


class PlainRuntime:
    """What one writes by hand: tokenizer, onnxruntime with its defaults, sorted batches of 32."""

    def __init__(self, model: Path, precision: str) -> None:
        self._tokenizer = Tokenizer(model / "tokenizer.json")
        self._session = onnxruntime.InferenceSession(
            str(model / "onnx" / precision / "pooled.onnx"), providers=["CPUExecutionProvider"]
        )

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(texts, width), each of length 1."""
        tokenized = self._tokenizer.each(
            texts, tokens_max=TOKENS_MAX, truncation=Truncation.HEAD, places=False
        )
        ids = [text.windows[0].ids for text in tokenized]
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        vectors: Vectors | None = None
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            block = np.zeros((len(rows), len(ids[rows[-1]])), dtype=np.int64)
            mask = np.zeros_like(block)
            for line, row in enumerate(rows):
                block[line, : len(ids[row])] = ids[row]
                mask[line, : len(ids[row])] = 1
            pooled = self._session.run(["pooled"], {"ids": block, "mask": mask})[0]
            if vectors is None:
                vectors = np.empty((len(ids), pooled.shape[1]), dtype=np.float32)
            vectors[rows] = pooled
        assert vectors is not None
        return normalize(vectors)


def check_same(plain: Vectors, served: Vectors) -> None:
    worst = float((plain * served).sum(axis=1).min())
    if worst < 0.9999:
        sys.exit(f"the two ways disagree (cosine {worst}): the comparison would mean nothing")


def cached_vectors(chosen: argparse.Namespace, texts: Sequence[str]) -> Vectors:
    """The texts' vectors, from the cache when it has just these."""
    chosen.cache.mkdir(parents=True, exist_ok=True)
    file = chosen.cache / f"{chosen.model.name}-{chosen.texts.name}-{len(texts)}.npy"
    if not file.exists():
        encoder = Encoder.load(chosen.model, precision=Precision(chosen.precision))
        tokenized = encoder.tokenizer.encode(texts, tokens_max=128, truncation=Truncation.HEAD)
        order = sorted(range(len(texts)), key=lambda row: len(tokenized[row].windows[0].ids))
        vectors = np.empty((len(texts), encoder.width), dtype=np.float32)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            vectors[rows] = encoder.pooled([tokenized[row].windows[0] for row in rows])
            print(f"\rvectors {start + len(rows):,}/{len(order):,}", end="", file=sys.stderr)
        np.save(file, normalize(vectors))
    loaded: Vectors = np.load(file)
    return loaded


def read_texts(file: Path, wanted: int) -> list[str]:
    """The first sentences of 30 to 400 characters, each once."""
    opened = lzma.open if file.suffix == ".xz" else open
    found: dict[str, None] = {}
    with opened(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-ZÄÖÜÉ])", line.strip()):
                if 30 <= len(sentence) <= 400:
                    found[sentence] = None
            if len(found) >= wanted:
                return list(found)[:wanted]
    sys.exit(f"{file} has {len(found):,} sentences; {wanted:,} are needed (--documents)")


@contextmanager
def serving(model: Path, precision: str, data: Path) -> Iterator[Client]:
    with listening(model, precision, data) as address, connected(address) as client:
        yield client


@contextmanager
def listening(model: Path, precision: str, data: Path) -> Iterator[str]:
    """A server on loopback, which may still load; gives its address."""
    port = free_port()
    command = [sys.executable, "-m", "server.command", "serve", "--log-level", "warning"]
    command += ["--address", f"127.0.0.1:{port}", "--model", str(model), "--data", str(data)]
    server = subprocess.Popen([*command, "--precision", precision])
    try:
        while server.poll() is None and not is_open(port):
            time.sleep(0.01)  # a client that was refused would wait longer and longer
        if server.poll() is not None:
            sys.exit(f"the server ended with status {server.returncode}")
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(STOP_S_MAX)


@contextmanager
def connected(address: str) -> Iterator[Client]:
    with Client(address, timeout_s=120) as client:
        client.wait_until_serving(timeout_s=300)
        yield client


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread_of(rates: Sequence[float]) -> dict[str, float]:
    """The median, and half the range between quartiles as a share of it."""
    low, _, high = statistics.quantiles(rates, n=4) if len(rates) > 1 else [rates[0]] * 3
    rate = statistics.median(rates)
    return {"rate": rate, "spread": (high - low) / 2 / rate}


def table(rows: Sequence[Row]) -> str:
    lines = ["| | unit | engine alone | service | ratio | spread | |", "|---" * 7 + "|"]
    lines += [
        f"| {row.name} | {row.unit} | {row.figure(row.plain):,.2f} | {row.figure(row.served):,.2f} "
        f"| {row.ratio:.2f} | ±{row.spread:.0%} | {row.remark} |"
        for row in rows
    ]
    return "\n".join(lines)


def machine() -> str:
    names = f"onnxruntime {onnxruntime.__version__}, FAISS {faiss.__version__}"
    return (
        f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}; {names}"
    )


if __name__ == "__main__":
    main()
