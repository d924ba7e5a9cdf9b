from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.training import translation_batches
from encoder.training.recipe import RecipeInvalid, Translation, TranslationStage
from encoder.training.translation_batches import (
    IGNORED,
    Marks,
    Plan,
    Sentences,
    cut_to_size,
    place_of,
    to_ids,
)
from encoder.training.translation_pairs import PairFile

RULES = Translation(
    step_tokens=300,
    stages=(
        TranslationStage(steps=30),
        TranslationStage(steps=30, weights={"talk": 0.0, "captions": 3.0}),
    ),
)


def pair_file(name, group, languages, size, weight=1.0):
    random = np.random.default_rng(len(name))
    return PairFile(
        name=name,
        group=group,
        languages=languages,
        weight=weight,
        firsts=[f"{name} {languages[0]} {i}" for i in range(size)],
        seconds=[f"{name} {languages[1]} {i}" for i in range(size)],
        lengths=random.integers(3, 30, (size, 2)).astype(np.int32),
        held_out=[],
    )


FILES = [
    pair_file("a", "captions", ("en", "de"), 40),
    pair_file("bb", "captions", ("en", "fr"), 20),
    pair_file("ccc", "talk", ("de", "fr"), 30, weight=2.0),
]


@pytest.fixture(autouse=True)
def small_pools(monkeypatch):
    monkeypatch.setattr(translation_batches, "POOL_PAIRS", 60)


@settings(deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=80),
    tokens_max=st.integers(1, 200),
)
def test_batches_lose_nothing_and_fit_the_limit_when_padded(lengths, tokens_max):
    sizes = np.array(lengths)
    items = np.arange(2 * len(lengths)).reshape(-1, 2)

    batches = cut_to_size(items, sizes, tokens_max, np.random.default_rng(0))

    assert sorted(row for batch in batches for row in batch[:, 0].tolist()) == items[:, 0].tolist()
    for batch in batches:
        padded = len(batch) * int(sizes[batch[:, 0] // 2].max(axis=0).sum())
        assert padded <= tokens_max or len(batch) == 1


def sentences_from(plan, numbers):
    return [plan.at(place_of(RULES, number)) for number in numbers]


def test_a_step_sees_the_same_pairs_whatever_was_asked_before():
    straight = sentences_from(Plan(FILES, RULES, seed=3), range(60))

    late = Plan(FILES, RULES, seed=3)
    for number in (59, 12, 13, 31, 2, 30):
        assert late.at(place_of(RULES, number)) == straight[number]
    assert sentences_from(Plan(FILES, RULES, seed=4), range(5)) != straight[:5]


def test_every_pair_is_read_in_both_directions_before_any_is_read_again():
    plan = Plan(FILES, RULES, seed=3)
    seen = Counter()
    for batch in islice(plan._all(0), 200):
        seen.update(map(tuple, batch.tolist()))

    for index, file in enumerate(FILES):
        counts = [seen[index, item] for item in range(2 * len(file))]
        assert max(counts) - min(counts) <= 2  # the pool that is being read is not read whole
        assert min(counts) >= 1


def test_files_are_read_by_their_size_weight_and_group():
    plan = Plan(FILES, RULES, seed=3)

    np.testing.assert_allclose(plan.shares(0), np.array([40, 20, 60]) / 120)
    np.testing.assert_allclose(plan.shares(1), np.array([40, 20, 0]) / 60)
    nothing = TranslationStage(steps=1, weights={"captions": 0.0, "talk": 0.0})
    plan = Plan(FILES, RULES.model_copy(update={"stages": (nothing,)}), 3)
    with pytest.raises(RecipeInvalid, match="stage 1 gives weight 0 to every file"):
        plan.shares(0)


def test_sentences_keep_their_languages():
    for sentences in sentences_from(Plan(FILES, RULES, seed=3), range(40)):
        rows = zip(sentences.sources, sentences.targets, sentences.languages, strict=True)
        for source, target, language in rows:
            name, source_language, number = source.split(" ")
            assert target.split(" ") == [name, language, number]
            assert language != source_language


def test_ids_begin_with_the_language_and_end_with_the_end():
    def encode(text, draws):
        return [int(word) for word in text.split(" ")]

    marks = Marks(begin=2, end=3, pad=0, languages={"de": 6, "en": 5})
    batch = to_ids(Sentences(["10 11", "12"], ["20", "21 22"], ["de", "en"]), encode, marks, None)

    assert batch.source.tolist() == [[2, 10, 11, 3], [2, 12, 3, 0]]
    assert batch.mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert batch.given.tolist() == [[6, 20, 0], [5, 21, 22]]
    assert batch.wanted.tolist() == [[20, 3, IGNORED], [21, 22, 3]]
    assert batch.tokens == 12


def test_a_step_beyond_the_run_has_no_place():
    assert place_of(RULES, 30).stage_index == 1
    assert place_of(RULES, 30).in_stage == 0
    with pytest.raises(IndexError, match="step 60 of a run of 60"):
        place_of(RULES, 60)
