import numpy as np
import pytest

from encoder.evaluation.vectors import embed, embed_words, window_around
from encoder.tokenizer import Tokenizer, Truncation
from encoder.words import span_at


def test_embedding_keeps_the_order_and_computes_a_repeated_text_once(scripted, tokenizer_file):
    model = scripted(Tokenizer(tokenizer_file))

    vectors = embed(model, ["apple pie", "she ate an apple", "apple pie"], label="test")

    assert sum(model.batches) == 2
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert not np.array_equal(vectors[0], vectors[1])


def test_a_prompt_is_written_before_the_text(scripted, tokenizer_file):
    model = scripted(Tokenizer(tokenizer_file))

    with_prompt = embed(model, ["apple pie"], label="test", prompt="the ")

    np.testing.assert_array_equal(with_prompt, embed(model, ["the apple pie"], label="test"))


def test_a_words_vectors_come_from_its_own_tokens(scripted, tokenizer_file):
    tokenizer = Tokenizer(tokenizer_file)
    ids = dict(
        zip(
            ["she", "ate", "an", "apple"],
            tokenizer.encode(["she ate an apple"], tokens_max=16, truncation=Truncation.ERROR)[0]
            .windows[0]
            .ids[1:-1],
            strict=True,
        )
    )
    seen = []

    vectors = embed_words(
        scripted(tokenizer), ["she ate an apple", "apple pie"], [(11, 16), (0, 5)], seen.append
    )

    assert sum(seen) == 2
    assert vectors.layers.shape == (3, 2, 3)
    np.testing.assert_array_equal(vectors.layers[:, 0, 0], [ids["apple"]] * 3)
    np.testing.assert_array_equal(vectors.layers[:, 0, 1], [0, 1, 2])  # each layer its own state
    np.testing.assert_array_equal(vectors.alone[:, 0], [ids["apple"]] * 2)
    assert vectors.average[0, 0] == pytest.approx(np.mean(list(ids.values())))  # no [CLS], [SEP]


def test_of_a_long_sentence_the_window_with_most_context_is_used(tokenizer_file):
    text = "the tree " * 12 + "apple" + " the tree" * 12
    encoded = Tokenizer(tokenizer_file).encode(
        [text], tokens_max=20, truncation=Truncation.WINDOWS
    )[0]
    span = span_at(text, text.index("apple"), text.index("apple") + 5)

    window = window_around(encoded, span)

    (place,) = np.flatnonzero((window.starts < span.end) & (window.ends > span.start))
    rooms = []
    for other in encoded.windows:
        inside = np.flatnonzero((other.starts < span.end) & (other.ends > span.start))
        rooms += [min(inside[0], len(other.ids) - 1 - inside[0])] if len(inside) else []
    assert min(place, len(window.ids) - 1 - place) == max(rooms)
