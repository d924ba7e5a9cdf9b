import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from encoder.tokenizer import TokenizedText, Truncation, Window, pieces_of
from encoder.words import Span
from server.places import places_of


def window(first, last):
    """A token a character, from `first` to before `last`, between two special tokens."""
    starts = np.array([-1, *range(first, last), -1], dtype=np.int32)
    ends = np.where(starts < 0, -1, starts + 1).astype(np.int32)
    return Window(np.zeros(len(starts), dtype=np.int64), starts, ends)


def text_of(length, room):
    pieces = pieces_of(length, room, Truncation.WINDOWS)
    return TokenizedText(tuple(window(p.start, p.stop) for p in pieces), length, length, False)


def span(start, end):
    return Span(start, end, start, end)


@given(length=st.integers(1, 200), room=st.integers(8, 40), data=st.data())
def test_a_word_is_taken_from_the_window_with_most_context(length, room, data):
    text = text_of(length, room)
    start = data.draw(st.integers(0, length - 1))
    word = span(start, min(start + 2, length))

    place = places_of(text, [word]).places[0]

    def context(number):
        starts = text.windows[number].starts.tolist()
        held = [i for i, at in enumerate(starts) if word.start <= at < word.end]
        return (len(held), min(held[0], len(starts) - 1 - held[-1])) if held else (0, 0)

    assert context(place.window) == max(context(number) for number in range(len(text.windows)))


def test_windows_of_no_use_are_not_asked_for():
    text = text_of(200, 20)

    found = places_of(text, [span(0, 1), span(2, 4), span(199, 200)])

    assert list(found.slices) == [0, len(text.windows) - 1]
    assert [place.row for place in found.places] == [0, 1, 0]
    assert [place.tokens for place in found.places] == [1, 2, 1]


def test_a_word_that_was_cut_away_has_no_place():
    text = TokenizedText((window(0, 10),), 20, 12, True)

    assert places_of(text, [span(15, 16), span(3, 4)]).places[0] is None
