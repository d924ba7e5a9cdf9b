from itertools import pairwise

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from encoder.words import words
from server.passages import SENTENCE_WORDS_MAX, passages

CLUSTERS = ["a", "Z", " ", "\n", "\r\n", ".", "!", "?", ",", ";", "”", "。", "、", "é", "e\u0301"]
CLUSTERS += [
    "👩‍👩‍👧",
    "🇩🇪",
    " \u0308",
    ".\u0301",
    "\u0600",
    "क्षि",
    "Mr",
    "3",
    "—",
    "👍🏽",
    "\u200d",
]
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(CLUSTERS), max_size=80).map("".join),
)


def shown(text):
    return [text[span.start : span.end] for span in passages(text)]


@given(TEXTS)
def test_passages_are_apart_in_order_and_cover_all_but_white_space(text):
    spans = passages(text)

    assert all(a.end <= b.start for a, b in pairwise(spans))
    inside = {i for span in spans for i in range(span.start, span.end)}
    assert all(text[i].isspace() for i in set(range(len(text))) - inside)


@given(TEXTS)
def test_passages_never_cut_a_grapheme_and_give_the_same_place_in_bytes(text):
    edges = {0, len(text)} | {m.start() for m in regex.finditer(r"\X", text)}

    for span in passages(text):
        assert span.start < span.end
        assert {span.start, span.end} <= edges
        assert (
            text.encode()[span.byte_start : span.byte_end].decode() == text[span.start : span.end]
        )


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One here. Two there! Three?", ["One here.", "Two there!", "Three?"]),
        ("Mr. Smith met Dr. J. Watson. They ate.", ["Mr. Smith met Dr. J. Watson.", "They ate."]),
        ("It costs 3.14 euros. Cheap.", ["It costs 3.14 euros.", "Cheap."]),
        ("He said “Stop.” She went on.", ["He said “Stop.”", "She went on."]),
        ("Fruit, e.g. apples, is good. Eat it.", ["Fruit, e.g. apples, is good.", "Eat it."]),
        ("A heading\nA line below it.", ["A heading", "A line below it."]),
        ("今日は晴れ。明日は雨。", ["今日は晴れ。", "明日は雨。"]),
        ("यह पहला है। यह दूसरा है।", ["यह पहला है।", "यह दूसरा है।"]),
    ],
)
def test_a_text_is_cut_into_its_sentences(text, sentences):
    assert shown(text) == sentences


def test_a_single_sentence_is_cut_into_its_clauses_and_those_into_runs_of_words():
    assert shown("She peeled the apple, then she ate it") == [
        "She peeled the apple,",
        "then she ate it",
    ]
    assert shown("a b c d e f g h i j k l m n") == ["a b c d e f", "g h i j k l m n"]


def test_no_passage_of_a_long_sentence_is_longer_than_the_limit():
    sentence = "word " * 200

    spans = passages(f"Short one. {sentence}.")

    assert len(spans) > 2
    assert all(len(words(t)) <= SENTENCE_WORDS_MAX for t in shown(f"Short one. {sentence}."))


@pytest.mark.parametrize("text", ["", " ", "\n \t"])
def test_a_text_without_anything_to_show_has_no_passages(text):
    assert passages(text) == []
