"""The door to the model, without a server around it."""

import numpy as np
import pytest

from encoder.tokenizer import RUN_CODE_POINTS_MAX, Truncation
from server.embedder import Embedder, Lane
from server.errors import LimitExceeded
from server.highlight import semantic_highlights
from server.settings import Settings

SENTENCE = "the bank of the river was green and wide and long and quiet in the morning sun"


class Counting:
    """A tokenizer of the library that notes how many code points it is given at once."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.given = []

    def encode_batch(self, texts, **how):
        self.given.append(sum(map(len, texts)))
        return self._tokenizer.encode_batch(texts, **how)


@pytest.fixture
def counting(encoder, monkeypatch):
    counting = Counting(encoder.tokenizer._tokenizer)
    monkeypatch.setattr(encoder.tokenizer, "_tokenizer", counting)
    return counting


@pytest.fixture
async def embedder_with(encoder):
    made = []

    def make(**limits):
        made.append(Embedder(encoder, Settings(**limits)))
        return made[-1]

    yield make
    for embedder in made:
        await embedder.close()


async def test_texts_are_tokenised_in_small_runs_and_no_further_than_a_call_may(
    embedder_with, counting
):
    embedder = embedder_with(call_tokens_max=1000)

    with pytest.raises(LimitExceeded) as refusal:
        await embedder.tokenize([SENTENCE * 100] * 500, Truncation.WINDOWS)

    assert refusal.value.given > 1000
    assert len(counting.given) == 1
    assert counting.given[0] <= RUN_CODE_POINTS_MAX


async def test_runs_give_what_all_at_once_gives(embedder_with, counting):
    texts = [SENTENCE * count for count in range(80)]

    tokenized = await embedder_with().tokenize(texts, Truncation.HEAD)

    assert len(counting.given) > 3
    assert max(counting.given) <= RUN_CODE_POINTS_MAX
    for text, seen in zip(texts, tokenized.texts, strict=True):
        (alone,) = (await embedder_with().tokenize([text], Truncation.HEAD)).texts
        np.testing.assert_array_equal(seen.windows[0].ids, alone.windows[0].ids)
        assert seen.tokens_total == alone.tokens_total


async def test_highlights_of_more_than_a_call_may_ask_for_are_made_in_several(
    embedder_with, encoder
):
    texts = [SENTENCE, "An apple fell.", SENTENCE.upper(), "The river bank"] * 3
    query = np.ones(encoder.width, np.float32)

    whole, _ = await semantic_highlights(embedder_with(), texts, query, Lane.INTERACTIVE)
    small = embedder_with(call_tokens_max=100)
    parts, _ = await semantic_highlights(small, texts, query, Lane.INTERACTIVE)

    assert [[h.span for h in found] for found in parts] == [
        [h.span for h in found] for found in whole
    ]
    assert all(parts)


async def test_a_text_that_no_call_may_highlight_is_refused_by_the_option(embedder_with, encoder):
    query = np.ones(encoder.width, np.float32)
    tiny = embedder_with(call_tokens_max=8)

    with pytest.raises(LimitExceeded) as refusal:
        await semantic_highlights(tiny, [SENTENCE], query, Lane.INTERACTIVE)

    assert refusal.value.field == "options.highlight"
