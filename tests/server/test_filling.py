import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers, processors

from encoder.tokenizer import Tokenizer, Truncation
from encoder.words import span_at
from server.filling import hidden, masked_at, most_probable, single_token, with_masks

MASK_ID = 4


@pytest.fixture
def sentencepiece(tmp_path):
    """A tokenizer that, as SentencePiece's do, begins a new word after a special token."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, "▁a", "▁An", ".", "▁.", "▁"]
    vocabulary = {word: number for number, word in enumerate(words)}
    raw = RawTokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always", split=True),
            pre_tokenizers.Split(".", "isolated"),
        ]
    )
    raw.add_special_tokens(special)
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    raw.save(str(tmp_path / "tokenizer.json"))
    return Tokenizer(tmp_path / "tokenizer.json")


def window_of(tokenizer, text):
    (seen,) = tokenizer.encode([text], tokens_max=64, truncation=Truncation.HEAD)
    return seen.windows[0]


def test_a_word_is_one_token_and_megabytes_are_none_without_being_read(sentencepiece, monkeypatch):
    assert single_token(sentencepiece, "An") == sentencepiece.id_of("▁An")
    assert single_token(sentencepiece, "An a") is None

    monkeypatch.setattr(sentencepiece, "encode", None)  # to call it would be a TypeError
    assert single_token(sentencepiece, "An " * 500_000) is None


@given(parts=st.lists(st.text(alphabet="aü🍎 ", max_size=5), min_size=1, max_size=6))
def test_every_mark_is_exchanged_where_it_stood(parts):
    text = "[MASK]".join(parts)

    masked = with_masks(text, "[MASK]", "<mask>")

    assert masked.spelled.text == "<mask>".join(parts)
    assert [text[s.start : s.end] for s in masked.spans] == ["[MASK]"] * (len(parts) - 1)
    for form, by in ((masked.spelled, "<mask>"), (masked.standing, "a")):
        if form is not None:
            assert form.text == by.join(parts)
            assert [form.text[s.start : s.end] for s in form.places] == [by] * (len(parts) - 1)


def test_the_models_own_mask_is_understood_beside_the_callers():
    masked = with_masks("a ___ and <mask>", "___", "<mask>")

    assert masked.spelled.text == "a <mask> and <mask>"
    assert [(s.start, s.end) for s in masked.spans] == [(2, 5), (10, 16)]


def test_no_word_stands_in_for_a_mask_that_touches_a_letter():
    assert with_masks("play[MASK] on", "[MASK]", "[MASK]").standing is None
    assert masked_at("An apple, fell", [span_at("An apple, fell", 3, 8)], "[MASK]").standing


def test_the_text_around_a_mask_has_the_tokens_that_it_has_around_a_word(sentencepiece):
    masked = with_masks("An [MASK].", "[MASK]", "[MASK]")

    window, positions = hidden(
        window_of(sentencepiece, masked.standing.text), masked.standing.places, MASK_ID
    )
    spelled, places = hidden(
        window_of(sentencepiece, masked.spelled.text), masked.spelled.places, MASK_ID
    )

    assert sentencepiece.tokens(window.ids) == ["[CLS]", "▁An", "[MASK]", ".", "[SEP]"]
    assert positions == [2]
    assert len(spelled.ids) > len(window.ids)  # which is what would be asked otherwise
    assert spelled.ids[places[0]] == MASK_ID


def test_a_mask_that_was_cut_away_is_not_found(sentencepiece):
    masked = with_masks("An [MASK]", "[MASK]", "[MASK]")
    (seen,) = sentencepiece.encode([masked.spelled.text], tokens_max=3, truncation=Truncation.HEAD)

    assert hidden(seen.windows[0], masked.spelled.places, MASK_ID) is None


@given(
    scores=st.lists(st.integers(-3, 3), min_size=1, max_size=30),
    count=st.integers(1, 10),
    seed=st.integers(0, 100),
)
def test_the_most_probable_are_the_best_allowed_in_order_of_score_then_number(scores, count, seed):
    logits = np.array(scores, dtype=np.float32)
    allowed = np.random.default_rng(seed).random(len(scores)) < 0.7

    found = most_probable(logits, allowed, count)

    ranked = sorted(np.flatnonzero(allowed).tolist(), key=lambda i: (-scores[i], i))
    assert [guess.token_id for guess in found] == ranked[:count]
    shares = np.exp(logits) / np.exp(logits).sum()
    for guess in found:
        np.testing.assert_allclose(guess.probability, shares[guess.token_id], rtol=1e-5)
