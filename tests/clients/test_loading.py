"""Bulk loads from files: which line is which, and where an interrupted load goes on."""

import json
import uuid
from pathlib import Path

import pytest

from polyseme.cli.lines import Lines
from polyseme.cli.reading import Shape
from polyseme.cli.sources import Source, names_of

COUNT = 30


@pytest.fixture
def broken(tmp_path):
    """A file whose last line is bad: without --skip-bad it ends a load that has begun."""
    return jsonl(tmp_path / "d.jsonl", COUNT, last="{oops\n")


def jsonl(path, count, last=""):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f'{{"id": "d{i}", "text": "t"}}\n' for i in range(count)) + last)
    return path


def load(polyseme, *args, **changes):
    return polyseme("upsert", *args, "--batch-documents", 4, "--json", **changes)


def test_a_collection_that_was_made_again_is_filled_from_the_beginning(polyseme, client, broken):
    name = f"c-{uuid.uuid4().hex[:8]}"
    client.create_collection(name)
    assert load(polyseme, name, broken)[0] == 1
    client.delete_collection(name)
    client.create_collection(name)

    status, _, err = load(polyseme, name, broken, "--skip-bad")

    assert status == 4
    assert "going on" not in err
    assert client.count(name) == COUNT
    client.delete_collection(name)


def test_a_restored_snapshot_without_the_writes_is_filled_from_the_beginning(
    polyseme, client, broken
):
    name = f"c-{uuid.uuid4().hex[:8]}"
    client.create_collection(name)
    empty = client.create_snapshot(name)
    assert load(polyseme, name, broken)[0] == 1
    client.delete_collection(name)
    client.restore_snapshot(empty.name, name)

    status, _, err = load(polyseme, name, broken, "--skip-bad")

    assert status == 4
    assert "beginning anew" in err
    assert client.count(name) == COUNT
    client.delete_collection(name)


def test_a_load_that_stopped_at_a_bad_line_goes_on_behind_what_is_written(
    polyseme, client, collection, broken
):
    assert load(polyseme, collection, broken)[0] == 1

    status, out, err = load(polyseme, collection, broken, "--skip-bad")

    assert status == 4
    assert "going on behind" in err
    assert json.loads(out)["documents"] == client.count(collection) == COUNT
    assert json.loads(out)["this_run"] < COUNT


@pytest.mark.parametrize("state", ["/proc/nope", "plain file"])
def test_without_a_place_for_its_state_a_load_warns_once_and_goes_on(
    polyseme, client, collection, tmp_path, state
):
    if state == "plain file":
        state = tmp_path / "plain"
        state.touch()

    status, _, err = load(
        polyseme, collection, jsonl(tmp_path / "d.jsonl", COUNT), XDG_STATE_HOME=str(state)
    )

    assert (status, client.count(collection)) == (0, COUNT)
    assert err.count("begin anew") == 1
    assert err.count("\n") == 1


def test_rows_that_are_written_already_are_not_remembered(tmp_path):
    source = Source(jsonl(tmp_path / "d.jsonl", COUNT), "jsonl", "d.jsonl")
    lines = Lines([source], Shape(), skip_bad=False)

    list(lines.documents(written=COUNT - 5))

    assert lines.underway == 5
    assert lines.landed(COUNT) == COUNT


def test_files_of_one_name_neither_overwrite_nor_hide_each_other(
    polyseme, client, collection, tmp_path
):
    for directory in "ab":
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "n.txt").write_bytes(f"{directory}1\n".encode())
        (tmp_path / directory / "m.jsonl").write_text(f'{{"id": "{directory}", "text": "t"}}\n')
    (tmp_path / "a/m.jsonl").write_text("{oops\n")

    texts = load(polyseme, collection, tmp_path / "a/n.txt", tmp_path / "b/n.txt")
    records = load(
        polyseme, collection, tmp_path / "a/m.jsonl", tmp_path / "b/m.jsonl", "--skip-bad"
    )

    assert (texts[0], records[0]) == (0, 4)
    assert "a/m.jsonl line 1: is not JSON" in records[2]
    assert {d.id: d.text for d in client.documents(collection)} == {
        "a/n.txt:1": "a1",
        "b/n.txt:1": "b1",
        "b": "t",
    }


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/x/n.txt"], ["n.txt"]),
        (["/x/n.txt", "/x/m.txt"], ["n.txt", "m.txt"]),
        (["/x/a/n.txt", "/y/a/n.txt", "/m.txt"], ["x/a/n.txt", "y/a/n.txt", "m.txt"]),
        (["/n.txt", "/x/n.txt"], ["/n.txt", "x/n.txt"]),
        (["/x/n.txt", "/x/../x/n.txt"], ["n.txt", "n.txt"]),
    ],
)
def test_a_file_is_called_by_as_little_of_its_path_as_tells_it_apart(paths, names):
    assert list(names_of(map(Path, paths)).values()) == names


def test_csv_that_cannot_be_followed_ends_the_load_and_is_gone_on_with(
    polyseme, client, collection, tmp_path
):
    file = tmp_path / "d.csv"
    rows = "".join(f"d{i},t\n" for i in range(COUNT))
    file.write_text(f'id,text\n{rows}x,"never closed\ny,t\n')

    first = load(polyseme, collection, file, "--skip-bad")
    second = load(polyseme, collection, file, "--skip-bad")

    assert first[0] == second[0] == 1
    assert f"d.csv line {COUNT + 2}: is not CSV" in first[2]
    assert "nothing after it was read" in first[2]
    assert "going on behind" in second[2]
