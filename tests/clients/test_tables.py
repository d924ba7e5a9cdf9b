"""What the terminal shows of texts, and where it marks them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from polyseme import Document, Span
from polyseme.cli import tables
from polyseme.searching import Highlight, Hit


def hit(text, *marks):
    """marks: (kind, start, end)"""
    return Hit(
        document=Document(id="a", text=text),
        score=1.0,
        highlights=tuple(
            Highlight(span=Span(start, end, 0, 0), kind=kind, score=0.0)
            for kind, start, end in marks
        ),
        explanation=None,
        translation=None,
    )


def styled(text):
    return [text.plain[span.start : span.end] for span in text.spans]


@pytest.mark.parametrize("kind", ["lexical", "semantic"])
@pytest.mark.parametrize("between", ["\r\n", "\a\b\v\f", "\n"])
def test_a_mark_stays_on_its_word_behind_control_characters(kind, between):
    text = f"one{between}two{between}apple pie"
    place = text.index("apple")
    found = hit(text, (kind, place, place + 5))

    assert "«apple» pie" in tables.snippet(found, colour=False).plain
    assert styled(tables.snippet(found, colour=True)) == ["apple"]


@pytest.mark.parametrize("colour", [False, True])
def test_a_snippet_of_a_text_without_spaces_shows_what_matches(colour):
    text = "木" * 900 + "林檎" + "木" * 900 + " 木" * 9
    found = hit(text, ("lexical", 900, 902))

    shown = tables.snippet(found, colour)

    if colour:
        assert styled(shown) == ["林檎"]
    else:
        assert "«林檎»" in shown.plain
    assert shown.plain.startswith("…木")


@given(
    text=st.text("ab \r\n\x1b木", min_size=1, max_size=120), place=st.data(), colour=st.booleans()
)
def test_the_first_mark_is_always_seen(text, place, colour):
    start = place.draw(st.integers(0, len(text) - 1))
    end = place.draw(st.integers(start + 1, min(len(text), start + 10)))

    shown = tables.snippet(hit(text, ("lexical", start, end)), colour, characters=60)

    marked = tables.visible(text[start:end]).replace("\n", " ")
    if colour:
        assert styled(shown) == [marked]
    else:
        assert f"«{marked}»" in shown.plain
    assert not set("\r\x1b") & set(shown.plain)


def test_a_word_before_the_snippet_is_not_marked_at_its_end():
    text = "apple " + "x " * 400 + "passage of apple " + "y " * 400
    passage = text.index("passage")
    found = hit(text, ("semantic", passage, passage + 16), ("lexical", 0, 5))

    assert styled(tables.snippet(found, colour=True)) == ["passage of apple"]


@given(st.text())
def test_what_is_visible_keeps_its_place(text):
    shown = tables.visible(text)

    assert len(shown) == len(text)
    assert Text(shown).plain == shown
