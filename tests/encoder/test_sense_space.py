import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from encoder.checkpoint import load_sentence_encoder
from encoder.config import Pooling
from encoder.discriminant import unit
from encoder.manifest import ModelDamaged, read_manifest, verify, write_manifest
from encoder.runtime import Encoder, Precision
from encoder.sense_space import (
    SENSES,
    SenseSpace,
    beside,
    encoded,
    lowered,
    read_space,
    read_tensors,
    write_space,
)
from encoder.tokenizer import Truncation
from encoder.whitening import Whitening
from encoder.words import SubwordPooling, find_word, tokens_of

TEXTS = ["Apple was juicy", "Apple stock crashed today", "An apple a day."]


def whitening(width, seed=0):
    random = np.random.default_rng(seed)
    return Whitening(random.normal(size=width), random.normal(size=(width, width)))


def with_senses(source, directory, layers=(1, 2)):
    """A copy of a model directory with a whitening of random numbers."""
    shutil.copytree(source, directory)
    width = SenseSpace.dimensions(read_manifest(directory).states_width)
    write_space(directory, layers, whitening(width), {"uses": "5"})
    write_manifest(directory, read_manifest(directory))
    return directory


@pytest.fixture
def whitened(tiny, tmp_path):
    return with_senses(tiny, tmp_path / "whitened")


def test_what_is_written_is_read_and_the_manifest_has_its_hash(whitened):
    manifest = read_manifest(whitened)
    verify(whitened, manifest)

    space = read_space(whitened, manifest)

    assert space.layers == (1, 2)
    assert space.sha256 == manifest.files[SENSES].sha256
    assert space.origin["uses"] == "5"
    np.testing.assert_allclose(space.whitening.matrix, whitening(64).matrix, rtol=1e-6)
    np.testing.assert_allclose(space.whitening.mean, whitening(64).mean, rtol=1e-6)


def test_the_file_is_one_that_the_safetensors_library_reads(whitened, tmp_path):
    theirs = load_file(whitened / SENSES)

    assert {name: tensor.shape for name, tensor in theirs.items()} == {
        "mean": (64,),
        "matrix": (64, 64),
    }
    save_file(theirs, tmp_path / "again.safetensors", metadata={"a": "b"})
    ours, metadata = read_tensors(tmp_path / "again.safetensors")
    assert metadata == {"a": "b"}
    np.testing.assert_array_equal(ours["matrix"], theirs["matrix"])


def test_a_model_without_the_file_uses_its_word_layers_not_whitened(tiny):
    encoder = Encoder.load(tiny, precision=Precision.FP32)

    assert encoder.sense_space.layers == encoder.word_layers
    assert encoder.sense_space.whitening is None
    assert "not whitened" in encoder.sense_fingerprint(SubwordPooling.MEAN).pooling


def test_another_whitening_is_another_fingerprint_and_changes_no_other_vector(whitened, tiny):
    ours, plain = (Encoder.load(path, precision=Precision.FP32) for path in (whitened, tiny))
    windows = [
        text.windows[0]
        for text in ours.tokenizer.encode(TEXTS, tokens_max=32, truncation=Truncation.ERROR)
    ]

    one, other = (e.sense_fingerprint(SubwordPooling.MEAN) for e in (ours, plain))
    assert one.combined != other.combined
    assert ours.fingerprint() == plain.fingerprint()
    np.testing.assert_array_equal(ours.pooled(windows), plain.pooled(windows))


