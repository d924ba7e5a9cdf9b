"""docs/data-format.md: the data are read by what the page says, not by the code that wrote."""

import hashlib
import json
import re
import sqlite3
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from index import database
from index.documents import Document
from index.settings import StoreSettings
from index.spec import CollectionSpec
from index.store import FORMAT, Store

PAGE = (Path(__file__).parents[2] / "docs" / "data-format.md").read_text(encoding="utf-8")
SEALED = Path(__file__).parent / "data" / "format-1-sealed.tar.gz"


@pytest.fixture(params=["stored", "today"])
def directory(request, tmp_path):
    """A closed data directory with a collection `fruit`: stored long ago, and written now."""
    if request.param == "stored":
        with tarfile.open(SEALED) as archive:
            archive.extractall(tmp_path / "data", filter="data")
        return tmp_path / "data"
    settings = StoreSettings(exact_vectors_max=20, flat_vectors_max=18, disk_free_bytes_min=0)
    with Store.open(tmp_path / "data", settings) as store:
        collection = store.create(CollectionSpec(name="fruit", dimensions=4, description="äpfel"))
        vectors = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
        metadata = {"n": 1, "list": [1, "x", None], "object": {"é": True}}
        made = [
            Document(id=f"d{i}", text=f"Äpfel {i}", metadata=metadata, vector=vector)
            for i, vector in enumerate(vectors)
        ]
        collection.upsert(made, request_id="first")
        collection.wait_for_builds()
        collection.delete(["d3"])
        collection.snapshot(tmp_path / "data" / "snapshots" / "fruit" / "early")
    return tmp_path / "data"


@pytest.fixture
def rows(directory):
    """rows(sql) of the database."""
    connection = sqlite3.connect(directory / "collections/fruit/documents.sqlite3")
    yield lambda sql: connection.execute(sql).fetchall()
    connection.close()


def crc(*parts):
    return zlib.crc32(b"\0".join(part.encode() for part in parts))


def signed(path):
    """The JSON below a line that has its SHA-256."""
    digest, body = path.read_bytes().split(b"\n", 1)
    assert hashlib.sha256(body).hexdigest().encode() == digest
    return json.loads(body)


def table(heading):
    """The first column of the page's first table below `heading`."""
    below = PAGE.split(f"## {heading}\n")[1]
    return re.findall(r"^\| `(.+?)` ", below, re.MULTILINE)


def squeezed(sql):
    return re.sub(r"\s+", " ", sql).strip().rstrip(";").strip()


def test_the_page_has_the_tables_that_there_are(rows):
    [source] = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    told = {squeezed(statement) for statement in source.split(";\n") if statement.strip()}

    there = {squeezed(sql) for (sql,) in rows("SELECT sql FROM sqlite_schema WHERE sql <> ''")}

    assert told == {sql for sql in there if "lexical_" not in sql}


def test_the_page_has_the_meta_keys_and_the_format(directory, rows):
    meta = dict(rows("SELECT key, value FROM meta"))

    assert set(table("documents.sqlite3")) >= meta.keys()
    assert meta["format"] == database.FORMAT == 1
    assert (directory / "FORMAT").read_bytes() == f"{FORMAT}\n".encode() == b"1\n"
    assert re.fullmatch("[0-9a-f]{32}", meta["uid"])
    assert rows(f"SELECT max(row) < {meta['next_row']} FROM documents") == [(1,)]
    spec = json.loads(meta["spec"])
    assert all(f"`{key}`" in PAGE for key in spec)
    assert (directory / "collections/fruit/collection.json").read_text() == meta["spec"]
    assert rows("PRAGMA page_size") == [(8192,)]


def test_rows_have_the_checksums_that_the_page_tells(rows):
    columns = "row, id, sequence, created_at, updated_at, metadata, text, crc"
    for row, id, sequence, created, updated, metadata, text, told in rows(
        f"SELECT {columns} FROM documents"
    ):
        assert told == crc(f"{row},{sequence},{created!r},{updated!r}", id, metadata, text)
    for row, blob, told in rows("SELECT row, vector, crc FROM vectors"):
        assert told == zlib.crc32(blob, row)
        assert np.linalg.norm(np.frombuffer(blob, "<f4")) == pytest.approx(1)


def test_fields_and_requests_are_as_the_page_tells(rows):
    assert {kind for (kind,) in rows("SELECT DISTINCT kind FROM fields")} <= set("olnsbz")
    assert all(value == "" for (value,) in rows("SELECT value FROM fields WHERE kind IN ('o','l')"))
    [(digest, result)] = rows("SELECT digest, result FROM requests")
    assert len(digest) == 32
    assert all(f"`{key}`" in PAGE for key in json.loads(result))


def test_the_seal_is_the_line_that_the_page_tells(directory, rows):
    line = (directory / "collections/fruit/SEAL").read_bytes()
    meta = dict(rows("SELECT key, value FROM meta"))
    data = (directory / "collections/fruit/documents.sqlite3").read_bytes()

    assert len(line) == 128
    assert line[0:32].decode() == meta["uid"]
    assert int(line[33:53]) == meta["sequence"]
    assert line[54:118].decode() == hashlib.sha256(data).hexdigest()
    assert line[119:127].decode() == f"{zlib.crc32(line[0:119]):08x}"
    assert (line[32:33], line[53:54], line[118:119], line[127:]) == (b" ", b" ", b" ", b"\n")


def test_segments_are_as_the_page_tells(directory, rows):
    segments = directory / "collections/fruit/segments"
    manifest = signed(segments / "MANIFEST")
    meta = dict(rows("SELECT key, value FROM meta"))
    vectors = dict(rows("SELECT row, vector FROM vectors"))

    assert set(table("segments/")) >= manifest.keys()
    assert (manifest["format"], manifest["uid"]) == (1, meta["uid"])
    assert manifest["sequence"] <= meta["sequence"]
    [segment] = manifest["segments"]
    assert all(f"`{key}`" in PAGE for key in segment)
    for suffix, told in segment["files"].items():
        data = (segments / f"{segment['name']}.{suffix}").read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (told["bytes"], told["sha256"])
    held = np.fromfile(segments / f"{segment['name']}.rows", "<i8").tolist()
    matrix = np.fromfile(segments / f"{segment['name']}.vectors", "<f4").reshape(len(held), -1)
    assert held == sorted(held)
    assert len(held) == segment["count"]
    for row, vector in zip(held, matrix, strict=True):
        assert vectors.get(row) in (vector.tobytes(), None)


def test_a_snapshot_is_as_the_page_tells(directory):
    for snapshot in (directory / "snapshots").glob("*/*"):
        manifest = signed(snapshot / "SNAPSHOT")
        assert all(f"`{key}`" in PAGE for key in manifest)
        for name, told in manifest["files"].items():
            data = (snapshot / name).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (told["bytes"], told["sha256"])


def test_every_file_is_named_by_the_page(directory):
    for path in directory.rglob("*"):
        name = path.name if path.suffix not in (".rows", ".vectors", ".faiss") else path.suffix
        if path.is_file():
            assert name in PAGE, f"{path} is not in docs/data-format.md"
