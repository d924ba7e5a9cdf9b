from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.config import EncoderConfig
from encoder.training import translation_batches
from encoder.training.recipe import RecipeInvalid, Translation, TranslationStage
from encoder.training.translation_batches import (
    IGNORED,
    IdBatch,
    IdPairs,
    Marks,
    Plan,
    Sentences,
    TranslationBatches,
    cut_evenly,
    cut_to_size,
    parts_of,
    place_of,
    readable,
    to_ids,
)
from encoder.training.translation_pairs import PairFile
from encoder.translation_config import TranslationConfig

POOL_STEPS = 6
RULES = Translation(
    step_tokens=300,
    stages=(
        TranslationStage(steps=30),
        TranslationStage(steps=31, weights={"talk": 0.0, "captions": 3.0}),
    ),
)
MARKS = Marks(begin=2, end=3, pad=0, languages={"de": 6, "en": 5, "fr": 7})
LENGTHS = st.tuples(st.integers(1, 40), st.integers(1, 40))


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
    monkeypatch.setattr(translation_batches, "POOL_STEPS", POOL_STEPS)


def encode(text, draws):
    """An id a character, and now and then one more, as where merges are left out."""
    return [10 + ord(character) % 50 for character in text] + [9] * int(draws.integers(12))


def batches_of(seed, rules=RULES):
    return TranslationBatches(Plan(FILES, rules, seed), rules, encode, MARKS, seed)


def arrays(batch):
    return [part.tolist() for part in (batch.source, batch.mask, batch.given, batch.wanted)]


def padded_size(lengths, rows):
    return len(rows) * int(lengths[rows].max(axis=0).sum())


