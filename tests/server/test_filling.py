import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from encoder.words import span_at
from server.filling import most_probable, with_masks, without_word


@given(parts=st.lists(st.text(alphabet="aü🍎 ", max_size=5), min_size=1, max_size=6))
def test_every_mark_becomes_the_models_own_where_it_stood(parts):
    text = "[MASK]".join(parts)

    masked = with_masks(text, "[MASK]", "<mask>")

    assert masked.text == "<mask>".join(parts)
    assert [masked.text[s.start : s.end] for s in masked.places] == ["<mask>"] * (len(parts) - 1)
    assert [text[s.start : s.end] for s in masked.spans] == ["[MASK]"] * (len(parts) - 1)


def test_the_models_own_mask_is_understood_beside_the_callers():
    masked = with_masks("a ___ and <mask>", "___", "<mask>")

    assert masked.text == "a <mask> and <mask>"
    assert [(s.start, s.end) for s in masked.spans] == [(2, 5), (10, 16)]


def test_a_word_makes_room_for_one_mask():
    masked = without_word("An apple fell", span_at("An apple fell", 3, 8), "[MASK]")

    assert masked.text == "An [MASK] fell"
    assert [(s.start, s.end) for s in masked.places] == [(3, 9)]


@given(
    scores=st.lists(st.integers(-3, 3), min_size=1, max_size=30),
    count=st.integers(1, 10),
    seed=st.integers(0, 100),
)
def test_the_most_probable_are_the_best_allowed_in_order_of_score_then_number(scores, count, seed):
    logits = np.array(scores, dtype=np.float32)
    allowed = np.random.default_rng(seed).random(len(scores)) < 0.7

    found = most_probable(logits, allowed, count)

    ranked = sorted(np.flatnonzero(allowed).tolist(), key=lambda i: (-scores[i], i))
    assert [guess.token_id for guess in found] == ranked[:count]
    shares = np.exp(logits) / np.exp(logits).sum()
    for guess in found:
        np.testing.assert_allclose(guess.probability, shares[guess.token_id], rtol=1e-5)
