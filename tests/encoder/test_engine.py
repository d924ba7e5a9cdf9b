"""Texts to vectors on all cores of one process."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.engine import Engine, batches
from encoder.runtime import Encoder, normalize
from encoder.tokenizer import Truncation

TEXTS = ["An apple fell.", "The bank of the river was green and wide", "", "Apple"] * 8


@pytest.fixture(scope="module")
def encoder(model_directory):
    return Encoder.load(model_directory, threads=2)


@pytest.fixture
def engine(encoder):
    with Engine(encoder, batch_tokens_max=32) as engine:
        yield engine


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 1000))
def test_batches_hold_every_text_once_and_fit_the_limit(lengths, tokens_max):
    made = list(batches(lengths, tokens_max))

    assert sorted(index for batch in made for index in batch) == list(range(len(lengths)))
    for batch in made:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= tokens_max


def test_vectors_are_those_of_each_text_alone_in_the_order_of_the_texts(engine, encoder):
    tokenized = encoder.tokenizer.encode(
        TEXTS, tokens_max=encoder.tokens_max, truncation=Truncation.HEAD
    )
    alone = np.concatenate([encoder.pooled(text.windows[:1]) for text in tokenized])

    found = engine.embed(TEXTS)

    np.testing.assert_array_equal(found, normalize(alone))


def test_no_texts_are_no_vectors(engine, encoder):
    assert engine.embed([]).shape == (0, encoder.width)


def test_every_text_is_counted_once(engine):
    done = []

    engine.embed(TEXTS, progress=done.append)

    assert len(done) > 1
    assert sum(done) == len(TEXTS)


def test_a_failure_in_a_thread_is_the_callers(engine, monkeypatch):
    def fail(windows):
        raise ZeroDivisionError

    monkeypatch.setattr(engine._narrow, "pooled", fail)

    with pytest.raises(ZeroDivisionError):
        engine.embed(TEXTS)