@settings(deadline=None)
@given(lengths=st.lists(LENGTHS, min_size=1, max_size=80), tokens_max=st.integers(1, 200))
def test_batches_lose_nothing_and_fit_the_limit_when_padded(lengths, tokens_max):
    sizes = np.array(lengths)
    items = np.arange(2 * len(lengths)).reshape(-1, 2)

    batches = cut_to_size(items, sizes, tokens_max, np.random.default_rng(0))

    assert sorted(row for batch in batches for row in batch[:, 0].tolist()) == items[:, 0].tolist()
    for batch in batches:
        assert padded_size(sizes, batch[:, 0] // 2) <= tokens_max or len(batch) == 1


@settings(deadline=None)
@given(lengths=st.lists(LENGTHS, min_size=1, max_size=8), data=st.data())
def test_batches_of_a_given_number_are_as_even_as_can_be(lengths, data):
    sizes = np.array(lengths)
    count = data.draw(st.integers(1, len(lengths)))

    batches = cut_evenly(sizes, count, np.random.default_rng(0))

    assert len(batches) == count
    assert min(map(len, batches)) >= 1
    assert sorted(row for batch in batches for row in batch.tolist()) == [*range(len(lengths))]
    order = sorted(range(len(lengths)), key=lambda row: lengths[row][::-1])
    every = [
        max(padded_size(sizes, order[a:b]) for a, b in pairwise([0, *cuts, len(order)]))
        for cuts in combinations(range(1, len(order)), count - 1)
    ]
    assert max(padded_size(sizes, batch) for batch in batches) == min(every)


def test_a_step_sees_the_same_ids_whatever_was_asked_before():
    batches = batches_of(3)
    straight = [arrays(batches.at(number)) for number in range(61)]

    late = batches_of(3)
    for number in (60, 12, 13, 31, 2, 30, 5, 6):
        assert arrays(late.at(number)) == straight[number]
    other = batches_of(4)
    assert [arrays(other.at(number)) for number in range(5)] != straight[:5]


def test_every_pair_is_read_in_both_directions_before_any_is_read_again():
    plan = Plan(FILES, RULES, seed=3)
    seen = Counter()
    for number in range(40):
        pool = plan.pool(0, number)
        seen.update(zip(pool.sources, pool.targets, strict=True))

    for file in FILES:
        pairs = [*zip(file.firsts, file.seconds, strict=True)]
        counts = [seen[pair] for pair in pairs] + [seen[b, a] for a, b in pairs]
        assert max(counts) - min(counts) <= 1
        assert min(counts) >= 1


def test_a_pool_of_small_steps_has_a_pair_for_each():
    rules = RULES.model_copy(update={"step_tokens": 1})

    batches = batches_of(3, rules)

    assert min(len(batches.at(number).source) for number in range(61)) == 1


def test_a_batch_has_pairs_of_like_lengths_as_they_are_cut_this_time():
    batches = batches_of(3)
    made = [batches.at(number) for number in range(POOL_STEPS)]

    targets = [(batch.wanted != IGNORED).sum(axis=1) for batch in made]
    targets.sort(key=lambda lengths: (lengths.max(), lengths.min()))
    for shorter, longer in pairwise(targets):
        assert shorter.max() <= longer.min()


def test_files_are_read_by_their_size_weight_and_group():
    plan = Plan(FILES, RULES, seed=3)

    np.testing.assert_allclose(plan.shares(0), np.array([40, 20, 60]) / 120)
    np.testing.assert_allclose(plan.shares(1), np.array([40, 20, 0]) / 60)
    assert {text.split(" ")[0] for text in plan.pool(1, 2).sources} == {"a", "bb"}
    nothing = TranslationStage(steps=1, weights={"captions": 0.0, "talk": 0.0})
    plan = Plan(FILES, RULES.model_copy(update={"stages": (nothing,)}), 3)
    with pytest.raises(RecipeInvalid, match="stage 1 gives weight 0 to every file"):
        plan.shares(0)


def test_sentences_keep_their_languages():
    plan = Plan(FILES, RULES, seed=3)
    for pool in (plan.pool(0, number) for number in range(8)):
        rows = zip(pool.sources, pool.targets, pool.languages, strict=True)
        for source, target, language in rows:
            name, source_language, number = source.split(" ")
            assert target.split(" ") == [name, language, number]
            assert language != source_language


def test_ids_begin_with_the_language_and_end_with_the_end():
    def numbers(text, draws):
        return [int(word) for word in text.split(" ")]

    batch = to_ids(Sentences(["10 11", "12"], ["20", "21 22"], ["de", "en"]), numbers, MARKS, None)

    assert batch.source.tolist() == [[2, 10, 11, 3], [2, 12, 3, 0]]
    assert batch.mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert batch.given.tolist() == [[6, 20, 0], [5, 21, 22]]
    assert batch.wanted.tolist() == [[20, 3, IGNORED], [21, 22, 3]]
    assert batch.tokens == 12


@given(rows=st.integers(1, 40), width=st.integers(1, 30), tokens_max=st.integers(1, 300))
def test_parts_of_a_batch_lose_no_row_fit_the_limit_and_are_even(rows, width, tokens_max):
    source = np.arange(rows)[:, None].repeat(width, axis=1)
    batch = IdBatch(source, source > 0, source, source)

    parts = [*parts_of(batch, tokens_max)]

    assert np.concatenate([part.source for part in parts]).tolist() == source.tolist()
    sizes = [len(part.source) for part in parts]
    assert max(sizes) * 2 * width <= tokens_max or max(sizes) == 1
    assert len(parts) == -(-rows // max(sizes))
    assert max(sizes) - sizes[-1] < len(parts)


def test_pairs_that_the_model_cannot_read_are_left_out():
    encoder, decoder = (
        EncoderConfig(
            vocab_size=50, width=32, layers=1, heads=4, inner_width=32, tokens_max=tokens_max
        )
        for tokens_max in (5, 4)
    )
    config = TranslationConfig(
        encoder=encoder, decoder=decoder, begin_ids={"de": 6}, end_id=3, pairs=(("en", "de"),)
    )
    sizes = [(5, 4), (6, 4), (5, 5), (2, 1)]
    pairs = IdPairs(
        [[number] * source for number, (source, _) in enumerate(sizes)],
        [[number] * target for number, (_, target) in enumerate(sizes)],
        [[number] * target for number, (_, target) in enumerate(sizes)],
    )

    kept = readable(pairs, config)

    assert [ids[0] for ids in kept.sources] == [0, 3]
    assert kept.lengths.tolist() == [[5, 4], [2, 1]]


def test_a_step_beyond_the_run_has_no_place():
    assert place_of(RULES, 30).stage_index == 1
    assert place_of(RULES, 30).in_stage == 0
    with pytest.raises(IndexError, match="step 61 of a run of 61"):
        place_of(RULES, 61)
