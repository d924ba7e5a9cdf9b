import unicodedata

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from encoder.tokenizer import Tokenizer, Truncation
from encoder.training.vocabulary import (
    RESERVED_IDS,
    SPECIAL_TOKENS,
    reserved_tokens,
    sample,
    train_vocabulary,
    word_starts,
)

LINES = [
    f"Der Apfel Nummer {i} kostet {i} Euro, sagte l'homme; the apple pie is good."
    for i in range(300)
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_vocabulary(LINES, 512, progress=False)


def test_the_first_ids_are_reserved_in_a_fixed_order(tokenizer):
    named = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<2en>", "<2de>", "<2fr>"]

    assert [tokenizer.id_to_token(i) for i in range(8)] == named
    assert len(reserved_tokens()) == RESERVED_IDS == len(set(reserved_tokens()))
    assert tokenizer.get_vocab_size() <= 512


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=40))
def test_every_text_can_be_written_and_read_back(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False).ids

    assert 1 not in ids  # [UNK]
    for token in reserved_tokens():
        if token in text:
            return
    # One space at the head is the tokenizer's own.
    assert tokenizer.decode(ids).lstrip(" ") == unicodedata.normalize("NFC", text).lstrip(" ")


def test_case_counts_digits_stand_alone_and_text_is_in_nfc(tokenizer):
    assert tokenizer.encode("Apfel").ids != tokenizer.encode("apfel").ids
    digits = tokenizer.encode("1234", add_special_tokens=False)
    assert [token.strip("▁") for token in digits.tokens] == ["1", "2", "3", "4"]
    assert tokenizer.encode("e\u0301").ids == tokenizer.encode("é").ids


def test_a_mask_takes_the_space_before_it_and_leaves_what_follows_alone(tokenizer):
    whole = tokenizer.encode("the apple pie is good.", add_special_tokens=False).tokens
    masked = tokenizer.encode("the [MASK] pie is good.", add_special_tokens=False).tokens
    end = tokenizer.encode("the apple [MASK].", add_special_tokens=False).tokens

    before, after = masked.index(" [MASK]"), len(masked) - masked.index(" [MASK]") - 1
    assert masked[:before] == whole[:before]
    assert masked[-after:] == whole[-after:]
    assert end[-2:] == [" [MASK]", "."]


def test_the_same_lines_give_the_same_tokenizer(tokenizer):
    assert train_vocabulary(LINES, 512, progress=False).to_str() == tokenizer.to_str()


def test_tokenizers_transformers_and_our_reader_agree(tokenizer, tmp_path):
    from transformers import PreTrainedTokenizerFast

    file = tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    text = "Der Apfel, 42 Äpfel 🍎!"

    ids = tokenizers.Tokenizer.from_file(str(file)).encode(text).ids
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(file), **SPECIAL_TOKENS)
    [ours] = Tokenizer(file).encode([text], tokens_max=64, truncation=Truncation.ERROR)

    assert ids[0] == 2
    assert ids[-1] == 3
    assert theirs(text)["input_ids"] == ids
    assert ours.windows[0].ids.tolist() == ids
    assert theirs.mask_token_id == 4
    starts, ends = ours.windows[0].starts, ours.windows[0].ends
    words = [text[a:b] for a, b in zip(starts[1:-1], ends[1:-1], strict=True)]
    assert words[0].startswith("D")  # offsets without the space before a word
    assert "🍎" in words


def test_a_pair_is_two_texts_each_with_its_end(tokenizer):
    tokens = tokenizer.encode("the apple", "der Apfel").tokens

    assert tokens[0] == "[CLS]"
    assert [i for i, token in enumerate(tokens) if token == "[SEP]"][-1] == len(tokens) - 1
    assert tokens.count("[SEP]") == 2


def test_a_word_is_masked_with_its_later_letters_and_a_character_with_its_bytes(tokenizer):
    starts = word_starts(tokenizer)
    encoding = tokenizer.encode("Apfelkuchen 🍎 7", add_special_tokens=False)

    words: list[list[int]] = []
    for token_id in encoding.ids:
        if starts[token_id]:
            words.append([])
        words[-1].append(token_id)

    assert [tokenizer.decode(word) for word in words] == ["Apfelkuchen", "🍎", "7"]


def test_a_sample_is_spread_over_the_text_and_keeps_its_limit():
    lines = [f"{i:09d}" for i in range(1000)]

    taken = list(sample(lines, 900, 9000))

    assert len(taken) == 100
    assert int(taken[0]) < 20
    assert int(taken[-1]) > 980
    assert list(sample(lines, 99_999, 9000)) == lines
