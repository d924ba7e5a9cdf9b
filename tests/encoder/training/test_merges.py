import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models

from encoder.training.merges import NotBpe, Segmenter, cut, padded
from encoder.training.vocabulary import train_vocabulary
from tests.encoder.training.conftest import sentences


@pytest.fixture(scope="module")
def tokenizer():
    return train_vocabulary(sentences(600), 600, progress=False)


def draws(seed=0):
    return np.random.default_rng(seed)


@settings(deadline=None, max_examples=150)
@given(text=st.one_of(st.text(max_size=40), st.sampled_from(sentences(50)), st.just("Äpfel 12 🍎")))
def test_without_dropout_texts_are_cut_as_the_tokenizer_cuts_them(tokenizer, text):
    text = text.replace("[", "(")  # a special token in the text is the tokenizer's own affair

    ids = Segmenter(tokenizer, 0.0, seed=1).encode(text, draws())

    assert ids == tokenizer.encode(text, add_special_tokens=False).ids


@settings(deadline=None, max_examples=50)
@given(text=st.sampled_from(sentences(50)), dropout=st.sampled_from([0.1, 0.5, 1.0]))
def test_with_dropout_the_pieces_are_smaller_and_the_text_the_same(tokenizer, text, dropout):
    plain = tokenizer.encode(text, add_special_tokens=False).ids

    ids = Segmenter(tokenizer, dropout, seed=1).encode(text, draws())

    assert tokenizer.decode(ids) == text
    assert len(ids) >= len(plain)
    if dropout == 1.0:
        assert all(len(tokenizer.id_to_token(i)) == 1 for i in ids)


def test_the_same_seed_cuts_the_same_and_another_one_otherwise(tokenizer):
    texts = sentences(60)

    def cuttings(seed):
        segmenter, random = Segmenter(tokenizer, 0.3, seed), draws(seed)
        return [segmenter.encode(text, random) for text in texts]

    assert cuttings(1) == cuttings(1)
    assert cuttings(1) != cuttings(2)
    assert len({tuple(ids) for ids in cuttings(1)}) > len(set(texts)) * 0.9


def test_the_pair_of_lowest_rank_is_joined_first_and_of_equal_ones_the_first():
    ranks = {("b", "c"): 0, ("a", "b"): 1, ("a", "bc"): 2, ("a", "a"): 3}

    assert cut("abc", ranks, 0.0, lambda: 0.0) == ["abc"]
    assert cut("aaa", ranks, 0.0, lambda: 0.0) == ["aa", "a"]
    assert cut("abc", ranks, 0.5, lambda: 0.4) == ["a", "b", "c"]


def test_a_tokenizer_without_merges_is_refused():
    with pytest.raises(NotBpe, match="this is WordLevel"):
        Segmenter(tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), 0.1, seed=1)


def test_rows_are_padded_to_the_longest():
    assert padded([[1, 2, 3], [4], []], 9).tolist() == [[1, 2, 3], [4, 9, 9], [9, 9, 9]]
