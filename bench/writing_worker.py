"""One durable store of documents with vectors, in a process of its own: run by bench/writing.py.

    python bench/writing_worker.py ENGINE DIRECTORY VECTORS.npy

Asked {"first": n, "count", "batch"}, it writes documents n, n + 1, … in commits of `batch`, each
on the disk before the next begins as far as the engine promises that, and answers the seconds.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, ANN204, PLC0415
import importlib
import importlib.metadata
import json
import sqlite3
import sys
import zlib
from functools import partial

import numpy as np
from answering import serve, timed

PAGE_BYTES = 8192  # the pragmas of index/database.py


class Sqlite:
    """Rows with text, metadata and vector under the pragmas that polyseme uses."""

    lexical = False

    def __init__(self, directory, width):
        self.connection = sqlite3.connect(f"{directory}/plain.sqlite3", isolation_level=None)
        script = f"""PRAGMA page_size = {PAGE_BYTES}; PRAGMA journal_mode = WAL;
            PRAGMA synchronous = FULL; PRAGMA cache_size = -16384;
            CREATE TABLE documents (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
                crc INTEGER, metadata TEXT, text TEXT);
            CREATE TABLE vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL);
            CREATE TABLE fields (path, kind, value, row, PRIMARY KEY (path, kind, value, row))
                WITHOUT ROWID;"""
        self.connection.executescript(script)
        if self.lexical:
            self.connection.execute("CREATE VIRTUAL TABLE lexical USING fts5 (text, content = '')")

    def write(self, rows):
        run = self.connection.executemany
        self.connection.execute("BEGIN IMMEDIATE")
        run(
            "INSERT INTO documents VALUES (?, ?, ?, ?, ?)",
            [(n, str(n), zlib.crc32(t.encode()), json.dumps(m), t) for n, t, m, _ in rows],
        )
        run("INSERT INTO vectors VALUES (?, ?)", [(n, v.tobytes()) for n, _, _, v in rows])
        fields = [(k, "number", x, n) for n, _, m, _ in rows for k, x in m.items()]
        run("INSERT INTO fields VALUES (?, ?, ?, ?)", fields)
        if self.lexical:
            run("INSERT INTO lexical (rowid, text) VALUES (?, ?)", [(n, t) for n, t, _, _ in rows])
        self.connection.execute("COMMIT")


class SqliteLexical(Sqlite):
    lexical = True


class Chroma:
    def __init__(self, directory, width):
        import chromadb

        settings = chromadb.Settings(anonymized_telemetry=False)
        client = chromadb.PersistentClient(directory, settings=settings)
        self.collection = client.create_collection("bench")

    def write(self, rows):
        self.collection.upsert(
            ids=[str(n) for n, *_ in rows], documents=[t for _, t, _, _ in rows],
            metadatas=[m for _, _, m, _ in rows], embeddings=[v for *_, v in rows],
        )  # fmt: skip


class Lancedb:
    def __init__(self, directory, width):
        import lancedb

        self.store = lancedb.connect(directory)
        self.table = None

    def write(self, rows):
        records = [{"id": str(n), "text": t, **m, "vector": v} for n, t, m, v in rows]
        if self.table is None:
            self.table = self.store.create_table("bench", records)
        else:
            self.table.add(records)


class Milvus:
    def __init__(self, directory, width):
        from pymilvus import MilvusClient

        self.client = MilvusClient(f"{directory}/milvus.db")
        self.client.create_collection("bench", dimension=width, metric_type="IP")
        self.client.release_collection("bench")  # no index is built while others have their turn

    def write(self, rows):
        records = [{"id": n, "text": t, **m, "vector": v.tolist()} for n, t, m, v in rows]
        self.client.insert("bench", records)


ENGINES = {
    "SQLite": ("sqlite3", Sqlite),
    "SQLite and FTS5": ("sqlite3", SqliteLexical),
    "Chroma": ("chromadb", Chroma),
    "LanceDB": ("lancedb", Lancedb),
    "Milvus Lite": ("pymilvus", Milvus),
}


def started(package, kind, directory, vectors_file):
    importlib.import_module(package)
    vectors = np.load(vectors_file)
    store = kind(directory, vectors.shape[1])
    name = {"pymilvus": "milvus-lite"}.get(package, package)
    version = sqlite3.sqlite_version if name == "sqlite3" else importlib.metadata.version(name)

    def answer(asked):
        rows = [
            (n, text_of(n), {"part": n % 100}, vectors[n % len(vectors)])
            for n in range(asked["first"], asked["first"] + asked["count"])
        ]
        batch = asked["batch"]

        def write():
            for start in range(0, len(rows), batch):
                store.write(rows[start : start + batch])

        return timed(write)[1]

    return answer, version


def text_of(row: int) -> str:
    """Some forty words that differ."""
    return " ".join(f"word{(row * 31 + i * i) % 5_000}" for i in range(40))


if __name__ == "__main__":
    sys.exit(serve({name: partial(started, *what) for name, what in ENGINES.items()}))
