"""The search against brute force, on vocabularies small enough to enumerate."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.beam import BeamPlan, Proposals, search

END = 0


class Table:
    """A language model of random numbers: the next token depends on all before it, as a real
    one's does. It counts what it is asked."""

    def __init__(self, seeds, vocabulary, choices=None):
        self._seeds = seeds
        self._vocabulary = vocabulary
        self._choices = choices or vocabulary
        self._texts = [(seed,) for seed in seeds]
        self.rows = []

    def log_probabilities(self, text):
        """text: the sentence's seed, then its tokens"""
        rng = np.random.default_rng([*text, 7])
        logits = rng.normal(scale=2.0, size=self._vocabulary)
        return (logits - np.log(np.exp(logits).sum())).astype(np.float32)

    def step(self, tokens, parents):
        self.rows.append(tokens.size)
        self._texts = [
            self._texts[parent] + (() if not len(self.rows) - 1 else (token,))
            for parent, token in zip(parents.ravel(), tokens.ravel(), strict=True)
        ]
        rows = np.stack([self.log_probabilities(text) for text in self._texts])
        order = np.argsort(-rows, axis=1, kind="stable")[:, : self._choices]
        attention = np.array([[len(text), text[0]] for text in self._texts], np.float32)
        return Proposals(
            order.reshape(*tokens.shape, -1),
            np.take_along_axis(rows, order, axis=1).reshape(*tokens.shape, -1),
            attention.reshape(*tokens.shape, 2),
        )


def every_translation(table, seed, vocabulary, tokens_max):
    """All texts of the model with their log-probabilities: those that end, and those cut."""
    words = range(1, vocabulary)
    for length in range(tokens_max):
        for text in itertools.product(words, repeat=length):
            yield text, True, probability(table, seed, (*text, END))
    for text in itertools.product(words, repeat=tokens_max):
        yield text, False, probability(table, seed, text)


def probability(table, seed, tokens):
    return sum(
        float(table.log_probabilities((seed, *tokens[:i]))[token]) for i, token in enumerate(tokens)
    )


def translate(seeds, vocabulary, tokens_max, plan, **options):
    table = Table(seeds, vocabulary)
    limits = [tokens_max] * len(seeds)
    found = search(table, [1] * len(seeds), end_id=END, tokens_max=limits, plan=plan, **options)
    return table, found


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    vocabulary=st.integers(2, 4),
    tokens_max=st.integers(1, 3),
    length_penalty=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
)
def test_a_beam_as_wide_as_the_space_finds_what_enumeration_finds(
    seed, vocabulary, tokens_max, length_penalty
):
    beams = (vocabulary - 1) ** tokens_max + vocabulary**tokens_max
    plan = BeamPlan(beams=beams, alternatives=beams, length_penalty=length_penalty)

    table, (found,) = translate([seed], vocabulary, tokens_max, plan)

    every = [
        (not finished, -plan.score(total, len(text) + finished), text)
        for text, finished, total in every_translation(table, seed, vocabulary, tokens_max)
    ]
    expected = sorted(every)
    assert len(found) == len(expected)
    for got, (cut, score, text) in zip(found, expected, strict=True):
        assert (got.tokens, got.finished) == (text, not cut)
        assert got.score == pytest.approx(-score, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 10_000), min_size=1, max_size=6),
    beams=st.integers(1, 4),
    length_penalty=st.sampled_from([0.0, 1.0]),
)
def test_a_sentence_in_company_is_translated_as_it_is_alone(seeds, beams, length_penalty):
    plan = BeamPlan(beams=beams, alternatives=beams, length_penalty=length_penalty)

    _, together = translate(seeds, 5, 6, plan)
    alone = [translate([seed], 5, 6, plan)[1][0] for seed in seeds]

    for left, right in zip(together, alone, strict=True):
        assert [(h.tokens, h.score, h.finished) for h in left] == [
            (h.tokens, h.score, h.finished) for h in right
        ]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), beams=st.integers(1, 5))
