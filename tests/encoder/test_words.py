import time

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

import encoder.words
from encoder.tokenizer import Tokenizer, Truncation
from encoder.words import (
    SubwordPooling,
    WordFinder,
    WordNotFound,
    WordNotInWindow,
    find_any_case,
    find_word,
    span_at,
    span_from_bytes,
    tokens_of,
    word_vector,
    words,
)

unicode_texts = st.text(
    st.one_of(
        st.sampled_from(
            "aéÉß e\u0301\u0327'. \u200d👨👩👧👍🏽🇩🇪我吃苹果שלוםمرحبا नमस्ते\0\n\r\u3000"
        ),
        st.characters(codec="utf-8"),
    ),
    max_size=40,
)


def spelled(text):
    return [text[span.start : span.end] for span in words(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world! don't 3.14", ["Hello", "world", "don't", "3.14"]),
        ("cafe\u0301 ole\u0301", ["cafe\u0301", "ole\u0301"]),
        ("👨‍👩‍👧‍👦 🇩🇪🇫🇷 👍🏽!", ["👨‍👩‍👧‍👦", "🇩🇪", "🇫🇷", "👍🏽"]),
        ("我吃苹果。", ["我", "吃", "苹", "果"]),
        ("שלום עולם", ["שלום", "עולם"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        (" \r\n … ", []),
        ("", []),
    ],
)
def test_words_are_what_unicode_says_they_are(text, expected):
    assert spelled(text) == expected


@given(unicode_texts)
def test_a_words_code_points_and_bytes_name_the_same_letters(text):
    encoded = text.encode("utf-8")
    end = 0
    for span in words(text):
        word = text[span.start : span.end]
        assert end <= span.start < span.end
        assert encoded[span.byte_start : span.byte_end].decode("utf-8") == word
        assert span == span_at(text, span.start, span.end)
        assert span == span_from_bytes(text, span.byte_start, span.byte_end)
        end = span.end


@given(unicode_texts)
def test_a_grapheme_is_never_cut(text):
    edges = {0, len(text)} | {match.start() for match in regex.finditer(r"\X", text)}

    assert all({span.start, span.end} <= edges for span in words(text))


@given(unicode_texts)
def test_every_word_is_found_again_by_its_spelling(text):
    seen = {}
    for span in words(text):
        word = text[span.start : span.end]
        assert find_word(text, word, seen.get(word, 0)) == span
        seen[word] = seen.get(word, 0) + 1
    for word, count in seen.items():
        with pytest.raises(WordNotFound):
            find_word(text, word, count)


def test_a_word_inside_another_does_not_count():
    text = "pineapple apple apples apple"

    assert find_word(text, "apple", 1).start == 23
    with pytest.raises(WordNotFound, match=r"occurrence 2 of 'apple' .* the text has 2"):
        find_word(text, "apple", 2)


def test_a_text_is_cut_once_however_many_words_are_looked_for(monkeypatch):
    cut = []
    segments = encoder.words._segments
    monkeypatch.setattr(encoder.words, "_segments", lambda text: cut.append(text) or segments(text))

    finder = WordFinder("apples and pears and plums")
    found = [finder.find("and", occurrence).start for occurrence in (0, 1, 0, 1)]
    found.append(finder.find("plums").start)

    assert found == [7, 17, 7, 17, 21]
    assert len(cut) == 1


def test_a_part_of_one_huge_word_is_looked_for_only_where_words_begin():
    finder = WordFinder("a" * 50_000)

    started = time.process_time()
    for length in range(2, 300):
        with pytest.raises(WordNotFound):
            finder.find("a" * length)
    assert time.process_time() - started < 1  # looked for everywhere, half a minute


def test_several_words_are_found_as_one():
    assert find_word("in New York, New York", "New York", 1).start == 13
    assert find_word("我吃苹果。", "苹果", 0).start == 2


@pytest.mark.parametrize("bad", [(0, 0), (2, 1), (-1, 1), (0, 4)])
def test_a_span_that_is_empty_or_outside_is_refused(bad):
    with pytest.raises(ValueError, match="empty or outside"):
        span_at("abc", *bad)
    with pytest.raises(ValueError, match="empty or outside"):
        span_from_bytes("abc", *bad)


def test_bytes_that_cut_a_character_are_refused():
    with pytest.raises(ValueError, match="cuts a character"):
        span_from_bytes("é", 0, 1)


@pytest.fixture(scope="module")
def tokenizer(minilm_source):
    return Tokenizer(minilm_source / "tokenizer.json")


def test_a_words_tokens_are_those_that_overlap_it(tokenizer):
    text = "An unbelievable pie"
    window = tokenizer.encode([text], tokens_max=32, truncation=Truncation.ERROR, prompt="query: ")[
        0
    ].windows[0]

    tokens = tokens_of(window, find_word(text, "unbelievable", 0))

    assert "".join(tokenizer.tokens(window.ids[tokens])).replace("##", "") == "unbelievable"


def test_a_word_that_was_truncated_away_is_not_in_the_window(tokenizer):
    text = "apple pie is good"
    window = tokenizer.encode([text], tokens_max=4, truncation=Truncation.HEAD)[0].windows[0]

    with pytest.raises(WordNotInWindow, match="code points 13 to 17"):
        tokens_of(window, find_word(text, "good", 0))


def test_layers_are_averaged_before_sub_words():
    states = np.arange(12, dtype=np.float32).reshape(2, 3, 2)  # (layers, tokens, width)

    assert word_vector(states, slice(1, 3), SubwordPooling.MEAN).tolist() == [6.0, 7.0]
    assert word_vector(states, slice(1, 3), SubwordPooling.FIRST).tolist() == [5.0, 6.0]
    assert word_vector(states, slice(1, 3), SubwordPooling.LAST).tolist() == [7.0, 8.0]


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("New York bank", ["york", "new york", "bank"], "New York"),
        ("The bank of Apple", ["apple", "bank"], "bank"),
        ("apples and APPLE", ["apple"], "APPLE"),
        ("Die STRASSE", ["straße"], "STRASSE"),
        ("pineapple", ["apple"], None),
        ("x [a] y", ["[a]"], "[a]"),
        ("no word", [], None),
    ],
)
def test_the_first_of_several_words_is_found_whatever_its_case(text, words, found):
    span = find_any_case(text, words)

    assert (span and text[span.start : span.end]) == found
