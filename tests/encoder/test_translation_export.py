"""Exported translators in both layouts: they answer as torch does, or are not written."""

from dataclasses import replace

import pytest
import torch

from encoder.beam import BeamPlan
from encoder.config import Activation, EncoderConfig
from encoder.manifest import Precision, read_manifest
from encoder.parity import NoParity
from encoder.translated import translate_texts
from encoder.translation import Translator
from encoder.translation_config import AlignmentHeads, TranslationConfig
from encoder.translation_export import export_translator
from encoder.translation_manifest import TranslationParity
from encoder.translation_parity import require_translation
from encoder.translator import Translator as TorchTranslator
from encoder.translator import load_translator, save_translator

VOCABULARY = 220
SHAPES = {
    "modernbert": EncoderConfig(
        vocab_size=VOCABULARY, width=32, layers=3, heads=4, inner_width=48, tokens_max=80,
        local_layers=(1,), local_window_tokens=8, initializer_range=0.2,
    ),
    "marian": EncoderConfig(
        model_type="marian", vocab_size=VOCABULARY, width=32, layers=2, heads=4, inner_width=64,
        tokens_max=80, activation=Activation.SILU, embeddings_scaled=True, initializer_range=0.2,
    ),
    "relu": EncoderConfig(
        model_type="marian", vocab_size=VOCABULARY, width=32, layers=2, heads=2, inner_width=64,
        tokens_max=80, activation=Activation.RELU, initializer_range=0.2,
    ),
}  # fmt: skip


def directory_of(tmp_path, translating_directory, shape, **changes):
    """A random translator by itself, as an imported one is, with the small model's tokens."""
    torch.manual_seed(9)
    config = TranslationConfig(
        encoder=shape, decoder=replace(shape, layers=2, local_layers=()), end_id=3,
        **{"begin_ids": {"en": 5, "de": 6}, "pairs": (("fr", "en"), ("en", "de")),
           "tied_tables": True, "alignment": AlignmentHeads(layer=0, heads=(1,)), **changes},
    )  # fmt: skip
    save_translator(tmp_path, TorchTranslator(config))
    tokens = (translating_directory / "tokenizer.json").read_bytes()
    (tmp_path / "translation" / "source.tokenizer.json").write_bytes(tokens)
    return tmp_path


@pytest.mark.parametrize("layout", sorted(SHAPES))
def test_both_precisions_answer_as_torch_does(tmp_path, translating_directory, layout):
    directory = directory_of(tmp_path, translating_directory, SHAPES[layout])

    manifest = export_translator(directory, precisions=[Precision.FP32, Precision.INT8])

    fp32, int8 = (manifest.precisions[p] for p in (Precision.FP32, Precision.INT8))
    assert fp32.difference_max < 1e-4
    assert fp32.attention_difference_max < 1e-5
    assert fp32.first_agrees == 1.0
    assert int8.cosine_mean > 0.99
    translator = Translator.load(directory, precision=Precision.INT8)
    assert translator.name == tmp_path.name
    (found,) = translate_texts(translator, ["Le chat"], target="en", plan=BeamPlan(beams=2))
    assert found.sentences[0].written


def test_tables_apart_and_a_token_for_the_language(tmp_path, translating_directory):
    """As a multilingual OPUS-MT model is: the source says which language is wanted."""
    directory = directory_of(
        tmp_path, translating_directory, SHAPES["marian"],
        tied_tables=False, begin_ids={"en": 0, "de": 0}, source_ids={"en": 5, "de": 6},
        pairs=(("fr", "en"), ("fr", "de")),
    )  # fmt: skip

    manifest = export_translator(directory, precisions=[Precision.FP32])

    assert manifest.precisions[Precision.FP32].difference_max < 1e-4
    translator = Translator.load(directory, precision=Precision.FP32)
    assert translator.tokens_max == 79
    texts = ["Le chat voit la maison."]
    plan = BeamPlan(beams=1)
    one, other = (translate_texts(translator, texts, target=t, plan=plan)[0] for t in ("en", "de"))
    assert one.sentences[0].written[0].score != other.sentences[0].written[0].score


def test_the_model_around_a_translator_knows_its_files(translating_directory):
    files = read_manifest(translating_directory).files

    assert "translation/translation.json" in files
    assert "translation/onnx/int8/weights.bin" in files


def test_weights_are_stored_once(translating_directory):
    """Both graphs, and the table that both of a tied model's stacks read."""
    folder = translating_directory / "translation" / "onnx" / "fp32"
    graphs = sum((folder / f"{name}.onnx").stat().st_size for name in ("encode", "step"))
    weights = (folder / "weights.bin").stat().st_size

    parameters = sum(p.numel() for p in load_translator(translating_directory).parameters())
    assert graphs < 200_000
    assert weights < 4 * parameters + 4096 * 60  # tensors begin on pages


def test_graphs_that_answer_otherwise_are_not_written():
    good = TranslationParity(
        tokens=10, difference_max=1e-5, cosine_mean=1.0, first_agrees=1.0,
        attention_difference_max=1e-6,
    )  # fmt: skip
    require_translation(Precision.FP32, good)
    for change in (
        {"difference_max": 1e-3},
        {"attention_difference_max": float("nan")},
        {"cosine_mean": 0.9},
    ):
        with pytest.raises(NoParity):
            require_translation(Precision.FP32, good.model_copy(update=change))
    with pytest.raises(NoParity, match="cosine"):
        require_translation(Precision.INT8, good.model_copy(update={"cosine_mean": 0.9}))
