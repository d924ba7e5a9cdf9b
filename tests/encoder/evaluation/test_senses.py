from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.evaluation.classifier import Rule, draw
from encoder.evaluation.coarsewsd import macro, micro_accuracy
from encoder.evaluation.features import BOTH, STATIC, WORD, WORD_WHITENED, Examples, Part, Word
from encoder.evaluation.senses import Judgement, choose, folds, judge, judge_few, mixes
from encoder.evaluation.vectors import WordVectors

LAYERS, WIDTH = 3, 6


def word(name, seed, telling_layer=2, n=60):
    """A word whose senses differ in one layer alone."""
    random = np.random.default_rng(seed)

    def examples():
        senses = np.arange(n) % 2
        layers = random.normal(size=(LAYERS + 1, n, WIDTH)).astype(np.float32)
        layers[telling_layer, :, 0] += 5 * senses - 2.5
        rest = [random.normal(size=(n, WIDTH)).astype(np.float32) for _ in range(3)]
        return Examples(WordVectors(layers, *rest), senses)

    return Word(name, examples(), examples())


WORDS = [word(name, seed) for seed, name in enumerate(["apple", "bank", "crane", "deck"])]


def test_the_mixes_are_tails_all_and_single_layers_each_once_and_never_the_embeddings():
    assert mixes(3) == [(1, 2, 3), (2, 3), (3,), (2,), (1,)]
    assert mixes(6)[:4] == [(3, 4, 5, 6), (4, 5, 6), (5, 6), (1, 2, 3, 4, 5, 6)]


def test_the_telling_layer_is_chosen():
    assert choose(WORDS, LAYERS).plain == (2,)


def test_a_fold_is_scored_with_what_other_words_chose():
    others = [word(w.word, 7 + i, telling_layer=1 + 2 * (i % 2)) for i, w in enumerate(WORDS)]

    first, second = folds(others, LAYERS)

    assert [w.word for w in first.words] == ["apple", "crane"]
    assert [w.word for w in second.words] == ["bank", "deck"]
    assert first.choice.plain == (3,)  # what bank and deck need; apple and crane need layer 1
    assert second.choice.plain == (1,)


def test_no_test_sentence_decides_anything():
    noise = [replace(w, test=word("x", 99).test) for w in WORDS]

    for ours, other in zip(folds(WORDS, LAYERS), folds(noise, LAYERS), strict=True):
        assert ours.choice == other.choice
        np.testing.assert_array_equal(
            ours.whitenings[Part.WORD].matrix, other.whitenings[Part.WORD].matrix
        )


def test_a_later_run_can_be_given_the_choices_of_an_earlier_one():
    earlier = [fold.choice for fold in folds(WORDS, LAYERS)]
    shuffled = [word(w.word, i, telling_layer=1) for i, w in enumerate(WORDS)]

    assert [fold.choice for fold in folds(shuffled, LAYERS, earlier)] == earlier


def test_telling_vectors_are_learnt_and_the_others_are_not():
    fold = folds(WORDS, LAYERS)[0]

    for rule in Rule:
        assert macro(judge(fold.seen(WORD), rule)) > 0.85
        assert macro(judge(fold.seen(WORD_WHITENED), rule)) > 0.85
        assert macro(judge(fold.seen(STATIC), rule)) < 0.75


def test_parts_stand_side_by_side_at_length_one():
    fold = folds(WORDS, LAYERS)[0]

    matrix = fold.seen(BOTH)[0].test

    assert matrix.shape == (60, 2 * WIDTH)
    np.testing.assert_allclose(np.linalg.norm(matrix[:, :WIDTH], axis=1), 1)
    np.testing.assert_allclose(np.linalg.norm(matrix[:, WIDTH:], axis=1), 1)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(1, 30), st.integers(0, 9))
def test_a_draw_takes_so_many_of_each_sense_or_all_there_are(senses, shots, seed):
    senses = np.array(senses)

    rows = draw(senses, shots, np.random.default_rng(seed))

    assert len(set(rows)) == len(rows)
    for sense, there in zip(*np.unique(senses, return_counts=True), strict=True):
        assert np.sum(senses[rows] == sense) == min(shots, there)


def test_few_examples_of_one_seed_are_the_same_and_more_help():
    fold = folds(WORDS, LAYERS)[0]

    def run(shots, seed):
        return judge_few(fold.seen(WORD), Rule.DISCRIMINANT, shots=shots, seed=seed)

    np.testing.assert_array_equal(run(1, 0)[0].predicted, run(1, 0)[0].predicted)
    once, tenfold = ([macro(run(shots, seed)) for seed in range(10)] for shots in (1, 10))
    assert np.mean(tenfold) > np.mean(once)


def test_micro_accuracy_counts_sentences_and_macro_f1_counts_words():
    big = Judgement("a", np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 1]))
    small = Judgement("b", np.array([0, 1]), np.array([0, 0]))

    assert micro_accuracy([big, small]) == pytest.approx(7 / 8)
    # small: F1 of sense 0 is 2/3, of sense 1 is 0
    assert macro([big, small]) == pytest.approx((1 + 1 / 3) / 2)
