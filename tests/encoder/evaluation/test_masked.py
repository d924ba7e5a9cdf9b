import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.evaluation.masked import (
    Vocabulary,
    hide,
    masked_loss,
    packed,
    sentences,
    untokenised,
    word_tokens,
)
from encoder.tokenizer import Tokenizer, Truncation

TEXT = "the apple treesten was juicy. she ate antea apple pie. apple teaset sells phones."


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file):
    return Tokenizer(tokenizer_file)


@pytest.fixture(scope="module")
def window(tokenizer):
    return tokenizer.encode([TEXT], tokens_max=100, truncation=Truncation.ERROR)[0].windows[0]


@pytest.fixture(scope="module")
def vocabulary(tokenizer_file):
    return Vocabulary(tokenizer_file)


def test_wikitexts_tokenisation_is_undone():
    apart = "The 1 @,@ 200 @-@ ton ship ( built in 1990 ) didn 't sink , they said ; it 's fine"

    assert untokenised(apart) == (
        "The 1,200-ton ship (built in 1990) didn't sink, they said; it's fine"
    )


def test_headings_and_sentences_with_replaced_words_are_left_out():
    lines = ["", " = Apple = ", " It fell . He saw <unk> there . It was red . "]

    assert list(sentences(lines)) == ["It fell.", "It was red."]


def test_sentences_are_packed_up_to_the_limit_and_none_is_lost(tokenizer):
    given_texts = ["the apple was juicy.", "apple pie.", "she ate an apple.", "bank and water."]

    rows = list(packed(iter(given_texts), tokenizer, tokens_max=12))

    assert " ".join(text for text, _ in rows) == " ".join(given_texts)
    assert len(rows) == 2
    assert all(len(window.ids) <= 12 for _, window in rows)


@given(st.booleans(), st.integers(0, 10**6))
def test_fifteen_percent_are_hidden_and_never_a_special_token(window, vocabulary, whole, seed):
    row = hide(TEXT, window, vocabulary, whole, np.random.default_rng(seed))

    free = np.flatnonzero(window.starts >= 0)
    assert len(row.places) == round(0.15 * len(free)) > 1
    assert set(row.places) <= set(free)
    np.testing.assert_array_equal(row.targets, window.ids[row.places])
    seen = np.delete(row.ids, row.places)
    np.testing.assert_array_equal(seen, np.delete(window.ids, row.places))


def test_of_the_hidden_eight_in_ten_are_masked_and_one_is_another(window, vocabulary):
    random = np.random.default_rng(0)
    rows = [hide(TEXT, window, vocabulary, False, random) for _ in range(4000)]

    seen = np.concatenate([row.ids[row.places] for row in rows])
    targets = np.concatenate([row.targets for row in rows])

    masked, kept = np.mean(seen == vocabulary.mask_id), np.mean(seen == targets)
    assert masked == pytest.approx(0.8, abs=0.01)
    assert kept == pytest.approx(0.1, abs=0.01)
    replaced = seen[(seen != vocabulary.mask_id) & (seen != targets)]
    assert set(replaced) <= set(vocabulary.ordinary)


def test_whole_words_are_hidden_together(window, vocabulary):
    groups = [set(group) for group in word_tokens(TEXT, window)]

    for seed in range(50):
        row = hide(TEXT, window, vocabulary, True, np.random.default_rng(seed))
        cut = [group for group in groups if 0 < len(group & set(row.places)) < len(group)]
        assert len(cut) <= 1  # the last word may be hidden in part


def test_every_free_token_is_in_one_group(window):
    groups = np.concatenate(word_tokens(TEXT, window))

    np.testing.assert_array_equal(np.sort(groups), np.flatnonzero(window.starts >= 0))


def test_a_model_that_knows_nothing_loses_the_logarithm_of_its_vocabulary(
    data, exported, monkeypatch
):
    from encoder.evaluation import masked

    def ignorant(directory):
        model = load(directory)
        for parameter in model.parameters():
            parameter.data.zero_()
        return model

    load = masked.load_language_model
    monkeypatch.setattr(masked, "load_language_model", ignorant)

    result = masked_loss(exported, data, limit=None, seed=0)

    size = Tokenizer(exported / "tokenizer.json").vocab_size
    assert {s.key for s in result.scores} == {"mlm.loss", "mlm.whole", "mlm.single"}
    for score in result.scores:
        assert score.value == pytest.approx(math.log(size), rel=1e-5)


def test_the_same_seed_gives_the_same_loss(data, exported):
    losses = [masked_loss(exported, data, limit=None, seed=s).scores[0].value for s in (1, 1, 2)]

    assert losses[0] == losses[1] != losses[2]


def test_without_the_data_nothing_is_scored_and_the_result_says_so(exported, tmp_path):
    result = masked_loss(exported, tmp_path, limit=None, seed=0)

    assert result.scores == []
    assert "not scored" in result.notes[0]


def test_without_a_head_nothing_is_scored_and_the_result_says_so(data, exported, tmp_path):
    from safetensors.numpy import load_file, save_file

    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    weights = load_file(exported / "model.safetensors")
    bare = {n.removeprefix("model."): w for n, w in weights.items() if n.startswith("model.")}
    save_file(bare, tmp_path / "model.safetensors")

    result = masked_loss(tmp_path, data, limit=None, seed=0)

    assert result.scores == []
    assert "no head" in result.notes[0]
