"""Guesses for masked tokens, judged by transformers."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers

from encoder.checkpoint import load_head, load_language_model, load_sentence_encoder
from encoder.manifest import Graph, read_manifest
from encoder.runtime import Encoder, GraphMissing, Precision
from encoder.tokenizer import Tokenizer, Truncation

TEXTS = ["The [MASK] fell from the [MASK].", "An apple a [MASK].", "No mask at all, but words."]


def masked(encoder, texts=TEXTS):
    encoded = encoder.tokenizer.encode(texts, tokens_max=64, truncation=Truncation.ERROR)
    windows = [text.windows[0] for text in encoded]
    return windows, [np.flatnonzero(w.ids == encoder.tokenizer.mask_id).tolist() for w in windows]


def test_logits_are_those_of_transformers(filling_directory):
    from transformers import BertForMaskedLM

    judge = BertForMaskedLM.from_pretrained(filling_directory, local_files_only=True).eval()
    encoder = Encoder.load(filling_directory, precision=Precision.FP32)
    windows, positions = masked(encoder)

    got = encoder.fill(windows, positions)

    assert [len(logits) for logits in got] == [2, 1, 0]
    for window, places, logits in zip(windows, positions, got, strict=True):
        with torch.inference_mode():
            told = judge(torch.from_numpy(window.ids)[None]).logits[0, places].numpy()
        np.testing.assert_allclose(logits, told, atol=1e-4)


def test_int8_guesses_nearly_the_same(filling_directory):
    exact = Encoder.load(filling_directory, precision=Precision.FP32)
    windows, positions = masked(exact)
    told = np.concatenate(exact.fill(windows, positions))
    encoder = Encoder.load(filling_directory, precision=Precision.INT8)

    got = np.concatenate(encoder.fill(windows, positions))

    for ours, theirs in zip(got, told, strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] > 0.99


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
def test_logits_are_the_same_to_the_byte_alone_and_in_company(filling_directory, precision):
    encoder = Encoder.load(filling_directory, precision=precision)
    windows, positions = masked(encoder)

    together = encoder.fill(windows, positions)

    for window, places, logits in zip(windows, positions, together, strict=True):
        assert encoder.fill([window], [places])[0].tobytes() == logits.tobytes()
    one = encoder.fill(windows[:1], [positions[0][1:]])[0]
    assert one.tobytes() == together[0][1:].tobytes()


def test_a_position_outside_its_window_is_refused(filling_directory):
    encoder = Encoder.load(filling_directory, precision=Precision.FP32)
    windows, _ = masked(encoder)

    with pytest.raises(ValueError, match="position 99 is outside a window of"):
        encoder.fill(windows[:1], [[99]])


def test_a_model_without_a_head_has_attention_but_fills_nothing(minilm):
    encoder = Encoder.load(minilm, precision=Precision.FP32)
    windows, positions = masked(encoder)

    assert Graph.ATTENTION in encoder.graphs
    with pytest.raises(GraphMissing, match="no masked-LM head") as refusal:
        encoder.fill(windows, positions)
    assert refusal.value.graph is Graph.FILL
    assert load_head(minilm, load_sentence_encoder(minilm).encoder) is None


def test_the_parity_of_logits_is_on_record(filling_directory):
    parities = read_manifest(filling_directory).precisions

    assert parities[Precision.FP32].logit_difference_max <= 1e-4
    assert parities[Precision.INT8].logit_cosine_mean >= 0.97


def test_the_head_that_is_exported_is_the_checkpoints(filling_directory):
    whole = load_language_model(filling_directory)
    encoder = load_sentence_encoder(filling_directory).encoder
    ids = torch.tensor([[101, 103, 102]])

    with torch.inference_mode():
        torch.testing.assert_close(load_head(filling_directory, encoder)(ids), whole(ids))


def test_the_table_is_stored_once_for_reading_and_guessing(filling_directory):
    weights = filling_directory / "onnx" / "fp32" / "weights.bin"
    table_bytes = 30522 * 32 * 4

    assert table_bytes < weights.stat().st_size < 1.5 * table_bytes


def test_words_are_told_from_pieces_and_marks(minilm_source):
    tokenizer = Tokenizer(minilm_source / "tokenizer.json")
    words = tokenizer.word_ids()

    def is_word(token):
        return bool(words[tokenizer.id_of(token)])

    assert is_word("apple")
    assert not any(map(is_word, ["##ing", ",", "[MASK]", "[PAD]"]))
    assert tokenizer.mask_id in tokenizer.special_ids


def test_where_a_mark_begins_words_pieces_have_none(tmp_path):
    raw = RawTokenizer(models.BPE({"a": 0, "b": 1, "Ġ": 2, "Ġb": 3, "<mask>": 6}, [("Ġ", "b")]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.add_special_tokens(["<mask>"])
    raw.save(str(tmp_path / "tokenizer.json"))

    tokenizer = Tokenizer(tmp_path / "tokenizer.json")

    assert tokenizer.word_ids().nonzero()[0].tolist() == [3]
    assert tokenizer.text_ids().nonzero()[0].tolist() == [0, 1, 2, 3]  # 4 and 5 are nobody's
    assert tokenizer.mask_id == 6
