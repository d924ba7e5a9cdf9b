"""Attention made into corresponding words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.alignment import (
    Example,
    align,
    choose_heads,
    error_rate,
    links_of,
    token_places,
)
from encoder.tokenizer import Window


def window(places):
    starts = np.array([start for start, _ in places], np.int32)
    ends = np.array([end for _, end in places], np.int32)
    return Window(np.ones(len(places), np.int64), starts, ends)


def test_words_are_made_of_their_tokens():
    # [CLS] ét ##udiant . [SEP] against: stu ##dent .
    source = window([(-1, -1), (0, 2), (2, 8), (8, 9), (-1, -1)])
    attention = np.array(
        [[0.1, 0.4, 0.4, 0.0, 0.1], [0.0, 0.2, 0.6, 0.2, 0.0], [0.1, 0.0, 0.1, 0.8, 0.0]],
        np.float32,
    )

    found = align("étudiant.", source, "student.", [(0, 3), (3, 7), (7, 8)], attention)

    assert [(span.start, span.end) for span in found.source] == [(0, 8)]
    assert [(span.byte_start, span.byte_end) for span in found.source] == [(0, 9)]
    assert [(span.start, span.end) for span in found.target] == [(0, 7)]
    np.testing.assert_allclose(found.weights, [[0.8]], atol=1e-6)
    assert found.links == [(0, 0)]


def test_a_word_belongs_to_its_heaviest_and_to_those_nearly_as_heavy():
    weights = np.array([[0.5, 0.45, 0.1], [0.05, 0.02, 0.01], [0.0, 0.1, 0.9]], np.float32)

    assert links_of(weights) == [(0, 0), (1, 0), (2, 2)]


def test_texts_without_words_have_no_pairs():
    found = align("...", window([(0, 3)]), "!", [(0, 1)], np.ones((1, 1), np.float32))

    assert (found.source, found.target, found.links) == ([], [], [])
    assert found.weights.shape == (0, 0)


@given(pieces=st.lists(st.text(alphabet="aé 日", min_size=0, max_size=4), max_size=8))
def test_tokens_stand_where_their_text_is(pieces):
    text = "".join(pieces).strip()

    def decode(ids):
        return "".join(pieces[i] for i in ids)

    places = token_places(range(len(pieces)), text, decode)

    assert len(places) == len(pieces)
    assert all(0 <= start <= end <= len(text) for start, end in places)
    covered = "".join(text[start:end] for start, end in places)
    assert covered.replace(" ", "") == text.replace(" ", "")


def test_bytes_that_are_no_character_yet_belong_to_where_it_stands():
    whole = "a日b"

    def decode(ids):  # 日 is three bytes, a token each
        return ["", "a", "a�", "a�", "a日", "a日b"][len(ids)]

    assert token_places(range(5), whole, decode) == [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)]


@given(text=st.text(alphabet="aé日🙂", max_size=6))
def test_all_bytes_of_a_character_stand_where_it_does(text):
    encoded = text.encode()

    places = token_places(range(len(encoded)), text, lambda ids: text_of(encoded[: len(ids)]))

    owners = [at for at, character in enumerate(text) for _ in character.encode()]
    assert places == [(at, at + 1) for at in owners]


def text_of(some):
    return some.decode(errors="replace")


def test_a_word_spelled_in_bytes_is_the_mean_of_all_of_them():
    encoded = "日".encode()
    source = window([(0, 3), (4, 7)])
    places = token_places(range(3), "日", lambda ids: text_of(encoded[: len(ids)]))
    attention = np.array([[0.9, 0.1], [0.6, 0.4], [0.0, 1.0]], np.float32)

    found = align("the sun", source, "日", places, attention)

    np.testing.assert_allclose(found.weights, [[0.5, 0.5]], atol=1e-6)


def test_a_long_text_is_compared_once_and_not_once_for_each_token():
    compared = 0

    class Watched(str):
        def __getitem__(self, at):
            nonlocal compared
            compared += isinstance(at, int)
            return super().__getitem__(at)

    text = Watched("ab" * 500)
    places = token_places(range(500), text, lambda ids: "ab" * len(ids))

    assert places == [(2 * i, 2 * i + 2) for i in range(500)]
    assert compared == len(text)


def test_the_error_rate_is_that_of_och_and_ney():
    assert error_rate([example({(0, 0)}, {(0, 0)})], 0) == 0.0
    assert error_rate([example({(1, 1)}, {(0, 0)})], 0) == 1.0
    # One sure link of two found, and one that is possible.
    other = example({(0, 0), (1, 2)}, {(0, 0), (1, 1)}, {(1, 2)})
    assert error_rate([other], 0) == pytest.approx(1 - (1 + 2) / 4)
    # Over the links of both together, which is no mean of two rates.
    assert error_rate([example({(0, 0)}, {(0, 0)}), other], 0) == pytest.approx(1 - (2 + 3) / 6)


def test_of_several_heads_the_mean_is_judged():
    right, wrong = (example({link}, {(0, 0)}).attention[0] for link in ((0, 0), (1, 0)))
    both = Example([np.concatenate([right, wrong])], frozenset({(0, 0)}), frozenset())

    assert error_rate([both], 0, [0]) == 0.0
    assert error_rate([both], 0, [1]) == 1.0
    assert error_rate([both], 0) == error_rate([both], 0, [0, 1]) == pytest.approx(1 - 2 / 3)


def example(found, sure, possible=()):
    """One layer of one head, which looks from target words at the source words that are `found`."""
    weights = np.zeros((1, 3, 3), np.float32)
    for source, target in found:
        weights[0, target, source] = 1.0
    return Example([weights], frozenset(sure), frozenset(possible))


def test_the_heads_that_align_are_chosen():
    rng = np.random.default_rng(0)
    examples = []
    for _ in range(5):
        order = rng.permutation(4)
        right = np.zeros((4, 4), np.float32)
        right[np.arange(4), order] = 0.9
        noise = rng.dirichlet(np.ones(4), size=(2, 3, 4)).astype(np.float32)
        noise[1, 2] = right
        links = frozenset((int(source), target) for target, source in enumerate(order))
        examples.append(Example(list(noise), links, links))

    assert choose_heads(examples) == (1, (2,))
