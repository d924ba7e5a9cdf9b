import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.training.corpus import CorpusInvalid
from encoder.training.recipe import Recipe, Sentences, Source
from encoder.training.sentence_pairs import Kind, PairOrder, load_kinds, one_sentence, quota

RULES = Sentences(step_pairs=16)


@pytest.fixture
def recipe(tiny_recipe):
    sources = {
        "sources": (Source(path="a.txt", language="en"),),
        "pairs": (Source(path="b.tsv", language="de-en"),),
        "sentences": RULES,
    }
    return tiny_recipe.model_copy(update=sources)


@pytest.fixture
def kinds(recipe, tiny_settings):
    return load_kinds(tiny_settings.text, recipe, tiny_settings.cache)


def test_translations_come_with_english_first_and_lines_with_a_lower_cased_copy(
    kinds, tiny_settings
):
    translations, lines = kinds

    raw = (tiny_settings.text / "b.tsv").read_text().split("\n")
    turned = {tuple(reversed(line.split("\t"))) for line in raw}
    assert set(translations.pairs) <= turned
    assert translations.same
    assert lines.same
    assert all(second == second.lower() for _, second in lines.pairs)
    assert len(translations.pairs) + len(translations.held_out) == 200
    assert len(lines.pairs) + len(lines.held_out) == 600


def test_questions_and_answers_are_pairs_whatever_their_lengths(recipe, tiny_settings, tmp_path):
    (tmp_path / "a.txt").write_text((tiny_settings.text / "a.txt").read_text())
    (tmp_path / "b.tsv").write_text((tiny_settings.text / "b.tsv").read_text())
    rows = [f"What is {i}?\t" + f"It is the number {i}. " * 20 for i in range(150)]
    (tmp_path / "qa.tsv").write_text("\n".join(rows))
    rules = RULES.model_copy(update={"pairs": (Source(path="qa.tsv", language="en-en"),)})
    recipe = recipe.model_copy(update={"sentences": rules})

    kinds = {kind.name: kind for kind in load_kinds(tmp_path, recipe, tmp_path / "cache")}

    pairs = kinds["pairs"]
    assert len(pairs.pairs) + len(pairs.held_out) == 150
    assert not pairs.same


def test_text_without_english_is_refused(recipe, tiny_settings, tmp_path):
    german = recipe.model_copy(
        update={"sources": (Source(path="a.txt", language="de"),), "pairs": ()}
    )

    with pytest.raises(CorpusInvalid, match="no 16 English lines"):
        load_kinds(tiny_settings.text, german, tmp_path)


def test_what_the_teacher_must_read_is_english():
    kinds = [
        Kind("t", [("one", "eins")], [("two", "zwei")], same=True, share=1.0),
        Kind("p", [("Who?", "She.")], [], same=False, share=1.0),
    ]

    assert [list(kind.taught()) for kind in kinds] == [["one", "two"], ["Who?", "She."]]


def test_one_sentence_of_a_paragraph_is_taken_or_all_of_it():
    paragraph = 'She left. "He stayed!" And, at 5.30 p.m., it rained. 12 people saw it.'
    sentences = ["She left.", '"He stayed!', "And, at 5.30 p.m., it rained.", "12 people saw it."]

    assert one_sentence(paragraph, 0.0) == paragraph
    assert one_sentence(paragraph, 1.0) in sentences


@given(
    files=st.lists(st.tuples(st.integers(0, 50), st.floats(0.1, 5)), min_size=1, max_size=8),
    total=st.integers(0, 200),
)
def test_files_give_no_more_than_they_have_and_together_what_is_asked(files, total):
    sizes, weights = zip(*files, strict=True)

    quotas = quota(sizes, weights, total)

    assert all(0 <= given <= size for given, size in zip(quotas, sizes, strict=True))
    missed = min(total, sum(sizes)) - sum(quotas)
    assert 0 <= missed <= len(files)  # rounded down for each file


def kinds_of(shares, pairs=50, repeats=()):
    names = [(f"{i}", f"{i}") for i in range(pairs)]
    return [Kind(name, names, [], True, share, repeats) for name, share in shares.items()]


def test_the_pairs_of_a_step_follow_from_its_number_and_kinds_keep_their_shares():
    kinds = kinds_of({"t": 0.7, "l": 0.3})
    order = PairOrder(kinds, [8, 5], seed=1)
    steps = [order.read(step) for step in range(200)]

    again = PairOrder(kinds, [8, 5], seed=1).read(123)
    assert again.kind == steps[123].kind
    assert list(again.pairs) == list(steps[123].pairs)
    assert len(set(again.pairs)) == len(again.pairs) == [8, 5][again.kind]
    assert abs(sum(step.kind == 0 for step in steps) / 200 - 0.7) < 0.02


def test_every_pair_is_read_as_often_as_it_repeats_before_a_new_round():
    kinds = kinds_of({"t": 1.0}, pairs=12, repeats=[1] * 8 + [3] * 4)
    order = PairOrder(kinds, [5], seed=1)

    counts = [0] * 12
    for step in range(4):  # 20 pairs are one round
        for pair in order.read(step).pairs:
            counts[pair] += 1

    assert counts == [1] * 8 + [3] * 4


def test_the_sentence_stage_is_no_part_of_the_pretrainings_hash():
    assert Recipe(sentences=RULES).sha256 == Recipe().sha256
