import shutil
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.command import main
from encoder.discriminant import unit
from encoder.evaluation.vectors import WordVectors
from encoder.manifest import read_manifest, verify
from encoder.runtime import Encoder, Precision
from encoder.training.senses import groups_of, judge, nearer_in_document, whitening_of
from encoder.training.uses import Uses


def pairs(words, documents, width, seed=0, noise=1.0):
    """Uses whose mates share a point: (words * documents * 2, width)."""
    random = np.random.default_rng(seed)
    points = np.repeat(random.normal(size=(words * documents, width)), 2, axis=0)
    return points + noise * random.normal(size=points.shape)


def groups(words, documents):
    return [slice(2 * documents * w, 2 * documents * (w + 1)) for w in range(words)]


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(1, 6), st.integers(0, 10**6))
def test_the_measure_counts_what_it_says(documents, width, seed):
    rows = unit(pairs(1, documents, width, seed))

    cosines = rows @ rows.T
    wins = []
    for i in range(len(rows)):
        mate = cosines[i, i ^ 1]
        others = [cosines[i, j] for j in range(len(rows)) if j // 2 != i // 2]
        wins += [1 if mate > other else 0.5 if mate == other else 0 for other in others]
    assert nearer_in_document(rows) == pytest.approx(np.mean(wins))


def test_chance_is_a_half_and_certainty_is_one():
    assert nearer_in_document(unit(pairs(1, 300, 20, noise=100))) == pytest.approx(0.5, abs=0.02)
    assert nearer_in_document(unit(pairs(1, 20, 20, noise=0.001))) == 1


def test_the_layer_in_which_documents_differ_is_the_best():
    layers = np.stack([pairs(4, 12, 8, seed=i, noise=n) for i, n in enumerate((9, 0.3, 2))])
    vectors = WordVectors(layers.astype(np.float32), *[np.ones((96, 8), np.float32)] * 3)

    judged = judge(vectors, groups(4, 12), [(2,), (1,), (1, 2)])

    assert [each.layers for each in judged] == [(1,), (1, 2), (2,)]
    assert [each.nearer for each in judged] == sorted((e.nearer for e in judged), reverse=True)


def test_what_varies_within_documents_is_evened_out_half_the_way():
    random = np.random.default_rng(0)
    points = np.repeat(random.normal(size=(2000, 2)), 2, axis=0)
    rows = points + random.normal(size=points.shape) * [16, 1] + 5

    whitening = whitening_of(rows, groups(100, 20), 0.5)

    within = whitening.apply(rows)[::2] - whitening.apply(rows)[1::2]
    assert np.std(within, axis=0)[0] / np.std(within, axis=0)[1] == pytest.approx(4, rel=0.1)
    np.testing.assert_allclose(whitening.apply(rows).mean(axis=0), 0, atol=1e-6)


def test_the_rows_of_words_lie_end_to_end():
    uses = [Uses("a", ("x",) * 4, ((0, 1),) * 4), Uses("b", ("y",) * 6, ((0, 1),) * 6)]

    assert groups_of(uses) == [slice(0, 4), slice(4, 10)]


# ---- the command

NOUNS = ["apple", "bank", "stock", "phone", "river", "tree", "water", "store", "pie"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    documents = [
        "\n".join(
            f"She saw the {noun} of town {n} there. Then a {noun} was all that {n} had left."
            for noun in NOUNS
        )
        for n in range(14)
    ]
    filler = [f"This is a text, number {n}, of little worth to us." for n in range(90)]
    (folder / "a.txt").write_text("\n\n".join([*documents, *filler]))
    return folder


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["polyseme-model", *map(str, arguments)])
    main()


def test_a_model_is_given_a_file_that_it_loads_and_the_same_twice(
    monkeypatch, capsys, tiny, text, tmp_path
):
    first, second = (shutil.copytree(tiny, tmp_path / name) for name in ("one", "two"))
    for directory in (first, second):
        run(monkeypatch, "senses", directory, "--text", text, "--precision", "fp32")
    printed = capsys.readouterr().out

    assert "senses by layers" in printed
    assert "nearer in a document" in printed
    assert (first / "senses.safetensors").read_bytes() == (
        second / "senses.safetensors"
    ).read_bytes()
    verify(first, read_manifest(first))
    space = Encoder.load(first, precision=Precision.FP32).sense_space
    assert space.whitening is not None
    assert space.origin["text"] == "a.txt"
    run(monkeypatch, "info", first)
    assert "whitened on" in capsys.readouterr().out


@pytest.mark.parametrize("spoil", [lambda f: f.unlink(), lambda f: f.write_bytes(b"damaged")])
def test_a_file_that_is_damaged_or_gone_is_fitted_anew(monkeypatch, tiny, text, tmp_path, spoil):
    directory = shutil.copytree(tiny, tmp_path / "model")
    fit = ("senses", directory, "--text", text, "--precision", "fp32", "--words", "9")
    run(monkeypatch, *fit)
    before = (directory / "senses.safetensors").read_bytes()
    spoil(directory / "senses.safetensors")

    run(monkeypatch, *fit)

    assert (directory / "senses.safetensors").read_bytes() == before
    Encoder.load(directory, precision=Precision.FP32)


@pytest.mark.parametrize(
    ("model", "folder", "message"),
    [
        ("nowhere", ".", "nowhere has no polyseme.json"),
        (None, "nowhere", "nowhere has no text"),
        (None, "empty", "empty has no text"),
    ],
)
def test_a_mistake_is_one_line(  # noqa: PLR0917  (two are fixtures)
    monkeypatch, tiny, tmp_path, model, folder, message
):
    (tmp_path / "empty").mkdir()

    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "senses", model or tiny, "--text", tmp_path / folder)

    assert message in str(end.value.code)
    assert "\n" not in str(end.value.code)
