import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from encoder.checkpoint import load_sentence_encoder
from encoder.config import Pooling, UnsupportedModel
from encoder.export import NoParity, export_directory
from encoder.importing import default_word_layers, import_directory
from encoder.manifest import Parity, Precision, read_manifest, write_manifest
from encoder.parity import require, state_difference
from encoder.runtime import Encoder
from encoder.tokenizer import Truncation

SAME = {"texts": 1, "cosine_mean": 1.0, "cosine_min": 1.0, "difference_max": 0.0}
TEXTS = ["An apple a day.", "Two.", "A longer text " * 30]


@pytest.mark.parametrize(
    ("model_type", "pooling"),
    [
        ("bert", Pooling.CLS),
        ("roberta", Pooling.MAX),
        ("xlm-roberta", Pooling.MEAN),
        ("modernbert", Pooling.CLS),
    ],
)
def test_fp32_graphs_answer_as_torch_does(saved, tmp_path, model_type, pooling):
    out = tmp_path / "model"
    import_directory(saved(model_type, pooling=pooling), out)

    manifest = export_directory(out, precisions=[Precision.FP32])

    assert manifest.precisions[Precision.FP32].difference_max <= 1e-5
    encoder, model = Encoder.load(out, precision=Precision.FP32), load_sentence_encoder(out)
    for text in encoder.tokenizer.encode(TEXTS, tokens_max=128, truncation=Truncation.HEAD):
        ids = torch.from_numpy(text.windows[0].ids)[None]
        with torch.inference_mode():
            expected = model(ids, torch.ones_like(ids)).numpy()
        np.testing.assert_allclose(encoder.pooled(text.windows), expected, atol=1e-5)


def test_every_precision_of_minilm_is_close_to_torch(minilm):
    parities = read_manifest(minilm).precisions

    assert parities[Precision.FP32].difference_max <= 1e-5
    assert parities[Precision.FP32].attention_difference_max <= 1e-5
    assert parities[Precision.FP16].cosine_min >= 0.99999
    assert parities[Precision.INT8].cosine_mean >= 0.998
    assert parities[Precision.INT8].cosine_min >= 0.99


def test_weights_are_stored_once_for_all_graphs(minilm):
    sizes = {file.name: file.stat().st_size for file in (minilm / "onnx" / "fp32").iterdir()}

    graphs = ["attention.onnx", "pooled.onnx", "states.onnx", "static.onnx"]
    assert sorted(sizes) == [*graphs, "weights.bin"]
    assert sizes.pop("weights.bin") < 1.01 * (minilm / "model.safetensors").stat().st_size
    assert max(sizes.values()) < 100_000


def test_int8_is_a_quarter_of_fp32(minilm):
    def size(precision):
        return (minilm / "onnx" / precision / "weights.bin").stat().st_size

    assert size("int8") < 0.27 * size("fp32")


def test_a_graph_that_answers_otherwise_is_not_written(tiny, monkeypatch):
    before = (tiny / "polyseme.json").read_bytes()
    monkeypatch.setitem(__import__("encoder.parity").parity.COSINE_MEAN_MIN, Precision.INT8, 1.1)

    with pytest.raises(NoParity, match=r"1\.1 and"):
        export_directory(tiny, precisions=[Precision.INT8])

    assert (tiny / "polyseme.json").read_bytes() == before
    assert not list(tiny.glob(".export-*"))
    Encoder.load(tiny, precision=Precision.INT8)


@pytest.mark.parametrize(
    "parity",
    [
        Parity(texts=1, cosine_mean=1.0, cosine_min=1.0, difference_max=2e-5),
        Parity(texts=1, cosine_mean=1.0, cosine_min=1.0, difference_max=float("nan")),
        Parity(texts=1, cosine_mean=float("nan"), cosine_min=float("nan"), difference_max=0.0),
        Parity(texts=1, cosine_mean=1.0, cosine_min=0.9, difference_max=0.0),
        Parity(**SAME, attention_difference_max=2e-5),
        Parity(**SAME, logit_difference_max=2e-4),
        Parity(**SAME, logit_cosine_mean=float("nan")),
    ],
)
def test_what_is_not_shown_to_agree_does_not_count(parity):
    with pytest.raises(NoParity):
        require(Precision.FP32, parity)


