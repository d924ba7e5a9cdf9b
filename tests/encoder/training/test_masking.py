import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from encoder.training.masking import Alphabet, hide
from encoder.training.recipe import Masking

SPECIAL, MASK, SIZE = 8, 4, 200
STARTS = np.arange(SIZE) % 3 == 0  # every third token begins a word
ALPHABET = Alphabet(STARTS, SPECIAL, MASK)


def batch(seed, rows=12, tokens=40):
    ids = np.random.default_rng(seed).integers(SPECIAL, SIZE, (rows, tokens))
    ids[:, 0] = 2
    ids[:, 17] = 3
    return ids


@given(seed=st.integers(0, 999), rate=st.floats(0.05, 0.6), whole=st.floats(0, 1))
def test_every_row_hides_the_same_number_and_shows_the_rest(seed, rate, whole):
    ids = batch(seed)

    masked = hide(ids, rate, Masking(whole_word_share=whole), ALPHABET, np.random.default_rng(seed))

    assert masked.places.shape == (12, round(rate * 40))
    assert (np.diff(masked.places, axis=1) > 0).all()
    np.testing.assert_array_equal(np.take_along_axis(ids, masked.places, axis=1), masked.targets)
    assert (masked.targets >= SPECIAL).all()  # [CLS] and [SEP] are never hidden
    shown = np.ones(ids.shape, dtype=bool)
    np.put_along_axis(shown, masked.places, False, axis=1)
    np.testing.assert_array_equal(masked.inputs[shown], ids[shown])


def test_of_the_hidden_tokens_eight_in_ten_are_masked_one_is_random_one_stays():
    ids = batch(0, rows=2000)

    masked = hide(ids, 0.3, Masking(), ALPHABET, np.random.default_rng(0))

    seen = np.take_along_axis(masked.inputs, masked.places, axis=1)
    assert abs((seen == MASK).mean() - 0.8) < 0.01
    assert abs((seen == masked.targets).mean() - 0.1) < 0.01
    assert seen[seen != MASK].min() >= SPECIAL


def test_whole_words_are_hidden_with_all_their_tokens_but_the_last_one_of_a_row():
    ids = batch(0, rows=200)

    masked = hide(ids, 0.3, Masking(whole_word_share=1.0), ALPHABET, np.random.default_rng(0))

    words = np.cumsum(STARTS[ids], axis=1)
    hidden = np.zeros(ids.shape, dtype=bool)
    np.put_along_axis(hidden, masked.places, True, axis=1)
    for row in range(len(ids)):
        torn = 0
        for word in set(words[row]):
            parts = hidden[row][(words[row] == word) & (ids[row] >= SPECIAL)]
            torn += 0 < parts.sum() < len(parts)
        assert torn <= 1


def test_the_same_seed_hides_the_same_tokens():
    first, second = (
        hide(batch(1), 0.2, Masking(), ALPHABET, np.random.default_rng([1, 2])) for _ in range(2)
    )

    np.testing.assert_array_equal(first.inputs, second.inputs)