def test_scores_are_those_of_the_model_and_fall(seed, beams):
    plan = BeamPlan(beams=beams, alternatives=beams, length_penalty=0.7)

    table, (found,) = translate([seed], 6, 8, plan)

    assert 1 <= len(found) <= beams
    assert len({h.tokens for h in found}) == len(found)
    for hypothesis in found:
        text = (*hypothesis.tokens, END) if hypothesis.finished else hypothesis.tokens
        assert END not in hypothesis.tokens
        assert hypothesis.log_probability == pytest.approx(probability(table, seed, text), abs=1e-4)
        assert hypothesis.score == pytest.approx(hypothesis.log_probability / len(text) ** 0.7)
    for finished in (True, False):
        scores = [h.score for h in found if h.finished is finished]
        assert scores == sorted(scores, reverse=True)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_one_beam_takes_the_likeliest_token_every_time(seed):
    table, (found,) = translate([seed], 6, 9, BeamPlan(beams=1))

    text = ()
    while len(text) < 9:
        token = int(np.argmax(table.log_probabilities((seed, *text))))
        if token == END:
            break
        text = (*text, token)
    assert found[0].tokens == text
    assert found[0].finished == (len(text) < 9)


@given(seed=st.integers(0, 10_000), beams=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_attention_is_that_of_the_hypothesis_own_steps(seed, beams):
    _, (found,) = translate([seed], 5, 6, BeamPlan(beams=beams, alternatives=beams))

    for hypothesis in found:
        steps = len(hypothesis.tokens) + hypothesis.finished
        assert hypothesis.attention[:, 0].tolist() == [1 + i for i in range(steps)]
        assert set(hypothesis.attention[:, 1]) == {float(seed)}


def test_finished_sentences_leave_the_batch():
    class Short(Table):
        def log_probabilities(self, text):
            seed, *tokens = text
            ends = len(tokens) >= seed
            return np.log(np.array([0.98, 0.01, 0.01] if ends else [0.01, 0.98, 0.01], np.float32))

    table = Short([1, 5], 3)
    found = search(table, [1, 1], end_id=END, tokens_max=[9, 9], plan=BeamPlan(beams=1))

    assert [h.tokens for (h,) in found] == [(1,), (1,) * 5]
    assert table.rows == [2, 2, 1, 1, 1, 1]


def test_each_sentence_has_a_longest_length_of_its_own():
    class Endless(Table):
        def log_probabilities(self, text):
            return np.log(np.array([1e-6, 0.9, 0.1 - 1e-6], np.float32))

    table = Endless([0, 0], 3)
    found = search(table, [1, 1], end_id=END, tokens_max=[2, 4], plan=BeamPlan(beams=1))

    assert [(h.tokens, h.finished) for (h,) in found] == [((1,) * 2, False), ((1,) * 4, False)]


def test_what_nobody_wants_any_more_is_not_computed():
    asked = []

    def wanted(sentence):
        asked.append(sentence)
        return sentence != 1 or asked.count(1) < 3

    table, found = translate([3, 4, 5], 30, 12, BeamPlan(beams=2), wanted=wanted)

    assert found[1] == []
    assert asked.count(1) == 3
    assert [h.tokens for h in found[0]] == [
        h.tokens for h in translate([3], 30, 12, BeamPlan(beams=2))[1][0]
    ]
    assert table.rows[:2] == [3, 6]
    assert max(table.rows[2:]) == 4


def test_a_search_that_nobody_wants_ends_without_a_step():
    table, found = translate([1, 2], 5, 5, BeamPlan(), wanted=lambda sentence: False)

    assert (table.rows, found) == ([], [[], []])


def test_a_long_penalty_prefers_longer_translations():
    class Either(Table):
        """Ends now, or after three more sure tokens: less likely, but less so a token."""

        def log_probabilities(self, text):
            tokens = text[1:]
            if not tokens:
                return np.log(np.array([0.6, 0.4], np.float32))
            ends = len(tokens) == 4
            return np.log(np.array([1 - 1e-6, 1e-6] if ends else [1e-6, 1 - 1e-6], np.float32))

    def best(length_penalty):
        plan = BeamPlan(beams=2, alternatives=1, length_penalty=length_penalty)
        return search(Either([0], 2), [1], end_id=END, tokens_max=[8], plan=plan)[0][0].tokens

    assert best(0.0) == ()
    assert best(1.0) == (1, 1, 1, 1)


def test_no_sentences_are_no_translations():
    assert search(Table([], 3), [], end_id=END, tokens_max=[], plan=BeamPlan()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beams": 0}, "beams is 0"),
        ({"beams": 2, "alternatives": 3}, "alternatives 3"),
        ({"alternatives": 0}, "alternatives 0"),
        ({"length_penalty": -0.1}, "length_penalty -0.1"),
        ({"length_penalty": math.nan}, "length_penalty nan"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        BeamPlan(**changes)