def test_large_states_are_compared_at_their_own_size():
    small, large = np.array([0.5, 1e-3]), np.array([100.0, 1e-3])

    assert state_difference(small + 1e-4, small) == pytest.approx(1e-4)
    assert state_difference(large + 1e-4, large) == pytest.approx(1e-6)
    assert np.isnan(state_difference(large * np.nan, large))


def test_an_import_keeps_what_sentence_transformers_needs(minilm_source, minilm):
    for file in ("modules.json", "1_Pooling/config.json", "config.json", "model.safetensors"):
        assert (minilm / file).read_bytes() == (minilm_source / file).read_bytes()
    manifest = read_manifest(minilm)
    assert (manifest.name, manifest.width, manifest.tokens_max) == ("all-MiniLM-L6-v2", 384, 256)
    assert manifest.normalized
    assert manifest.word_layers == (6,) == default_word_layers(6, sentences=True)
    assert default_word_layers(6, sentences=False) == (4, 5, 6)


def test_prompts_and_a_projection_come_along(tiny):
    manifest = read_manifest(tiny)

    assert manifest.prompts == {"query": "query: "}
    assert (manifest.width, manifest.states_width) == (24, 32)


def test_a_vocabulary_alone_becomes_the_same_tokenizer(saved, minilm_source, tmp_path):
    source = saved("bert")
    (source / "tokenizer.json").unlink()
    (source / "vocab.txt").write_bytes((minilm_source / "vocab.txt").read_bytes())
    (source / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    import_directory(source, tmp_path / "model")
    export_directory(tmp_path / "model", precisions=[Precision.FP32])

    ours = Encoder.load(tmp_path / "model", precision=Precision.FP32).tokenizer
    text = "Ünïcode apples, 我吃苹果"
    encoded = ours.encode([text], tokens_max=64, truncation=Truncation.ERROR)[0].windows[0]

    from transformers import AutoTokenizer

    judge = AutoTokenizer.from_pretrained(minilm_source, local_files_only=True)
    assert encoded.ids.tolist() == judge(text)["input_ids"]


def test_weights_in_half_precision_take_half_of_the_disk_and_answer_nearly_the_same(
    saved, tmp_path
):
    source = saved("modernbert", projected_width=24)
    whole = import_directory(source, tmp_path / "whole")
    half = import_directory(source, tmp_path / "half", half=True)

    sizes = [m.files["model.safetensors"].size_bytes for m in (half, whole)]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.01)
    files = [tmp_path / name / "2_Dense/model.safetensors" for name in ("half", "whole")]
    kept, given = (load_file(file)["linear.weight"] for file in files)
    assert kept.dtype is torch.float16
    torch.testing.assert_close(kept.float(), given, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(
        load_sentence_encoder(tmp_path / "half").encoder.embeddings.word.weight,
        load_sentence_encoder(source).encoder.embeddings.word.weight,
        rtol=1e-3,
        atol=1e-6,
    )


def test_an_import_that_fails_leaves_nothing_in_the_way_of_the_next(saved, tmp_path):
    source = saved("bert")
    (source / "tokenizer.json").unlink()  # found missing when the rest is copied

    for _ in range(2):
        with pytest.raises(UnsupportedModel, match="neither"):
            import_directory(source, tmp_path / "model")

    assert list(tmp_path.iterdir()) == []


def test_hidden_folders_are_no_part_of_a_model(saved, tmp_path):
    import_directory(saved("bert"), tmp_path / "model")
    hidden = tmp_path / "model" / ".git"
    hidden.mkdir()
    (hidden / "index").write_bytes(b"of another program")

    write_manifest(tmp_path / "model", read_manifest(tmp_path / "model"))

    assert not [name for name in read_manifest(tmp_path / "model").files if ".git" in name]


def test_an_import_never_overwrites(saved, tiny):
    with pytest.raises(FileExistsError, match="never overwritten"):
        import_directory(saved("bert"), tiny)


def test_a_directory_that_training_wrote_is_described_and_exported(saved, tmp_path):
    directory = saved("modernbert").rename(tmp_path / "mine")

    export_directory(directory, precisions=[Precision.FP32])

    assert Encoder.load(directory, precision=Precision.FP32).name == "mine"
