"""Translation from Python and from the terminal, with a small model that knows a few sentences."""

import io
import json
import os
import shutil
import sys

import numpy as np
import pytest

from encoder.manifest import read_manifest, write_manifest
from polyseme import AsyncClient, Client, FailedPrecondition, InvalidRequest
from polyseme.cli import app as cli

FRENCH = "Le chat voit la maison."
ENGLISH = "The cat sees the house."
GERMAN = "Die Katze sieht das Haus."


@pytest.fixture(scope="module")
def address(start_server, translating_directory):
    with start_server(model=translating_directory) as address:
        yield address


@pytest.fixture
def client(address):
    with Client(address) as client:
        yield client


@pytest.fixture
def polyseme(address, capfd, monkeypatch):
    def run(*args, stdin=None):
        monkeypatch.setenv("POLYSEME_SERVER", address)
        monkeypatch.setattr(sys, "argv", ["polyseme", "translate", *map(str, args)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        status = cli.run()
        out, err = capfd.readouterr()
        return status, out, err

    return run


def test_texts_are_translated_in_order(client):
    found = client.translate([FRENCH, GERMAN, "12:30"], "en")

    assert [str(one) for one in found] == [ENGLISH, ENGLISH, "12:30"]
    assert [one.source_language for one in found] == ["fr", "de", ""]
    assert found[0].detection_confidence > 0.9
    assert found[0].sentences[0].source.of(FRENCH) == FRENCH


def test_alternatives_and_alignment(client):
    (found,) = client.translate(
        [FRENCH], "en", source="fr", beams=4, alternatives=2, alignment=True
    )

    (sentence,) = found.sentences
    best, second = sentence.hypotheses
    assert best.score > second.score
    assert best.alignment.weights.shape == (5, 5)
    assert isinstance(best.alignment.weights, np.ndarray)
    words = [span.of(FRENCH) for span in best.alignment.source_words]
    assert words == ["Le", "chat", "voit", "la", "maison"]
    for source, target, weight in best.alignment.pairs:
        assert source in best.alignment.source_words
        assert target in best.alignment.target_words
        assert 0 < weight <= 1


def test_any_number_of_texts_is_translated_in_batches(client):
    found = client.translate_iter((FRENCH for _ in range(10)), "en", batch_texts=3)

    assert [one.text for one in found] == [ENGLISH] * 10


def test_a_bad_text_is_named_by_its_place_among_all(client):
    with pytest.raises(InvalidRequest, match=r"texts\[4\]"):
        list(client.translate_iter([FRENCH] * 4 + [" "], "en", batch_texts=2))
    with pytest.raises(InvalidRequest, match="to: "):
        client.translate([FRENCH], "")
    with pytest.raises(InvalidRequest, match=r"to: .*unknown"):
        client.translate([FRENCH], "xx")


def test_the_pairs_are_listed(client):
    assert ("fr", "en") in client.language_pairs()
    assert ("en", "en") not in client.language_pairs()


async def test_the_asyncio_client_translates_too(address):
    async with AsyncClient(address) as client:
        found = await client.translate([FRENCH], "de")
        streamed = [one.text async for one in client.translate_iter([FRENCH], "de")]

    assert [found[0].text, *streamed] == [GERMAN, GERMAN]


def test_hits_are_translated(client):
    client.create_collection("hits")
    client.upsert("hits", [{"id": "a", "text": FRENCH}])

    (hit,) = client.search("hits", "house", translate_to="en").hits
    (plain,) = client.search("hits", "house").hits

    assert (hit.translation.text, hit.translation.source_language) == (ENGLISH, "fr")
    assert plain.translation is None


def test_the_command_prints_the_translation_alone(polyseme):
    status, out, _ = polyseme(FRENCH, GERMAN, "--to", "en")

    assert (status, out) == (0, f"{ENGLISH}\n{ENGLISH}\n")


def test_lines_come_out_as_they_go_in(polyseme, tmp_path):
    file, out = tmp_path / "in.txt", tmp_path / "out.txt"
    file.write_text(f"{FRENCH}\n\n{GERMAN}\n12:30\n", "utf-8")

    status, _, err = polyseme("--to", "en", "--file", file, "--out", out)
    _, piped, _ = polyseme("--to", "en", "--from", "fr", stdin=f"{FRENCH}\n")

    assert status == 0
    assert out.read_text("utf-8") == f"{ENGLISH}\n\n{ENGLISH}\n12:30\n"
    assert "3 lines translated" in err
    assert piped == f"{ENGLISH}\n"


def test_a_file_may_be_translated_into_itself_and_a_failure_leaves_it_as_it_was(polyseme, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(f"{FRENCH}\n", "utf-8")

    refused = polyseme("--to", "xx", "--file", file, "--out", file)
    before = file.read_text("utf-8")
    done = polyseme("--to", "en", "--file", file, "--out", file)

    assert (refused[0], before) == (1, f"{FRENCH}\n")
    assert (done[0], file.read_text("utf-8")) == (0, f"{ENGLISH}\n")
    assert list(tmp_path.iterdir()) == [file]


def test_lines_end_where_editors_end_them_and_a_byte_order_mark_is_no_text(polyseme, tmp_path):
    file = tmp_path / "in.txt"
    file.write_bytes(f"\ufeff12:30\r\n12\u202831\r12\f32\n{FRENCH}".encode())

    _, out, _ = polyseme("--to", "en", "--file", file, "--json")
    _, piped, _ = polyseme("--to", "en", "--json", stdin=file.read_bytes().decode())

    assert [json.loads(line)["source"] for line in out.rstrip("\n").split("\n")] == [
        "12:30",
        "12\u202831",
        "12\f32",
        FRENCH,
    ]
    assert piped == out


def test_only_a_file_is_replaced_and_keeps_its_place_and_its_mode(polyseme, tmp_path):
    link, target, pipe = tmp_path / "link", tmp_path / "target", tmp_path / "pipe"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    polyseme(FRENCH, "--to", "en", "--out", link)
    polyseme(FRENCH, "--to", "en", "--out", pipe)

    assert link.is_symlink()
    assert target.read_text("utf-8") == f"{ENGLISH}\n"
    assert target.stat().st_mode & 0o777 == 0o600
    assert os.read(reader, 100).decode() == f"{ENGLISH}\n"
    os.close(reader)


def test_align_draws_a_map_and_nbest_a_ranking(polyseme):
    _, drawn, _ = polyseme(FRENCH, "--to", "en", "--align")
    _, ranked, _ = polyseme(FRENCH, "--to", "en", "--nbest", "3")

    rows = [line for line in drawn.splitlines() if line.strip().startswith(("0 The", "1 cat"))]
    assert len(rows) == 2
    assert "0 Le  1 chat  2 voit  3 la  4 maison" in drawn
    assert ENGLISH in ranked
    assert len([line for line in ranked.splitlines() if line.strip().startswith("-0.")]) >= 1


def test_json_has_everything(polyseme):
    _, out, _ = polyseme(FRENCH, "--to", "en", "--align", "--json")

    found = json.loads(out)
    assert found["source"] == FRENCH
    assert found["translation"]["text"] == ENGLISH
    weights = found["translation"]["sentences"][0]["hypotheses"][0]["alignment"]["weights"]
    assert len(weights) == 5


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["x", "--to", "en", "--nbest", "5", "--beam", "2"], 2, "--beam 5"),
        (["--to", "en", "--file", "/nowhere/at/all"], 2, "No such file"),
        (["bonjour", "--to", "xx"], 1, "unknown"),
        (["Привет мир, как дела?", "--to", "en"], 1, "looks like"),
    ],
)
def test_mistakes_end_in_one_sentence(polyseme, args, status, said):
    ended, out, err = polyseme(*args)

    assert (ended, out) == (status, "")
    assert said in err
    assert "Traceback" not in err


def test_a_server_without_a_translator_says_so(start_server, translating_directory, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(translating_directory, plain)
    shutil.rmtree(plain / "translation")
    write_manifest(plain, read_manifest(plain))

    with start_server(model=plain) as address, Client(address) as client:
        with pytest.raises(FailedPrecondition) as refused:
            client.translate([FRENCH], "en")
        with pytest.raises(FailedPrecondition):
            client.language_pairs()
    assert refused.value.reason == "MODEL_HAS_NO_TRANSLATION"
