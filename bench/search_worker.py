"""One vector index in a process of its own: run by bench/search.py.

    python bench/search_worker.py ENGINE CORPUS.npy

Answers {"build": directory}, with the seconds it took, the bytes that the process grew by and how
the index can be tuned; and {"search": queries.npy, "k", "effort", "batch", "callers"}, with the
positions found, the seconds and the processor seconds of a round; after "seconds_max", if it is
given, the round ends with what was answered. Batches of a lone caller have all cores, where an
engine can be told so; everything else has one thread a call.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, ANN204, B905, PLC0415
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from answering import memory, serve, timed

ADDED = 5_000
M, BUILD_DEPTH = 16, 100
CORES = len(os.sched_getaffinity(0))


class Faiss:
    """The best known settings of plain FAISS for each size (see docs/performance.md)."""

    def __init__(self, corpus, directory):
        import faiss

        self.faiss, width = faiss, corpus.shape[1]
        metric = faiss.METRIC_INNER_PRODUCT
        self.graph = None
        if len(corpus) <= 200_000:
            self.index = faiss.index_factory(width, f"PQ{width // 2}x4fs,Refine(SQ8)", metric)
            self.efforts = [4, 10]
        else:
            self.index = faiss.index_factory(width, "HNSW16_SQ8,Refine(SQfp16)", metric)
            self.graph = faiss.downcast_index(self.index.base_index).hnsw
            self.graph.efConstruction = BUILD_DEPTH
            self.efforts = [64, 128, 256, 512]
        self.index.train(corpus[:: max(1, len(corpus) // 50_000)])
        self.index.add(corpus)

    def effort(self, effort):
        self.index.k_factor = effort if self.graph is None else 4
        if self.graph is not None:
            self.graph.efSearch = effort

    def search(self, queries, k):
        self.faiss.omp_set_num_threads(self.threads)
        return self.index.search(queries, k)[1]


class Hnswlib:
    efforts = (64, 128, 256, 512)

    def __init__(self, corpus, directory):
        import hnswlib

        self.index = hnswlib.Index("ip", corpus.shape[1])
        self.index.init_index(len(corpus), ef_construction=BUILD_DEPTH, M=M)
        self.index.add_items(corpus, num_threads=CORES)

    def effort(self, effort):
        self.index.set_ef(effort)

    def search(self, queries, k):
        return self.index.knn_query(queries, k, num_threads=self.threads)[0]


class Usearch:
    efforts = (64, 128, 256, 512)

    def __init__(self, corpus, directory):
        from usearch.index import Index

        self.index = Index(
            ndim=corpus.shape[1], metric="ip", dtype="bf16", connectivity=M,
            expansion_add=BUILD_DEPTH,
        )  # fmt: skip
        self.index.add(np.arange(len(corpus)), corpus, threads=CORES)

    def effort(self, effort):
        self.index.expansion_search = effort

    def search(self, queries, k):
        return np.atleast_2d(self.index.search(queries, k, threads=self.threads).keys)


class Lancedb:
    efforts = (20, 60, 150)  # partitions that are looked at

    def __init__(self, corpus, directory):
        import lancedb
        import pyarrow
        from lancedb.index import IvfPq

        vectors = pyarrow.FixedSizeListArray.from_arrays(corpus.ravel(), corpus.shape[1])
        rows = pyarrow.table({"row": np.arange(len(corpus)), "vector": vectors})
        self.table = lancedb.connect(directory).create_table("bench", rows)
        self.table.create_index("vector", config=IvfPq(distance_type="dot"))

    def effort(self, effort):
        self.probes, self.refined = effort, max(4, effort // 6)

    def search(self, queries, k):
        def one(query):
            asked = self.table.search(query).distance_type("dot").nprobes(self.probes)
            asked = asked.refine_factor(self.refined).select(["row"]).limit(k)
            return asked.to_arrow()["row"].to_pylist()

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
    efforts = (64, 128, 256)

    def __init__(self, corpus, directory):
        from pymilvus import MilvusClient

        self.client = MilvusClient(f"{directory}/milvus.db")
        self.client.create_collection("bench", dimension=corpus.shape[1], metric_type="IP")
        self.client.release_collection("bench")  # its index is built at once, by loading it
        for start in range(0, len(corpus), ADDED):
            block = corpus[start : start + ADDED]
            rows = [{"id": start + i, "vector": v.tolist()} for i, v in enumerate(block)]
            self.client.insert("bench", rows)
        self.client.flush("bench")
        self.client.load_collection("bench")

    def effort(self, effort):
        self.asked = {"params": {"ef": effort}}

    def search(self, queries, k):
        found = self.client.search(
            "bench", queries.tolist(), limit=k, output_fields=["id"], search_params=self.asked
        )
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
    name = {"faiss": "faiss-cpu", "pymilvus": "milvus-lite"}.get(package, package)
    held = {}

    def answer(asked):
        if "build" in asked:
            corpus = np.load(corpus_file)
            before = memory()
            held["engine"], spent = timed(lambda: kind(corpus, asked["build"]))
            grown = [after - now for after, now in zip(memory(), before)]
            return {**spent, "bytes": grown, "efforts": list(held["engine"].efforts)}
        return searched(held["engine"], asked)

    return answer, importlib.metadata.version(name)


def searched(engine, asked):
    queries = np.load(asked["search"])
    engine.effort(asked["effort"])
    batch, k = asked["batch"], asked["k"]
    engine.threads = CORES if batch > 1 and asked["callers"] == 1 else 1
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
