"""Attention, fillings and substitutes through the client and the command, against real servers."""

import json
import sys

import numpy as np
import pytest

from polyseme import AsyncClient, Client, FailedPrecondition, InvalidRequest, Token
from polyseme.cli import app as cli
from polyseme.cli import heat

TIRED = "The animal did not cross the street because it was too tired"


@pytest.fixture(scope="session")
def guessing_address(start_server, filling_directory):
    """A server whose model has a masked-LM head, and few masks in one request."""
    with start_server(model=filling_directory, masks_max=3) as address:
        with Client(address) as client:
            client.wait_until_serving(timeout_s=60)
        yield address


@pytest.fixture
def guessing(guessing_address):
    with Client(guessing_address) as client:
        yield client


@pytest.fixture
def polyseme(capfd, monkeypatch):
    """Run the command; (status, out, err)."""

    def run(address, *args):
        monkeypatch.setattr(sys, "argv", ["polyseme", "--address", address, *map(str, args)])
        status = cli.run()
        out, err = capfd.readouterr()
        return status, out, err

    return run


# ---- the client


def test_attention_comes_layer_by_layer_as_one_array(client):
    found = client.attention(TIRED)

    tokens = len(found.tokens)
    assert found.shares.shape == np.asarray(found).shape == (6, 12, tokens, tokens)
    assert (found.layers, found.heads) == (tuple(range(1, 7)), tuple(range(12)))
    np.testing.assert_allclose(found.shares.sum(axis=-1), 1, atol=1e-5)
    assert found.tokens[2].span.of(TIRED) == "animal"
    assert found.fingerprint.combined


def test_a_word_is_one_row(client):
    whole = client.attention(TIRED, kind="mean", layers=[-1])
    found = client.attention(TIRED, kind="mean", layers=[-1], words=["it"])

    assert [found.tokens[row].text for row in found.rows] == ["it"]
    np.testing.assert_array_equal(found.shares[0, 0, 0], whole.shares[0, 0, found.rows[0]])
    assert found.heads == ()


def test_what_is_pruned_is_nothing(client):
    whole = client.attention(TIRED, kind="rollout", layers=[3], rows=[4, 2])
    found = client.attention(TIRED, kind="rollout", layers=[3], rows=[4, 2], edges_per_row_max=3)

    assert found.rows == whole.rows == (2, 4)
    assert (np.count_nonzero(found.shares, axis=-1) == 3).all()
    kept = found.shares > 0
    np.testing.assert_array_equal(found.shares[kept], whole.shares[kept])
    assert found.shares[kept].min() >= np.sort(whole.shares, axis=-1)[..., -3:].min()


async def test_the_asyncio_client_gathers_the_stream_too(server_address, client):
    async with AsyncClient(server_address) as other:
        found = await other.attention(TIRED, layers=[1, 2])

    np.testing.assert_array_equal(found.shares, client.attention(TIRED, layers=[1, 2]).shares)


def test_a_word_that_is_not_there_is_named(client):
    with pytest.raises(InvalidRequest, match=r"words\[0\].*'zebra'"):
        client.attention(TIRED, words=["zebra"])
    with pytest.raises(InvalidRequest, match="kind"):
        client.attention(TIRED, kind="medium")


def test_masks_are_filled_in_as_many_requests_as_it_takes(guessing):
    texts = [f"The [MASK] of [MASK] number {n}" for n in range(5)]

    found = guessing.fill_mask(texts, k=2)

    assert [filled.text for filled in found] == texts
    for filled in found:
        assert [len(mask.guesses) for mask in filled.masks] == [2, 2]
        assert [mask.span.of(filled.text) for mask in filled.masks] == ["[MASK]"] * 2
        first, second = (mask.guesses[0].text for mask in filled.masks)
        number = filled.text.split()[-1]
        assert filled.best() == f"The {first} of {second} number {number}"
    with pytest.raises(InvalidRequest, match=r"texts\[4\]"):
        guessing.fill_mask([*texts[:4], "no mask"])


def test_candidates_and_another_mark(guessing):
    (found,) = guessing.fill_mask(["An ___ fell."], mask="___", candidates=["apple", "dog"])

    assert {guess.text for guess in found.masks[0].guesses} == {"apple", "dog"}
    assert guessing.fill_mask([]) == []
    with pytest.raises(InvalidRequest, match=r"candidates.*\[text\]"):
        guessing.fill_mask(["An [MASK]"], candidates="apple")


def test_substitutes_stand_where_the_word_stood(guessing):
    found = guessing.substitute("Apple stock crashed", "stock", k=3)

    assert (found.word, found.span.start) == ("stock", 6)
    assert len(found.guesses) == 3
    assert "stock" not in {guess.text for guess in found.guesses}
    assert found.itself.text == "stock"
    assert guessing.substitute("A polyseme", "polyseme").itself is None


async def test_the_asyncio_client_guesses_the_same(guessing_address, guessing):
    async with AsyncClient(guessing_address) as other:
        assert await other.fill_mask(["A [MASK]"]) == guessing.fill_mask(["A [MASK]"])
        there = await other.substitute("A dog ran", ("dog", 0))

    assert there == guessing.substitute("A dog ran", "dog")


