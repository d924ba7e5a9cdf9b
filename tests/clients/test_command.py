"""The `polyseme` command, run as people run it, against a real server."""

import json
import signal
import subprocess
import sys
import time
import uuid

import pytest

from polyseme import OwnVectors


def command(*args):
    return [sys.executable, "-m", "polyseme.command", *map(str, args)]


def lines(count, path, text="text number {}"):
    documents = [{"id": f"d{i}", "text": text.format(i), "n": i} for i in range(count)]
    path.write_text("".join(json.dumps(d) + "\n" for d in documents))
    return path


def test_texts_come_as_arguments_or_as_lines(polyseme):
    status, out, _ = polyseme("embed", "one", "two", "--json")
    _, piped, _ = polyseme("--json", "embed", stdin="one\ntwo\n")

    assert status == 0
    found = [json.loads(line) for line in out.splitlines()]
    assert [sorted(f) for f in found] == [["fingerprint", "text", "tokens", "vector"]] * 2
    assert len(found[0]["vector"]) == 384
    assert piped == out


def test_rows_of_a_file_of_vectors_are_the_lines_so_that_none_may_be_blank(polyseme, tmp_path):
    file = tmp_path / "v.npy"

    status, _, err = polyseme("embed", "--npy", file, stdin="one\n \ntwo\n")

    assert status == 2
    assert "line 2 is blank" in err
    assert not file.exists()


def test_tables_in_a_pipe_have_no_control_codes(polyseme):
    for args in (["words", "Apple stock"], ["tokenize", "Apple"], ["info"], ["health"]):
        status, out, _ = polyseme(*args)
        assert status == 0
        assert out
        assert "\x1b" not in out


def test_a_comparison_shows_three_matrices_and_a_reading(polyseme):
    sentences = ["Apple was juicy", "An apple a day", "Apple stock crashed", "Apple shares fell"]

    status, out, _ = polyseme("compare", "apple", *sentences, "--senses", "a,a,b,b")

    assert status == 0
    for part in ("averaged", "sentence", "word in context", "margin", "Best at telling"):
        assert part in out


def test_a_word_is_marked_behind_a_carriage_return(polyseme):
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}

    _, out, _ = polyseme("compare", "apple", "one\rtwo apple pie", "An apple", **terminal)

    assert "one two \x1b[1mapple\x1b[0m pie" in out


def test_a_collection_is_filled_searched_exported_imported_and_deleted(polyseme, tmp_path):
    name = f"c-{uuid.uuid4().hex[:8]}"
    file, exported = lines(30, tmp_path / "d.jsonl"), tmp_path / "export.jsonl"

    assert polyseme("collections", "create", name)[0] == 0
    status, out, err = polyseme("upsert", name, file, "--json", "--batch-documents", 8)
    assert (status, json.loads(out)["documents"], err) == (0, 30, "")
    _, out, _ = polyseme("search", name, "number seven", "-k", 3, "--filter", "n<5", "--json")
    assert {h["document"]["metadata"]["n"] for h in json.loads(out)["hits"]} <= set(range(5))
    assert polyseme("export", name, "--vectors", "-o", exported)[0] == 0

    polyseme("collections", "create", f"{name}-2")
    assert polyseme("import", f"{name}-2", exported)[0] == 0
    _, first, _ = polyseme("export", name, "--vectors")
    _, second, _ = polyseme("export", f"{name}-2", "--vectors")
    assert first == second == exported.read_text()

    assert polyseme("delete", name, "d1", "d2")[0] == 0
    _, out, _ = polyseme("delete", name, "--filter", "n>=20", "--yes", "--json")
    assert json.loads(out)["deleted"] == 10
    for c in (name, f"{name}-2"):
        assert polyseme("collections", "delete", c, "--yes")[0] == 0


@pytest.mark.parametrize(
    ("args", "status", "told"),
    [
        (["search", "no-such-collection", "x"], 1, "no-such-collection"),
        (["search", "c", "x", "--mode", "psychic"], 2, "psychic"),
        (["search", "c", "x", "--filter", "a~b"], 2, "field=value"),
        (["upsert", "c", "no-such-file.jsonl"], 2, "no such file"),
        (["compare", "apple", "An apple", "Apples", "--senses", "a"], 2, "1 senses for 2"),
        (["--address", "127.0.0.1:1", "info"], 3, "no polyseme server answers"),
        (["--address", "nonsense", "info"], 2, "host:port"),
        (["frobnicate"], 2, "frobnicate"),
        (["delete", "c"], 2, "--filter"),
    ],
)
def test_the_exit_status_tells_the_kind_of_failure(polyseme, args, status, told):
    code, out, err = polyseme(*args)

    assert (code, out) == (status, "")
    assert told in err
    assert "Traceback" not in err


