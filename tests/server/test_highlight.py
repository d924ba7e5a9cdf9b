import numpy as np
import regex
from hypothesis import given
from hypothesis import strategies as st

from encoder.tokenizer import Window
from server.highlight import (
    LEXICAL_MAX,
    SEMANTIC_MAX,
    TEXT_CODE_POINTS_MAX,
    HighlightKind,
    best_passages,
    chunks,
    lexical_highlights,
)

WIDTH = 3


def window_of_characters(text):
    """A window whose tokens are the characters of `text` between two special tokens."""
    starts = np.array([-1, *range(len(text)), -1], np.int32)
    ends = np.array([-1, *range(1, len(text) + 1), -1], np.int32)
    return Window(np.zeros(len(starts), np.int64), starts, ends)


def states_that_point_to(chunk, direction_of):
    """(tokens, width): each character points where `direction_of` sends it."""
    middle = [direction_of(character) for character in chunk.text]
    return np.array([[9, 9, 9], *middle, [9, 9, 9]], np.float32)


def test_the_passage_that_points_where_the_query_points_comes_first():
    text = "zzzz zz. qqqq qq. zqzq."
    direction = {"q": (1, 0, 0), "z": (0, 1, 0)}
    read = [
        (
            chunk,
            window_of_characters(chunk.text),
            states_that_point_to(chunk, lambda c: direction.get(c, (0, 0, 0))),
        )
        for chunk in chunks(text, 12)
    ]

    found = best_passages(read, np.array([1, 0, 0], np.float32))

    assert [text[h.span.start : h.span.end] for h in found] == ["qqqq qq.", "zqzq.", "zzzz zz."]
    assert [round(h.score, 3) for h in found] == [1.0, 0.707, 0.0]
    assert all(h.kind is HighlightKind.SEMANTIC for h in found)


def test_a_shorter_query_vector_is_compared_with_the_first_dimensions():
    (chunk,) = chunks("abc", 10)
    states = np.array([[0, 0, 0]] + [[1, 0, 5]] * 3 + [[0, 0, 0]], np.float32)

    (found,) = best_passages(
        [(chunk, window_of_characters("abc"), states)], np.array([1, 0], np.float32)
    )

    assert found.score == 1.0


def test_a_passage_that_the_model_did_not_read_is_not_shown():
    text = "First one. Second one. Third one. Fourth one."
    (chunk,) = chunks(text, 100)
    window = window_of_characters(text[:22])
    states = np.ones((24, WIDTH), np.float32)

    found = best_passages([(chunk, window, states)], np.ones(WIDTH, np.float32))

    assert [text[h.span.start : h.span.end] for h in found] == ["First one.", "Second one."]


def test_at_most_three_passages_of_a_hit_are_shown():
    text = "One here. Two here. Three here. Four here."
    (chunk,) = chunks(text, 100)
    states = np.ones((len(text) + 2, WIDTH), np.float32)

    found = best_passages([(chunk, window_of_characters(text), states)], np.ones(WIDTH, np.float32))

    assert len(found) == SEMANTIC_MAX


@given(st.text(alphabet="ab .\n,é👍", max_size=200), st.integers(5, 50))
def test_chunks_hold_whole_passages_in_order_and_fit_where_a_passage_does(text, limit):
    for chunk in chunks(text, limit):
        first, last = chunk.passages[0], chunk.passages[-1]
        assert chunk.text == text[first.start : last.end]
        assert chunk.start == first.start
        assert len(chunk.text) <= limit or len(chunk.passages) == 1


def test_words_of_the_query_are_shown_where_they_stand_in_code_points_and_bytes():
    text = "Ein Äpfel-Tag: apple, ÄPFEL und mehr"

    found = lexical_highlights("äpfel apple", text)

    assert [text[h.span.start : h.span.end] for h in found] == ["Äpfel", "apple", "ÄPFEL"]
    for h in found:
        assert (
            text.encode()[h.span.byte_start : h.span.byte_end].decode()
            == text[h.span.start : h.span.end]
        )
        assert h.kind is HighlightKind.LEXICAL


def test_a_word_that_stands_everywhere_is_shown_so_many_times():
    assert len(lexical_highlights("a", "a " * 1000)) == LEXICAL_MAX


def test_of_an_endless_text_only_the_beginning_is_looked_at_and_no_cluster_is_cut():
    text = "e\u0301" * TEXT_CODE_POINTS_MAX

    spans = [passage for chunk in chunks("x" + text, 500) for passage in chunk.passages]

    assert spans[-1].end <= TEXT_CODE_POINTS_MAX
    assert regex.fullmatch(r"x(e\u0301)*", ("x" + text)[: spans[-1].end])