@pytest.mark.parametrize("layers", [(2,), (1,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("pooling", Pooling)
def test_a_vector_is_the_whitened_pair_of_word_and_sentence_at_length_one(layers, pooling):
    random = np.random.default_rng(0)
    every = random.normal(size=(3, 9, 4)).astype(np.float32)  # layers, tokens, width
    space = SenseSpace(layers, 2, whitening(8))

    found = space.vectors(
        every[list(space.states_needed)], [slice(1, 3), slice(5, 6)], SubwordPooling.MEAN, pooling
    )

    assert found.shape == (2, SenseSpace.dimensions(4))
    assert found.dtype == np.float32
    last = {Pooling.MEAN: every[2].mean(0), Pooling.CLS: every[2, 0], Pooling.MAX: every[2].max(0)}
    for row, run in zip(found, (slice(1, 3), slice(5, 6)), strict=True):
        word = every[list(layers)][:, run].mean(axis=(0, 1))
        pair = beside(word[None], last[pooling][None])
        np.testing.assert_allclose(row, unit(space.whitening.apply(pair))[0], atol=1e-6)
        assert np.linalg.norm(row) == pytest.approx(1)


def test_the_encoder_s_states_go_in_as_they_come(whitened):
    encoder = Encoder.load(whitened, precision=Precision.FP32)
    space = encoder.sense_space
    (text,) = encoder.tokenizer.encode(TEXTS[:1], tokens_max=32, truncation=Truncation.ERROR)
    run = tokens_of(text.windows[0], find_word(TEXTS[0], "Apple"))

    (states,) = encoder.states(text.windows, space.states_needed)
    found = space.vectors(states, [run], SubwordPooling.MEAN, encoder.pooling)

    (every,) = encoder.states(text.windows, (1, 2, encoder.layers))
    sentence = every[2][0] if encoder.pooling is Pooling.CLS else every[2].mean(axis=0)
    expected = space.joined(every[:2, run].mean(axis=(0, 1))[None], sentence[None])
    np.testing.assert_allclose(found, expected, atol=1e-6)


GOOD = {"format": "polyseme-senses-1", "layers": "1", "weights_sha256": ""}


def spoilt(tensors=None, **metadata):
    numbers = {"mean": np.zeros(64), "matrix": np.eye(64)} if tensors is None else tensors
    return lambda sha: encoded(numbers, {**GOOD, "weights_sha256": sha, **metadata})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda sha: b"", "makes no sense"),
        (lambda sha: b"\xff" * 20, "its header would have"),
        (lambda sha: (3).to_bytes(8, "little") + b"abc", "makes no sense"),
        (lambda sha: spoilt()(sha)[:-9], "makes no sense"),
        (spoilt({}), "mean"),
        (spoilt({"mean": np.zeros(3), "matrix": np.eye(3)}), "do not fit vectors of 64"),
        (spoilt({"mean": np.zeros(64), "matrix": np.full((64, 64), np.nan)}), "not finite"),
        (spoilt(layers="1,nine"), "makes no sense"),
        (spoilt(layers="9"), "not within 0 to"),
        (spoilt(format="polyseme-senses-2"), "its format is"),
        (spoilt(weights_sha256="ab"), "fitted for other weights; fit it anew"),
    ],
)
def test_a_file_that_makes_no_sense_is_named(tiny, tmp_path, content, message):
    directory = shutil.copytree(tiny, tmp_path / "spoilt")
    weights = read_manifest(tiny).files["model.safetensors"].sha256
    (directory / SENSES).write_bytes(content(weights))
    write_manifest(directory, read_manifest(directory))

    with pytest.raises(ModelDamaged, match=message) as damage:
        Encoder.load(directory, precision=Precision.FP32)

    assert damage.value.file == directory / SENSES


def test_a_file_changed_after_it_was_recorded_is_refused(whitened):
    data = bytearray((whitened / SENSES).read_bytes())
    data[-1] ^= 1
    (whitened / SENSES).write_bytes(data)

    with pytest.raises(ModelDamaged, match="another SHA-256"):
        Encoder.load(whitened, precision=Precision.FP32)


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
@pytest.mark.parametrize("projected_width", [0, 24])
def test_the_file_changes_nothing_for_transformers_and_sentence_transformers(
    saved, tmp_path, model_type, projected_width
):
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    from encoder.importing import import_directory

    source = saved(model_type, projected_width=projected_width)
    before = SentenceTransformer(str(source), device="cpu", local_files_only=True).encode(TEXTS)
    import_directory(source, tmp_path / "plain")
    directory = with_senses(tmp_path / "plain", tmp_path / "model")

    after = SentenceTransformer(str(directory), device="cpu", local_files_only=True).encode(TEXTS)
    judge = AutoModel.from_pretrained(directory, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    with torch.inference_mode():
        given = tokenizer(TEXTS[1], return_tensors="pt")
        theirs = judge(**given).last_hidden_state[0]
        ours = load_sentence_encoder(directory).encoder(given["input_ids"]).last[0]

    np.testing.assert_array_equal(after, before)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert (projected_width or 32) == after.shape[1]
    assert json.loads((directory / "polyseme.json").read_text())["files"][SENSES]["sha256"]


@given(st.text())
def test_lower_case_leaves_every_character_in_its_place(text):
    read = lowered(text)

    assert len(read) == len(text)
    for given_, made in zip(text, read, strict=True):
        assert made in (given_, given_.lower(), "ς")  # a sigma at the end of a word


def test_texts_are_read_in_lower_case_only_where_the_space_was_fitted_so(tiny, tmp_path):
    for choice, expected in (("yes", "apple İstanbul"), ("no", "Apple İSTANBUL")):
        directory = shutil.copytree(tiny, tmp_path / choice)
        origin = {"lower_cased": choice}
        write_space(directory, (1,), whitening(64), origin)
        write_manifest(directory, read_manifest(directory))

        space = read_space(directory, read_manifest(directory))

        assert space.as_read("Apple İSTANBUL") == expected
    assert read_space(tiny, read_manifest(tiny)).as_read("Apple") == "Apple"
