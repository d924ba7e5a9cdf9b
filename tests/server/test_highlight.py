import numpy as np
import pytest
import regex

from encoder.words import span_at
from server.highlight import (
    LEXICAL_MAX,
    SEMANTIC_MAX,
    TEXT_CODE_POINTS_MAX,
    HighlightKind,
    lexical_highlights,
    nearest,
)


def read(text, *vectors):
    """Words of `text`, each with its vector."""
    spans = [span_at(text, match.start(), match.end()) for match in regex.finditer(r"\S+", text)]
    return [(span, np.array(v, np.float32)) for span, v in zip(spans, vectors, strict=True)]


def shown(text, highlights):
    return [text[h.span.start : h.span.end] for h in highlights]


def test_the_passage_that_points_where_the_query_points_comes_first():
    text = "across along askew"
    passages = read(text, [0, 1, 0], [5, 0, 0], [1, 1, 0])

    found = nearest(passages, np.array([2, 0, 0], np.float32))

    assert shown(text, found) == ["along", "askew", "across"]
    assert [h.score for h in found] == pytest.approx([1, 0.7071, 0], abs=1e-4)
    assert all(h.kind is HighlightKind.SEMANTIC for h in found)


def test_a_shorter_query_vector_is_compared_with_the_first_dimensions():
    (found,) = nearest(read("abc", [1, 0, 5]), np.array([1, 0], np.float32))

    assert found.score == 1


def test_passages_as_near_as_each_other_keep_the_order_of_the_text_and_three_are_shown():
    text = "one two three four"

    found = nearest(read(text, [1], [1], [1], [1]), np.array([1], np.float32))

    assert shown(text, found) == ["one", "two", "three"]
    assert len(found) == SEMANTIC_MAX


def test_a_passage_whose_vector_is_zero_points_nowhere_and_is_not_shown():
    assert nearest(read("nothing", [0, 0]), np.array([1, 0], np.float32)) == []


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


def test_of_an_endless_text_only_the_beginning_is_looked_at():
    text = "pear " * TEXT_CODE_POINTS_MAX + "apple"

    assert lexical_highlights("apple", text) == []
    assert lexical_highlights("pear", text)
