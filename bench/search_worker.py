"""One vector index in a process of its own: run by bench/search.py.

    python bench/search_worker.py ENGINE CORPUS.npy

Answers {"build": directory}, with the seconds it took, the bytes that the process grew by and how
the index can be tuned; and {"search": queries.npy, "k", "effort", "batch", "callers", "rounds"},
with the positions found, the seconds and the processor seconds of a round; after "seconds_max",
if it is given, the round ends with what was answered.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, ANN204, PLC0415
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from answering import serve, timed

ADDED = 5_000
M, BUILD_DEPTH = 16, 100


def resident():
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


class Faiss:
    """The best known settings of plain FAISS for each size (see docs/performance.md)."""

    def __init__(self, corpus, directory):
        import faiss

        self.faiss, width = faiss, corpus.shape[1]
        metric = faiss.METRIC_INNER_PRODUCT
        if len(corpus) <= 200_000:
            self.index = faiss.index_factory(width, f"PQ{width // 2}x4fs,Refine(SQ8)", metric)
        else:
            self.index = faiss.index_factory(width, "HNSW16_SQ8", metric)
            self.index.hnsw.efConstruction = BUILD_DEPTH
        self.index.train(corpus[:: max(1, len(corpus) // 50_000)])
        self.index.add(corpus)
        self.efforts = [4, 10] if len(corpus) <= 200_000 else [64, 128, 256, 512]

    def effort(self, effort):
        if hasattr(self.index, "k_factor"):
            self.index.k_factor = effort
        else:
            self.index.hnsw.efSearch = effort

    def search(self, queries, k):
        self.faiss.omp_set_num_threads(1 if len(queries) == 1 else 2)
        return self.index.search(queries, k)[1]


class Hnswlib:
    efforts = (64, 128, 256, 512)

    def __init__(self, corpus, directory):
        import hnswlib

        self.index = hnswlib.Index("ip", corpus.shape[1])
        self.index.init_index(len(corpus), ef_construction=BUILD_DEPTH, M=M)
        self.index.add_items(corpus, num_threads=2)

    def effort(self, effort):
        self.index.set_ef(effort)

    def search(self, queries, k):
        return self.index.knn_query(queries, k, num_threads=1 if len(queries) == 1 else 2)[0]


class Usearch:
    efforts = (64, 128, 256, 512)

    def __init__(self, corpus, directory):
        from usearch.index import Index

        self.index = Index(
            ndim=corpus.shape[1], metric="ip", dtype="bf16", connectivity=M,
            expansion_add=BUILD_DEPTH,
        )  # fmt: skip
        self.index.add(np.arange(len(corpus)), corpus, threads=2)

    def effort(self, effort):
        self.index.expansion_search = effort

    def search(self, queries, k):
        return np.atleast_2d(self.index.search(queries, k, threads=2).keys)


class Lancedb:
    efforts = (20, 60)

    def __init__(self, corpus, directory):
        import lancedb

        def rows():
            for start in range(0, len(corpus), ADDED):
                block = corpus[start : start + ADDED]
                yield [{"row": start + i, "vector": v} for i, v in enumerate(block)]

        blocks = rows()
        self.table = lancedb.connect(directory).create_table("bench", next(blocks))
        for block in blocks:
            self.table.add(block)
        self.table.create_index(metric="dot", vector_column_name="vector")

    def effort(self, effort):
        self.probes = effort

    def search(self, queries, k):
        def one(query):
            asked = self.table.search(query).metric("dot").nprobes(self.probes).refine_factor(4)
            return asked.select(["row"]).limit(k).to_arrow()["row"].to_pylist()

        return [one(query) for query in queries]


class Chroma:
    efforts = (100,)

    def __init__(self, corpus, directory):
        import chromadb

        settings = chromadb.Settings(anonymized_telemetry=False)
        client = chromadb.PersistentClient(directory, settings=settings)
        self.collection = client.create_collection(
            "bench", configuration={"hnsw": {"space": "ip", "ef_search": 100}}
        )
        for start in range(0, len(corpus), ADDED):
            block = corpus[start : start + ADDED]
            ids = [str(start + i) for i in range(len(block))]
            self.collection.add(ids=ids, embeddings=block)

    def effort(self, effort):
        pass

    def search(self, queries, k):
        found = self.collection.query(query_embeddings=queries, n_results=k, include=[])
        return [[int(id) for id in ids] for ids in found["ids"]]


class Milvus:
    efforts = (1,)

    def __init__(self, corpus, directory):
        from pymilvus import MilvusClient

        self.client = MilvusClient(f"{directory}/milvus.db")
        self.client.create_collection("bench", dimension=corpus.shape[1], metric_type="IP")
        for start in range(0, len(corpus), ADDED):
            block = corpus[start : start + ADDED]
            rows = [{"id": start + i, "vector": v.tolist()} for i, v in enumerate(block)]
            self.client.insert("bench", rows)

    def effort(self, effort):
        pass

    def search(self, queries, k):
        found = self.client.search("bench", data=queries.tolist(), limit=k)
        return [[hit["id"] for hit in hits] for hits in found]


ENGINES = {
    "FAISS": ("faiss", Faiss),
    "hnswlib": ("hnswlib", Hnswlib),
    "usearch": ("usearch", Usearch),
    "LanceDB": ("lancedb", Lancedb),
    "Chroma": ("chromadb", Chroma),
    "Milvus Lite": ("pymilvus", Milvus),
}


def started(package, kind, corpus_file):
    import importlib
    import importlib.metadata

    importlib.import_module(package)
    name = {"faiss": "faiss-cpu"}.get(package, package)
    held = {}

    def answer(asked):
        if "build" in asked:
            corpus = np.load(corpus_file)
            before = resident()
            held["engine"], spent = timed(lambda: kind(corpus, asked["build"]))
            grown = resident() - before
            return {**spent, "bytes": grown, "efforts": list(held["engine"].efforts)}
        return searched(held["engine"], asked)

    return answer, importlib.metadata.version(name)


def searched(engine, asked):
    queries = np.load(asked["search"])
    engine.effort(asked["effort"])
    batch, k = asked["batch"], asked["k"]
    parts = [queries[start : start + batch] for start in range(0, len(queries), batch)]
    found = []
    times = []
    end = time.perf_counter() + asked.get("seconds_max", float("inf"))

    def one(part):
        began = time.perf_counter()
        if began > end:
            return [], 0.0
        rows = engine.search(part, k)
        return rows, time.perf_counter() - began

    with ThreadPoolExecutor(asked["callers"]) as pool:
        answers, spent = timed(lambda: list(pool.map(one, parts)))
    for rows, seconds in answers:
        found += [[int(row) for row in line] for line in rows]
        times += [seconds] * bool(len(rows))
    return {**spent, "found": found, "p50_ms": float(np.median(times)) * 1e3}


if __name__ == "__main__":
    sys.exit(serve({name: partial(started, *what) for name, what in ENGINES.items()}))
