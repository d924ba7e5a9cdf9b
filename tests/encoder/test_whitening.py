import numpy as np
import pytest

from encoder.whitening import Whitening


def test_whitened_words_vary_alike_in_every_direction():
    random = np.random.default_rng(0)
    mixing = random.normal(size=(4, 4))
    words = [random.normal(size=(5000, 4)) @ mixing + 10 * word for word in range(3)]

    whitening = Whitening.fit(words)

    for word in words:
        np.testing.assert_allclose(np.cov(whitening.apply(word).T), np.eye(4), atol=0.1)


def test_a_frequent_word_does_not_outweigh_a_rare_one_in_the_whitening():
    random = np.random.default_rng(0)
    wide, narrow = random.normal(size=(300, 2)) * [4, 1], random.normal(size=(300, 2)) * [1, 4]

    once = Whitening.fit([wide, narrow])
    repeated = Whitening.fit([np.tile(wide, (20, 1)), narrow])

    np.testing.assert_allclose(repeated.matrix, once.matrix, rtol=0.1, atol=0.02)


def test_half_the_strength_goes_half_the_way():
    rows = np.random.default_rng(0).normal(size=(4000, 2)) * [16, 1]

    whole, half, none = (
        np.std(Whitening.fit([rows], strength=strength).apply(rows), axis=0)
        for strength in (1.0, 0.5, 0.0)
    )

    assert whole[0] / whole[1] == pytest.approx(1, rel=0.1)
    assert half[0] / half[1] == pytest.approx(4, rel=0.1)
    assert none[0] / none[1] == pytest.approx(16, rel=0.1)


def test_a_whitening_of_nothing_is_refused():
    with pytest.raises(ValueError, match="fitted"):
        Whitening.fit([])
