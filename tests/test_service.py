"""The service as people meet it: a process with its defaults, a client, texts, a restart."""

import contextlib
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from polyseme import Client, field
from polyseme.cli.senses import read_labelled

ROOT = Path(__file__).resolve().parents[1]
START_S_MAX = 60

FRUIT = ["Apple was juicy", "She peeled an apple and ate it", "The apple fell from the tree"]
COMPANY = ["Apple stock crashed today", "Investors sold their Apple shares"]
DOCUMENTS = [
    *({"id": f"fruit-{i}", "text": text, "metadata": {"n": i}} for i, text in enumerate(FRUIT)),
    *({"id": f"company-{i}", "text": text} for i, text in enumerate(COMPANY)),
]


@contextlib.contextmanager
def service(model, data):
    """A server on a free port with every default, and a client of it."""
    command = [sys.executable, "-m", "server.command", "serve", "--address", "127.0.0.1:0"]
    command += ["--model", str(model), "--data", str(data)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POLYSEME_")}
    log = data.with_suffix(".log")
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=ROOT, env=clean, stderr=stream)
    try:
        port = None
        while port is None:
            assert process.poll() is None, log.read_text()
            port = next(iter(re.findall(r'"port": (\d+)', log.read_text())), None)
        with Client(f"127.0.0.1:{port}") as client:
            client.wait_until_serving(timeout_s=START_S_MAX)
            client.address = f"127.0.0.1:{port}"
            yield client
        process.terminate()
        assert process.wait(START_S_MAX) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("service") / "data"


@pytest.fixture(scope="module")
def client(model_directory, data):
    with service(model_directory, data) as client:
        client.create_collection("apples")
        client.write("apples", DOCUMENTS)
        yield client


def test_the_default_vectors_are_those_of_the_model_in_full_precision(client, minilm_source):
    from sentence_transformers import SentenceTransformer

    judge = SentenceTransformer(str(minilm_source), device="cpu", local_files_only=True)
    theirs = judge.encode(FRUIT + COMPANY, normalize_embeddings=True)
    ours = client.embed(FRUIT + COMPANY)

    assert ours.fingerprint.numeric_class == "int8"
    assert (np.asarray(ours) * theirs).sum(axis=1).min() > 0.985


def test_the_same_text_gives_the_same_vector_in_any_company(client):
    alone = np.asarray(client.embed(FRUIT[:1]))[0]
    in_company = np.asarray(client.embed([*COMPANY, "word " * 200, *FRUIT[:1]], truncation="head"))

    np.testing.assert_array_equal(in_company[-1], alone)


def test_search_finds_the_apple_that_is_meant(client):
    found = client.search("apples", "the share price of the computer maker", k=2)
    assert {hit.id for hit in found} == {"company-0", "company-1"}

    found = client.search("apples", "fruit that grows in an orchard", k=5)
    assert found.hits[0].id.startswith("fruit")
    assert all(left.score >= right.score for left, right in pairwise(found))


def test_words_in_context_keep_their_place_and_differ_by_context(client):
    fruit, company = client.words(["Apple was juicy 🍎", "Apple stock crashed today"])
    apple, other = fruit[0], company[0]

    assert (apple.word, apple.span.start, apple.span.end) == ("Apple", 0, 5)
    assert float(apple.vector @ other.vector) < 0.999


def test_compare_tells_how_far_each_kind_of_vector_parts_the_senses(client):
    senses = ["fruit"] * len(FRUIT) + ["company"] * len(COMPANY)
    views = client.compare("apple", FRUIT + COMPANY, senses=senses).views

    assert [view.kind for view in views] == ["averaged", "sentence", "word in context"]
    assert views[1].margin > 0


def test_documents_outlive_the_process(model_directory, tmp_path):
    data = tmp_path / "data"
    with service(model_directory, data) as first:
        first.create_collection("kept")
        first.write("kept", DOCUMENTS)
        before = first.search("kept", "orchard", filter=field("n").exists(), k=5)
    with service(model_directory, data) as second:
        after = second.search("kept", "orchard", filter=field("n").exists(), k=5)

    assert [(hit.id, hit.score) for hit in after] == [(hit.id, hit.score) for hit in before]
    assert after.exhausted
    assert len(after) == len(FRUIT)


def test_the_command_prints_json_that_scripts_can_read(client):
    run = subprocess.run(
        [sys.executable, "-m", "polyseme.command", "search", "apples", "orchard", "--json"],
        env={**os.environ, "POLYSEME_SERVER": client.address},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout)["hits"][0]["document"]["id"].startswith("fruit")


def test_the_model_that_ships_knows_which_apple_is_meant(tmp_path):
    labelled = (ROOT / "clients/samples/senses.tsv").read_text("utf-8").splitlines()
    uses = {
        "Apple was juicy": "fruit",
        "Apple stock crashed today": "company",
        "A heron stood motionless on the far bank": "river",
        "The bank raised its interest rates again": "money",
    }
    assert not [text for text in uses if any(text in line for line in labelled)]

    with service(ROOT / "models/polyseme-nano", tmp_path / "data") as client:
        inventory = client.fit_senses(read_labelled(labelled)[1])
        told = client.classify_senses(inventory, uses)

    assert {each.text: each.sense for each in told} == uses
    assert [each.text[each.span.start : each.span.end] for each in told] == [
        "Apple",
        "Apple",
        "bank",
        "bank",
    ]