def test_a_model_without_a_head_is_a_failed_precondition_with_its_reason(client):
    with pytest.raises(FailedPrecondition, match="masked-LM head") as failure:
        client.fill_mask(["A [MASK]"])

    assert failure.value.reason == "MODEL_HAS_NO_HEAD"
    assert client.health("polyseme.v1.LanguageModelService") == "not serving"
    assert client.health("polyseme.v1.AttentionService") == "serving"


# ---- the command


def test_a_heat_map_has_a_row_a_token_and_fits_a_hundred_columns(polyseme, server_address):
    status, out, _ = polyseme(server_address, "attention", TIRED)

    assert status == 0
    assert "\x1b" not in out
    lines = out.splitlines()
    assert lines[0].startswith("layer 6, mean of the heads: row attends to column")
    assert [line.split()[1] for line in lines[3:17]] == ["[CLS]", *TIRED.lower().split(), "[SEP]"]
    assert max(map(len, lines[:17])) <= 100
    assert "not why the model answers" in out


def test_a_word_and_a_long_text_are_lists_of_bars(polyseme, server_address):
    for args, title in (
        ([TIRED, "--word", "it", "--layer", "3", "--head", "2"], "layer 3, head 2: what 'it'"),
        ([TIRED, "--word", "it", "--rollout"], "rollout to layer 6: what 'it' attends to"),
        ([f"{TIRED}. " * 3], "tokens: what all of them attend to on average"),
    ):
        status, out, _ = polyseme(server_address, "attention", *args)

        assert status == 0
        assert title in out
        assert "█" in out


def test_attention_as_json_is_the_clients_own(polyseme, server_address, client):
    _, out, _ = polyseme(server_address, "attention", TIRED, "--word", "it", "--json")

    found = json.loads(out)
    theirs = client.attention(TIRED, kind="mean", layers=[-1], words=["it"])
    assert found["layers"] == [6]
    np.testing.assert_allclose(found["shares"], theirs.shares, atol=1e-6)
    assert [token["text"] for token in found["tokens"]][1:3] == ["the", "animal"]


def test_a_rollout_of_one_head_is_wrong_usage(polyseme, server_address):
    status, _, err = polyseme(server_address, "attention", TIRED, "--rollout", "--head", "1")

    assert status == 2
    assert "leave --head out" in err


def test_fill_shows_guesses_and_the_best_text(polyseme, guessing_address):
    status, out, _ = polyseme(guessing_address, "fill", "The [MASK] fell.", "-k", 3)
    _, as_json, _ = polyseme(guessing_address, "--json", "fill", "The [MASK] fell.", "-k", 3)

    assert status == 0
    guesses = json.loads(as_json)["masks"][0]["guesses"]
    assert len(guesses) == 3
    assert out.splitlines()[-1] == f"The {guesses[0]['text']} fell."


@pytest.mark.parametrize("more", [[], ["--word", "dog"]])
def test_fill_refuses_more_guesses_than_a_message_can_ask_for(polyseme, guessing_address, more):
    text = "A dog ran" if more else "A [MASK] ran"

    status, _, err = polyseme(guessing_address, "fill", text, "-k", 99999999999, *more)

    assert (status, err) == (2, "polyseme: k: 99999999999 is beyond 2147483647.\n")


def test_fill_hides_a_word(polyseme, guessing_address):
    status, out, _ = polyseme(guessing_address, "fill", "A dog ran", "--word", "dog")
    _, chosen, _ = polyseme(
        guessing_address, "fill", "A dog ran", "--word", "dog", "--candidates", "cat, horse",
        "--json",
    )  # fmt: skip

    assert status == 0
    assert "'dog' itself" in out
    assert {guess["text"] for guess in json.loads(chosen)["guesses"]} == {"cat", "horse"}


def test_fill_marks_the_place_behind_a_carriage_return(polyseme, guessing_address, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")

    _, word, _ = polyseme(guessing_address, "fill", "one\rA dog ran", "--word", "dog")
    _, mask, _ = polyseme(guessing_address, "fill", "one\rA [MASK] ran")

    assert "one A \x1b[1;7mdog\x1b[0m ran" in word
    assert "one A \x1b[1;7m[MASK]\x1b[0m ran" in mask


def test_fill_says_what_a_model_lacks(polyseme, server_address):
    status, _, err = polyseme(server_address, "fill", "A [MASK]")

    assert status == 1
    assert "serve a model that has one" in err


# ---- cells


def test_cells_are_percent_and_what_rounds_to_nothing_is_a_dot():
    tokens = [Token(1, "[CLS]", None, True), Token(2, "多義語のとても長い言葉", None, False)]
    shares = np.array([[0.996, 0.004], [0.4, 0.6]], dtype=np.float32)

    lines = heat.heat_map(tokens, shares).plain.splitlines()

    assert lines[0] == " " * 15 + "  0  1"
    assert lines[1] == "  0 [CLS]      100  ·"
    assert lines[2].endswith(" 40 60")


def test_a_heat_map_of_a_hundred_columns_holds_28_tokens():
    assert heat.tokens_max(100) == heat.tokens_max(250) == 28
    assert heat.tokens_max(80) == 21