def test_a_bad_line_stops_the_load_unless_it_may_be_skipped(polyseme, client, collection, tmp_path):
    file = tmp_path / "d.jsonl"
    file.write_text('{"id": "a", "text": "b"}\n{oops\n{"id": "c", "text": "d"}\n')

    status, _, err = polyseme("upsert", collection, file)
    assert status == 1
    assert "d.jsonl line 2: is not JSON" in err

    status, _, err = polyseme("upsert", collection, file, "--skip-bad")
    assert status == 4
    assert client.count(collection) == 2


def test_a_line_that_only_the_server_refuses_is_named_and_skipped(
    polyseme, client, collection, tmp_path
):
    file = lines(20, tmp_path / "d.jsonl")
    with file.open("a") as stream:
        print(json.dumps({"id": "x" * 600, "text": "an id of 600 bytes"}), file=stream)
        print(json.dumps({"id": "last", "text": "fine"}), file=stream)

    status, _, err = polyseme("upsert", collection, file, "--batch-documents", 4)
    assert status == 1
    assert "d.jsonl line 21" in err

    status, _, err = polyseme("upsert", collection, file, "--batch-documents", 4, "--skip-bad")
    assert status == 4
    assert "d.jsonl line 21" in err
    assert client.count(collection) == 21


def test_csv_and_text_from_stdin(polyseme, client, collection):
    status, _, _ = polyseme("upsert", collection, "--format", "text", stdin="one\ntwo\n")

    assert status == 0
    assert [d.id for d in client.documents(collection)] == ["stdin:1", "stdin:2"]


@pytest.mark.parametrize(("key", "status"), [("secret\n", 0), ("sécret", 2)])
def test_a_key_may_end_its_line_and_must_be_what_a_header_carries(polyseme, key, status):
    code, _, err = polyseme("info", POLYSEME_API_KEY=key)

    assert code == status
    assert ("only printable ASCII" in err) == (status == 2)
    assert "Traceback" not in err


def test_a_missing_extra_is_one_sentence(environment):
    code = (
        "import sys, importlib.util as u; f = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'rich' else f(n, *a)\n"
        "from polyseme.command import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install './clients/python[cli]'" in done.stderr


def test_a_reader_that_leaves_is_not_an_error_worth_words(environment, client):
    name = f"c-{uuid.uuid4().hex[:8]}"
    client.create_collection(name, vectors=OwnVectors(dimensions=2))
    client.write(
        name, ({"id": f"{i}", "text": "text " * 100, "vector": [1, i]} for i in range(1000))
    )
    process = subprocess.Popen(
        command("export", name),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.stdout.close()

    assert process.wait(30) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_an_interrupted_load_goes_on_where_it_was(environment, client, collection, tmp_path):
    total = 3_000  # takes seconds: the interrupt must come long before the end
    file = lines(total, tmp_path / "d.jsonl", text="a sentence of some length, number {}, to embed")
    args = command("upsert", collection, file, "--batch-documents", 10, "--json")
    process = subprocess.Popen(
        args, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while client.count(collection) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 130, err
    assert "Traceback" not in err
    written = client.count(collection)
    assert 0 < written < total

    done = subprocess.run(args, env=environment, capture_output=True, text=True, check=True)

    assert "going on behind" in done.stderr
    summary = json.loads(done.stdout)
    assert summary["this_run"] <= total - written + 40  # what was on its way is written again
    assert client.count(collection) == summary["documents"] == total
    assert not list((tmp_path / "state").rglob("upsert-*"))


def test_every_command_has_an_example(polyseme):
    commands = "embed words compare tokenize search upsert import delete export info health"
    collections = "list create show delete snapshot restore check compact"
    paths = [[c] for c in commands.split()] + [["collections", c] for c in collections.split()]
    for path in paths:
        status, out, _ = polyseme(*path, "--help")
        assert status == 0
        assert f"Example: polyseme {' '.join(path)}" in out
