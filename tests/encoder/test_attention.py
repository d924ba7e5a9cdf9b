import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoder.attention import head_mean, rollout, strongest
from encoder.checkpoint import load_sentence_encoder
from encoder.manifest import Graph, read_manifest, write_manifest
from encoder.runtime import Encoder, GraphMissing, Precision
from encoder.tokenizer import Truncation

TEXT = "The animal did not cross the street because it was too tired."


def window_of(encoder, text=TEXT):
    return encoder.tokenizer.encode(
        [text], tokens_max=encoder.tokens_max, truncation=Truncation.ERROR
    )[0].windows[0]


def by_torch(directory, window):
    ids = torch.from_numpy(window.ids)[None]
    with torch.inference_mode():
        encoded = load_sentence_encoder(directory).encoder(ids, explain=True)
    return torch.stack(encoded.attentions)[:, 0].numpy()


def random_attention(seed, layers=3, heads=2, tokens=5):
    scores = np.random.default_rng(seed).normal(size=(layers, heads, tokens, tokens))
    shares = np.exp(scores)
    return (shares / shares.sum(axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("model", ["tiny", "minilm"])
def test_attention_is_torchs_to_the_fifth_digit_and_its_rows_sum_to_one(request, model):
    directory = request.getfixturevalue(model)
    encoder = Encoder.load(directory, precision=Precision.FP32)
    window = window_of(encoder)

    got = encoder.attention(window, range(1, encoder.layers + 1))

    tokens = len(window.ids)
    assert got.shape == (encoder.layers, encoder.heads, tokens, tokens)
    np.testing.assert_allclose(got, by_torch(directory, window), atol=1e-5)
    np.testing.assert_allclose(got.sum(axis=-1), 1, atol=1e-6)


def test_attention_is_what_transformers_gives(minilm):
    from transformers import AutoModel

    encoder = Encoder.load(minilm, precision=Precision.FP32)
    window = window_of(encoder)
    judge = AutoModel.from_pretrained(minilm, attn_implementation="eager", local_files_only=True)

    with torch.inference_mode():
        told = judge(torch.from_numpy(window.ids)[None], output_attentions=True).attentions

    got = encoder.attention(window, range(1, encoder.layers + 1))
    np.testing.assert_allclose(got, torch.stack(told)[:, 0].numpy(), atol=1e-5)


def test_rows_sum_to_one_in_int8_too(minilm):
    encoder = Encoder.load(minilm, precision=Precision.INT8)

    got = encoder.attention(window_of(encoder), [1, encoder.layers])

    np.testing.assert_allclose(got.sum(axis=-1), 1, atol=1e-6)


def test_layers_come_as_asked_for_and_from_one_on(tiny):
    encoder = Encoder.load(tiny, precision=Precision.FP32)
    window = window_of(encoder)
    every = encoder.attention(window, range(1, encoder.layers + 1))

    np.testing.assert_array_equal(encoder.attention(window, [3, 1, 3]), every[[2, 0, 2]])
    assert encoder.attention(window, []).shape == (0, *every.shape[1:])
    for layer in (0, encoder.layers + 1):
        with pytest.raises(ValueError, match=f"layer {layer} does not exist; this model has 1"):
            encoder.attention(window, [layer])


def test_a_directory_exported_without_attention_still_serves_and_says_what_to_do(tiny, tmp_path):
    directory = tmp_path / "old"
    shutil.copytree(tiny, directory)
    for precision in ("fp32", "fp16", "int8"):
        (directory / "onnx" / precision / "attention.onnx").unlink()
    write_manifest(directory, read_manifest(directory))
    content = json.loads((directory / "polyseme.json").read_text())
    content["checksum"] = ""
    for parity in content["precisions"].values():  # as written before there was attention
        for name in [name for name in parity if "attention" in name or "logit" in name]:
            del parity[name]
    (directory / "polyseme.json").write_text(json.dumps(content))

    encoder = Encoder.load(directory)

    assert encoder.pooled([window_of(encoder)]).shape == (1, encoder.width)
    assert Graph.ATTENTION not in encoder.graphs
    with pytest.raises(GraphMissing, match="polyseme-model export"):
        encoder.attention(window_of(encoder), [1])


@given(seed=st.integers(0, 1000), layers=st.integers(1, 4), tokens=st.integers(1, 6))
def test_means_and_rollouts_keep_rows_that_sum_to_one(seed, layers, tokens):
    attention = random_attention(seed, layers=layers, tokens=tokens)

    for made in (head_mean(attention), rollout(attention)):
        assert made.shape == (layers, tokens, tokens)
        np.testing.assert_allclose(made.sum(axis=-1), 1, atol=1e-5)


def test_a_rollout_is_the_product_of_half_attention_half_residual():
    first, second = random_attention(4, layers=2).mean(axis=1)
    identity = np.eye(5)

    rolled = rollout(random_attention(4, layers=2))

    np.testing.assert_allclose(rolled[0], (first + identity) / 2, atol=1e-6)
    expected = (second + identity) / 2 @ ((first + identity) / 2)
    np.testing.assert_allclose(rolled[1], expected, atol=1e-6)


def test_the_strongest_edges_of_a_row_come_first_and_ties_keep_their_order():
    shares = np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]], dtype=np.float32)

    edges = strongest(shares, 2)

    assert [(row, column) for row, column, _ in edges] == [(0, 1), (0, 2), (1, 0), (1, 2)]
    assert edges[0][2] == pytest.approx(0.5)
    assert len(strongest(shares, 9)) == 6
