"""Texts cut for translation: nothing is lost, and nothing is cut that need not be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.sentences import Piece, Splitting, fitted, is_translatable, pieces
from encoder.tokenizer import Window

FRAGMENTS = [
    "Hello",
    " ",
    "\n",
    "\r\n",
    ". ",
    "? ",
    "<b>",
    "</b>",
    "<br/>",
    "&nbsp;",
    "Mr.",
    "3.5",
    "é",
    "🙂",
    "日本語。",
]


def cut(text, language="en", splitting=Splitting.SENTENCES_AND_LINES):
    return [piece.of(text) for piece in pieces(text, language, splitting)]


@given(
    text=st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join) | st.text(max_size=60),
    splitting=st.sampled_from(Splitting),
)
@settings(max_examples=150, deadline=None)
def test_between_pieces_there_is_nothing_but_space_and_tags(text, splitting):
    found = pieces(text, "en", splitting)

    before = 0
    for piece in found:
        assert before <= piece.start < piece.end <= len(text)
        assert not is_translatable(text[before : piece.start])
        assert piece.of(text) == piece.of(text).strip(" \t\r\n")
        before = piece.end
    assert not is_translatable(text[before:])


@pytest.mark.parametrize(
    ("language", "text", "sentences"),
    [
        ("en", "Mr. Smith came. He left.", ["Mr. Smith came.", "He left."]),
        ("de", "Das kostet 3,5 Mio. Euro. Wirklich!", ["Das kostet 3,5 Mio. Euro.", "Wirklich!"]),
        ("fr", "Ça va ? Oui, M. Dupont.", ["Ça va ?", "Oui, M. Dupont."]),
        ("xx", "One. Two.", ["One.", "Two."]),
    ],
)
def test_sentences_end_where_they_do(language, text, sentences):
    assert cut(text, language) == sentences


def test_lines_are_pieces_or_parts_of_sentences():
    text = "A line that\ngoes on. Another.\n\nA title\n"

    assert cut(text) == ["A line that", "goes on.", "Another.", "A title"]
    assert cut(text, splitting=Splitting.SENTENCES) == [
        "A line that\ngoes on.", "Another.", "A title",
    ]  # fmt: skip
    assert cut(text, splitting=Splitting.NONE) == [text.strip()]


def test_tags_at_the_edges_stay_outside_and_are_nothing_to_translate():
    text = "<p> <i>Hello <b>world</b>.</i></p>"

    (piece,) = pieces(text, "en", Splitting.SENTENCES_AND_LINES)

    assert piece.of(text) == "Hello <b>world</b>."
    assert not is_translatable("<a href='x'> 12:30 </a>")
    assert is_translatable("1 < 2 and 3 > 2")


@pytest.mark.parametrize("space", ["&nbsp;", "&#160;", "&#xA0;", "&#x202F;", "&thinsp;"])
def test_white_space_by_its_name_stays_outside_too(space):
    assert cut(f"{space}<b>Hello&nbsp;world.</b> {space}") == ["Hello&nbsp;world."]
    assert cut(f"<p>{space}</p>") == []


def test_entities_that_are_read_stay_inside():
    assert cut("&Eacute;cole, dit&nbsp;il, &quot;R&amp;D&quot;", "fr") == [
        "&Eacute;cole, dit&nbsp;il, &quot;R&amp;D&quot;"
    ]


def test_a_letter_may_be_written_as_an_entity_and_a_sign_has_none():
    assert is_translatable("&eacute;")
    assert is_translatable("&lt;b&gt;")
    assert not is_translatable("&nbsp;&mdash; 12 &amp; 13")


def window(text):
    """A token a character that is no space, between two special ones."""
    places = [i for i, character in enumerate(text) if not character.isspace()]
    starts = np.array([-1, *places, -1], dtype=np.int32)
    ends = np.array([-1, *(i + 1 for i in places), -1], dtype=np.int32)
    return Window(np.ones(len(starts), np.int64), starts, ends)


@given(
    text=st.text(alphabet="ab \n", min_size=1, max_size=60),
    tokens_max=st.integers(3, 12),
)
@settings(max_examples=100, deadline=None)
def test_what_is_too_long_is_cut_at_white_space_and_nothing_is_lost(text, tokens_max):
    text = text.strip() or "a"
    whole = Piece(0, len(text), True)

    parts = fitted(whole, text, window(text), tokens_max)

    kept = "".join(part.of(text) for part in parts)
    assert "".join(kept.split()) == "".join(text.split())
    for part in parts:
        assert len("".join(part.of(text).split())) + 2 <= tokens_max
    longest_word = max(map(len, text.split()))
    if longest_word + 2 <= tokens_max:  # no word needs to be cut
        assert " ".join(part.of(text) for part in parts).split() == text.split()


def test_what_is_too_long_is_cut_after_a_clause_into_parts_of_like_length():
    text = "a, bb cc dd, ee ff, gg hh ii"

    parts = fitted(Piece(0, len(text), True), text, window(text), 14)

    assert [part.of(text) for part in parts] == ["a, bb cc dd,", "ee ff, gg hh ii"]
