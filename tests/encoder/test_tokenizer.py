import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Raw
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from encoder.manifest import ModelDamaged
from encoder.tokenizer import (
    InputTooLong,
    LoneSurrogate,
    Tokenizer,
    Truncation,
    pieces_of,
)

# Scripts, marks, joiners, flags, right-to-left, NUL and white space: what offsets stumble over.
unicode_texts = st.text(
    st.one_of(
        st.sampled_from("aéÉßİ e\u0301\u0327 \u200d👨👩👧👍🏽🇩🇪我吃苹果שלוםمرحبا नमस्ते\0\n\u3000ｱﬁ"),
        st.characters(codec="utf-8"),
    ),
    max_size=40,
)


def byte_level():
    """Like RoBERTa's: a character may be several tokens."""
    raw = Raw(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["an apple a day"], trainer)
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return raw


def sentence_piece():
    """Like XLM-R's: a token takes in the space before it."""
    raw = Raw(models.BPE(byte_fallback=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    letters = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(special_tokens=["<s>", "</s>", *letters], show_progress=False)
    raw.train_from_iterator(["an apple a day", "apple pie"] * 3, trainer)
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return raw


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory, minilm_source):
    folder = tmp_path_factory.mktemp("tokenizers")
    byte_level().save(str(folder / "byte_level.json"))
    sentence_piece().save(str(folder / "sentence_piece.json"))
    return {
        "word_piece": Tokenizer(minilm_source / "tokenizer.json"),
        "byte_level": Tokenizer(folder / "byte_level.json"),
        "sentence_piece": Tokenizer(folder / "sentence_piece.json"),
    }


@pytest.fixture(scope="session")
def tokenizer(tokenizers):
    return tokenizers["word_piece"]


def one(tokenizer, text, tokens_max=512, truncation=Truncation.ERROR, prompt=""):
    return tokenizer.encode([text], tokens_max=tokens_max, truncation=truncation, prompt=prompt)[0]


@pytest.mark.parametrize("kind", ["word_piece", "byte_level", "sentence_piece"])
@given(text=unicode_texts, prompt=st.sampled_from(["", "query: ", "e"]))
@settings(deadline=None)
def test_offsets_lie_in_the_text_as_given_and_never_run_back(tokenizers, kind, text, prompt):
    window = one(tokenizers[kind], text, prompt=prompt).windows[0]

    inside = window.starts >= 0
    starts, ends = window.starts[inside], window.ends[inside]
    assert (starts <= ends).all()
    assert (ends <= len(text)).all()
    assert (np.diff(starts) >= 0).all()
    assert (window.ends[~inside] == -1).all()


@pytest.mark.parametrize("kind", ["word_piece", "byte_level", "sentence_piece"])
@given(
    text=unicode_texts,
    how=st.fixed_dictionaries(
        {
            "prompt": st.sampled_from(["", "query: "]),
            "tokens_max": st.integers(12, 40),
            "truncation": st.sampled_from([t for t in Truncation if t is not Truncation.ERROR]),
        }
    ),
)
@settings(deadline=None)
def test_without_places_the_tokens_are_the_same(tokenizers, kind, text, how):
    [located] = tokenizers[kind].each([text], **how)
    [bare] = tokenizers[kind].each([text], **how, places=False)

    for name in ("tokens_total", "tokens_used", "truncated"):
        assert getattr(located, name) == getattr(bare, name)
    for ours, theirs in zip(located.windows, bare.windows, strict=True):
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        assert theirs.ids.dtype == np.int64


def test_without_places_what_does_not_fit_is_refused_as_with_them(tokenizer):
    for places in (True, False):
        how = {"tokens_max": 3, "places": places}
        with pytest.raises(InputTooLong, match="text 0 has 4 tokens"):
            list(tokenizer.each(["two words"], truncation=Truncation.ERROR, **how))
        with pytest.raises(ValueError, match="leaves no room"):
            list(tokenizer.each(["a"], truncation=Truncation.HEAD, tokens_max=2, places=places))


@pytest.mark.parametrize("kind", ["word_piece", "byte_level", "sentence_piece"])
def test_offsets_name_the_original_letters_behind_normalisation(tokenizers, kind):
    text = "An ÄPPLE day"
    window = one(tokenizers[kind], text).windows[0]

    pieces = {text[s:e] for s, e in zip(window.starts, window.ends, strict=True) if s >= 0}

    assert not any(piece.startswith(" ") for piece in pieces if not piece.isspace())
    covered = {i for s, e in zip(window.starts, window.ends, strict=True) for i in range(s, e)}
    assert {i for i, letter in enumerate(text) if letter != " "} <= covered


def test_lower_casing_tokens_point_at_the_capitals(tokenizer):
    text = "Ünïcode cafe\u0301"
    window = one(tokenizer, text).windows[0]

    assert text[window.starts[1] : window.ends[1]] == "Ünïcode"


@given(
    tokens=st.integers(0, 3000),
    room=st.integers(1, 600),
    truncation=st.sampled_from(list(Truncation)),
)
def test_windows_cover_every_token_and_the_others_keep_their_end(tokens, room, truncation):
    pieces = pieces_of(tokens, room, truncation)

    assert all(0 <= p.start <= p.stop <= tokens and p.stop - p.start <= room for p in pieces)
    if tokens <= room:
        assert pieces == [slice(0, tokens)]
    elif truncation is Truncation.WINDOWS:
        assert {i for p in pieces for i in range(p.start, p.stop)} == set(range(tokens))
        assert all(p.stop - p.start == room for p in pieces)
        overlaps = [a.stop - b.start for a, b in pairwise(pieces)]
        assert all(overlap >= min(32, room // 4) for overlap in overlaps)
    elif truncation is Truncation.TAIL:
        assert pieces == [slice(tokens - room, tokens)]
    else:
        assert pieces == [slice(0, room)]


def test_each_policy_says_what_it_used(tokenizer):
    text = "apple " * 100

    head = one(tokenizer, text, 12, Truncation.HEAD)
    tail = one(tokenizer, text, 12, Truncation.TAIL)
    windows = one(tokenizer, text, 12, Truncation.WINDOWS)

    assert (head.tokens_total, head.tokens_used, head.truncated) == (102, 12, True)
    assert head.windows[0].starts[1] == 0
    assert tail.windows[0].ends[-2] == len(text.strip())
    assert (windows.tokens_used, windows.truncated) == (102, False)
    assert all(len(window.ids) == 12 for window in windows.windows)
    with pytest.raises(InputTooLong, match="text 0 has 102 tokens; the limit is 12") as error:
        one(tokenizer, text, 12)
    assert (error.value.index, error.value.tokens, error.value.tokens_max) == (0, 102, 12)


def test_the_prompt_is_in_every_window_and_in_no_offset(tokenizer):
    encoded = one(tokenizer, "apple " * 30, 12, Truncation.WINDOWS, prompt="query: ")

    for window in encoded.windows:
        assert tokenizer.tokens(window.ids[:3]) == ["[CLS]", "query", ":"]
        assert (window.starts[:3] == -1).all()
        assert len(window.ids) <= 12
    assert one(tokenizer, "apple", prompt="query: ").tokens_total == 5


def test_an_empty_text_is_its_special_tokens(tokenizer):
    encoded = one(tokenizer, "")

    assert tokenizer.tokens(encoded.windows[0].ids) == ["[CLS]", "[SEP]"]
    assert not encoded.truncated


def test_lone_surrogates_are_refused_by_position(tokenizer):
    with pytest.raises(LoneSurrogate, match="text 1 has a lone surrogate at code point 3"):
        tokenizer.encode(["ok", "abc\ud800"], tokens_max=9, truncation=Truncation.ERROR)


def test_no_room_for_text_is_refused(tokenizer):
    with pytest.raises(ValueError, match="leaves no room"):
        one(tokenizer, "apple pie", 2, Truncation.HEAD)


def test_ids_become_text_again(tokenizer):
    ids = one(tokenizer, "apple pie").windows[0].ids

    assert tokenizer.decode(ids) == "apple pie"
    assert tokenizer.decode(ids, skip_special=False) == "[CLS] apple pie [SEP]"
    for unknown in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=f"no token has id {unknown}"):
            tokenizer.decode([unknown])


def test_ids_equal_those_of_transformers(tokenizer, minilm_source):
    from transformers import AutoTokenizer

    judge = AutoTokenizer.from_pretrained(minilm_source, local_files_only=True)
    for text in ("An apple.", "Ünïcode 我吃苹果 👨‍👩‍👧‍👦 naïve", "a\0b", "[MASK] it"):
        assert one(tokenizer, text).windows[0].ids.tolist() == judge(text)["input_ids"]


def test_threads_may_share_a_tokenizer(tokenizer):
    expected = one(tokenizer, "apple pie " * 20).windows[0].ids.tolist()
    answers = []

    def ask():
        answers.extend(one(tokenizer, "apple pie " * 20).windows[0].ids.tolist() for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [expected] * 80


def test_a_file_that_is_no_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")

    with pytest.raises(ModelDamaged, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer(tmp_path / "tokenizer.json")
