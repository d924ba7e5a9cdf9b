"""Senses through the client and the command, against real servers."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme import (
    AsyncClient,
    Client,
    FingerprintMismatch,
    InvalidRequest,
    SenseExample,
    SenseInventory,
    Span,
)
from polyseme.cli import app as cli
from polyseme.cli.senses import LineInvalid, read_labelled, unmarked
from polyseme.errors import PolysemeError

SAMPLE = Path(__file__).parents[2] / "clients" / "samples" / "senses.tsv"
FRUIT = [
    "Apple was juicy and sweet",
    "She peeled an apple",
    "The apple fell from the tree",
    "Apple pie",
]
FIRM = [
    "Apple stock crashed today",
    "Apple announced a phone",
    "They sold their Apple shares",
    "Apple hires",
]
APPLES = [*((text, "fruit") for text in FRUIT), *((text, "firm") for text in FIRM)]


@pytest.fixture(scope="module")
def inventory(server_address):
    with Client(server_address) as client:
        return client.fit_senses(APPLES, word="apple")


@pytest.fixture
def polyseme(server_address, capfd, monkeypatch):
    """Run the command; (status, out, err)."""

    def run(*args, stdin=None):
        monkeypatch.setattr(sys, "argv", ["polyseme", "--address", server_address, *map(str, args)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        status = cli.run()
        out, err = capfd.readouterr()
        return status, out, err

    return run


# ---- the client


def test_an_inventory_says_what_was_learnt_and_keeps_it_in_a_file(client, inventory, tmp_path):
    (word,) = inventory.words

    assert word.word == "apple"
    assert [(sense.name, sense.examples) for sense in word.senses] == [("firm", 4), ("fruit", 4)]
    assert word.calibrated
    assert 0 < word.checked_right <= word.checked == 8
    assert inventory.fingerprint == client.info().model.sense_fingerprint
    inventory.save(tmp_path / "apple.senses")
    assert SenseInventory.load(tmp_path / "apple.senses") == inventory
    assert json.loads((tmp_path / "apple.senses").read_text())["words"][0]["word"] == "apple"


def test_senses_are_told_with_their_probabilities(client, inventory):
    ripe, sued = client.classify_senses(
        inventory, ["He bit into a ripe apple", "Apple sued a rival over patents"]
    )

    assert (ripe.sense, sued.sense) == ("fruit", "firm")
    assert list(ripe.probabilities) == ["fruit", "firm"]
    assert sum(ripe.probabilities.values()) == pytest.approx(1)
    assert ripe.margin == pytest.approx(np.subtract(*ripe.probabilities.values()))
    assert (ripe.word, ripe.span.of(ripe.text)) == ("apple", "apple")


def test_words_may_be_named_pointed_at_and_have_forms(client):
    examples = [
        SenseExample("A grassy bank", "river", "bank"),
        SenseExample("The banks of the Nile", "river", "bank", target=slice(4, 9)),
        SenseExample("The bank lent money", "money", target="bank"),
        SenseExample("A bank account", "money", target=Span(2, 6, 2, 6)),
    ]
    inventory = client.fit_senses(examples)
    told = client.classify_senses(
        inventory,
        ["Banks and banks", "Three bankers", "The bank bank"],
        [("banks", 0), "bankers", ("bank", 1)],
        word="bank",
    )

    assert inventory.words[0].forms == ("banks",)
    assert [each.span.start for each in told] == [10, 6, 9]
    assert client.classify_senses(inventory, ["Many BANKS"])[0].span.start == 5


def test_many_texts_travel_in_many_requests_and_bad_ones_may_fail_alone(
    small_server_address, inventory
):
    texts = [f"Apple number {i} fell" for i in range(9)]
    with Client(small_server_address) as client:
        told = client.classify_senses(inventory, texts)
        texts[6] = "a pear"
        with pytest.raises(InvalidRequest, match=r"texts\[6\]\.text: holds none"):
            client.classify_senses(inventory, texts)
        partly = client.classify_senses(inventory, texts, partial=True)

        assert [each.text for each in partly] == texts
        assert isinstance(partly[6].error, PolysemeError)
        assert "texts[6].text" in str(partly[6].error)
        assert [each.sense for each in partly[:6]] == [each.sense for each in told[:6]]
        assert client.classify_senses(inventory, []) == []
        with pytest.raises(InvalidRequest, match="examples: 5 sentences; the limit is 4"):
            client.fit_senses(APPLES[:5], word="apple")


async def test_the_asyncio_client_learns_and_tells_the_same(server_address, client, inventory):
    async with AsyncClient(server_address) as other:
        assert await other.fit_senses(APPLES, word="apple") == inventory
        told = await other.classify_senses(inventory, ["An apple pie"])

    assert told == client.classify_senses(inventory, ["An apple pie"])


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "examples: give at least one"),
        ([("An apple", "fruit")], "'apple' has one sense, 'fruit'"),
        ([("An apple", "fruit"), ("A pear", "firm")], r"examples\[1\]\.text: does not hold"),
        ([("An apple", "fruit"), ("Apple", "")], r"examples\[1\]\.sense: the name is empty"),
        (["An apple"], r"examples\[0\]"),
        ([("\ud800", "fruit")], r"examples\[0\]\.text: holds a lone surrogate"),
        ([SenseExample("An apple", "a", target=slice(3, 3))], r"examples\[0\]\.target: span"),
    ],
)
def test_examples_that_teach_nothing_are_refused_by_name(client, examples, message):
    with pytest.raises(InvalidRequest, match=message):
        client.fit_senses(examples, word="apple")


def test_an_inventory_of_another_model_is_refused(client, inventory):
    other = SenseInventory.from_json(inventory.to_json())
    other.message().fingerprint.combined = "ab" * 32

    with pytest.raises(FingerprintMismatch, match="fit it anew"):
        client.classify_senses(other, ["An apple"])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"words": 3}', '{"apples": []}'])
def test_a_file_that_is_no_inventory_is_refused(tmp_path, content):
    file = tmp_path / "x.senses"
    file.write_text(content)

    with pytest.raises(ValueError, match="no sense inventory"):
        SenseInventory.load(file)


def test_the_sense_space_is_twice_as_long_and_another_fingerprint(client):
    (plain,) = client.words("An apple", "apple")
    (sense,) = client.words("An apple", "apple", space="sense")

    assert len(sense.vector) == 2 * len(plain.vector)
    assert sense.fingerprint == client.info().model.sense_fingerprint != plain.fingerprint
    with pytest.raises(InvalidRequest, match="layers"):
        client.words("An apple", "apple", space="sense", layers=[1])
    with pytest.raises(InvalidRequest, match="space"):
        client.words("An apple", "apple", space="outer")


# ---- the command


def test_the_sample_teaches_senses_that_unseen_sentences_have(polyseme, tmp_path):
    file = tmp_path / "senses.json"

    status, out, err = polyseme("senses", "fit", SAMPLE, "-o", file)
    assert status == 0
    assert "told right when left out" in out
    assert "senses classify" in err
    status, told, _ = polyseme(
        "senses", "classify", file, "--json",
        "Apple stock crashed today", "He ate a ripe apple", "A bank lends money",
        "Two [[banks]] overgrown with reeds", "--word", "bank",
    )  # fmt: skip
    assert status == 4  # two of them hold no bank
    lines = [json.loads(line) for line in told.splitlines()]
    assert [line["sense"] for line in lines] == ["money", "river"]
    status, table, _ = polyseme(
        "senses", "classify", file, stdin="Apple stock crashed today\nHe ate a ripe apple\n"
    )
    assert status == 0
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["company", "fruit"]
    status, shown, _ = polyseme("senses", "show", file)
    assert (status, shown) == (0, out)


def test_a_wrong_line_is_named_by_its_number(polyseme, tmp_path):
    file = tmp_path / "labelled.tsv"
    for content, message in (
        ("apple\tfruit\n", "line 1: 2 columns; wanted: word TAB sense TAB sentence"),
        ("\n# a comment\napple\t\tAn apple\n", "line 3: 3 columns, some of them empty"),
        ("", "no line of it is an example"),
        ("apple\tfruit\tAn apple\n\napple\tfirm\tA pear\n", "line 3: does not hold"),
        ("apple\tfruit\tAn apple\n", "has one sense, 'fruit'"),
    ):
        file.write_text(content)
        status, _, err = polyseme("senses", "fit", file, "-o", tmp_path / "out")
        assert status in (1, 2)
        assert message in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_word_is_marked_behind_a_carriage_return(polyseme, inventory, tmp_path, monkeypatch):
    inventory.save(tmp_path / "apple.senses")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")

    _, out, _ = polyseme("senses", "classify", tmp_path / "apple.senses", "one\rtwo apple pie")

    assert "one two \x1b[1mapple\x1b[0m pie" in out


def test_lines_of_stdin_are_counted_with_the_blank_ones(polyseme, tmp_path):
    lines = "\n\napple\tfruit\tAn apple\n\napple\tfirm\tA pear\n"

    _, _, err = polyseme("senses", "fit", "-", "-o", tmp_path / "out", stdin=lines)

    assert "line 5: does not hold" in err


def test_a_text_without_a_known_word_is_reported_and_the_others_are_told(
    polyseme, inventory, tmp_path
):
    inventory.save(tmp_path / "apple.senses")

    status, out, err = polyseme(
        "senses", "classify", tmp_path / "apple.senses", "A pear", "Apple pie", "--json"
    )

    assert status == 4
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["Apple pie"]
    assert err.startswith("text 1 skipped")
    status, _, _ = polyseme("senses", "classify", tmp_path / "apple.senses", "A pear")
    assert status == 1
    status, _, err = polyseme("senses", "classify", SAMPLE, "A pear")
    assert status == 2
    assert "no sense inventory" in err


words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)


@settings(deadline=None)
@given(st.lists(st.tuples(words, words, words, words), min_size=1, max_size=5))
def test_marks_are_taken_out_and_their_place_is_the_words(rows):
    lines = [f"{word}\t{sense}\t{before} [[{word}s]] {word}" for word, sense, before, _ in rows]

    numbers, examples = read_labelled(lines)

    assert numbers == list(range(1, len(rows) + 1))
    for (word, sense, before, _), example in zip(rows, examples, strict=True):
        assert (example.word, example.sense) == (word, sense)
        assert example.text == f"{before} {word}s {word}"
        assert example.text[example.target] == f"{word}s"


def test_without_a_mark_the_server_looks_for_the_word():
    assert unmarked("No mark [here]") == ("No mark [here]", None)
    with pytest.raises(LineInvalid, match="line 2: 4 columns"):
        read_labelled(["a\tb\tc", "a\tb\tc\td"])


def test_the_sample_is_balanced_and_its_licence_is_told():
    _, examples = read_labelled(SAMPLE.read_text("utf-8").splitlines())

    for word in ("apple", "bank"):
        senses = [example.sense for example in examples if example.word == word]
        assert {senses.count(sense) for sense in senses} == {8}
    assert "CC0" in (SAMPLE.parent / "LICENSE.md").read_text("utf-8")
