"""Alignment heads chosen and scored on pairs that people have aligned."""

import shutil
from collections import Counter
from dataclasses import replace

import pytest

from encoder.alignment import error_rate
from encoder.config import UnsupportedModel
from encoder.evaluation.alignment import (
    SAMPLE,
    AlignedPair,
    Aligner,
    alignment,
    choose_alignment,
    halves,
    read_pairs,
)
from encoder.evaluation.command import Align
from encoder.translation_config import (
    FOLDER,
    AlignmentHeads,
    read_translation_config,
    write_translation_config,
)
from encoder.words import words

LINES = [
    "# A remark.",
    "fr-en\tle chat voit la maison\tthe cat sees the house\t0-0 1-1 2-2 3-3 4-4",
    "fr-en\tla maison voit le chien\tthe house sees the dog\t0-0 1-1 2-2 3-3 4-4",
    "fr-en\tJe suis étudiant\tI am a student\t0-0 1-1 2?2 2-3",
]


@pytest.fixture
def directory(tmp_path, translating_directory):
    return shutil.copytree(translating_directory, tmp_path / "model")


@pytest.fixture
def pairs(tmp_path):
    file = tmp_path / "pairs.tsv"
    file.write_text("\n".join(LINES), "utf-8")
    return read_pairs(file)


def test_pairs_are_read_from_lines(pairs):
    assert pairs[2] == AlignedPair(
        ("fr", "en"),
        "Je suis étudiant",
        "I am a student",
        frozenset({(0, 0), (1, 1), (2, 3)}),
        frozenset({(0, 0), (1, 1), (2, 2), (2, 3)}),
    )


@pytest.mark.parametrize(
    "line", ["fr-en\ta\tb", "fr-en\ta\tb\t0:0", "fr-en\ta\tb\t0-x", "a\tb\t0-0", "fr\ta\tb\t0-0"]
)
def test_a_line_that_is_no_pair_is_named(tmp_path, line):
    file = tmp_path / "pairs.tsv"
    file.write_text(f"{LINES[0]}\n{line}\n", "utf-8")

    with pytest.raises(ValueError, match="line 2"):
        read_pairs(file)


def test_every_link_of_the_sample_is_between_words_that_are_there():
    pairs = read_pairs(SAMPLE)

    assert len(pairs) == len(set(pairs)) == 100
    assert Counter(pair.languages for pair in pairs) == dict.fromkeys(
        [("en", "de"), ("de", "en"), ("en", "fr"), ("fr", "en")], 25
    )
    for pair in pairs:
        sources, targets = len(words(pair.source)), len(words(pair.target))
        assert {source for source, _ in pair.possible} == set(range(sources)), pair
        assert {target for _, target in pair.possible} == set(range(targets)), pair


def test_the_seed_is_scored_and_no_pair_both_chooses_and_scores():
    choosing, scoring = halves(read_pairs(SAMPLE))

    assert len(choosing) == len(scoring) == 50
    assert not set(choosing) & set(scoring)
    (seed,) = [pair for pair in scoring if pair.source == "Je suis étudiant"]
    assert (2, 3) in seed.sure  # student looks at étudiant


def test_the_chosen_heads_align_no_worse_than_all_together(directory, pairs):
    before = Aligner(directory)
    assert before.heads == AlignmentHeads()
    of_all = error_rate(before.examples(pairs), -1)

    chosen = choose_alignment(directory, pairs)

    after = Aligner(directory)
    assert after.heads == chosen.heads
    assert 1 <= len(chosen.heads.heads) <= 4
    assert chosen.error_rate <= of_all
    assert chosen.pairs == 3
    rate = error_rate(after.examples(pairs), chosen.heads.layer, chosen.heads.heads)
    assert rate == chosen.error_rate


def test_the_task_scores_the_models_heads_by_direction_and_says_which_they_are(directory):
    result = alignment(directory, limit=None)

    scores = {score.key: score.value for score in result.scores}
    directions = {f"alignment.{one}" for one in ("en-de", "de-en", "en-fr", "fr-en")}
    assert set(scores) == {"alignment.all", "alignment.best_heads", *directions}
    assert all(0 <= value <= 100 for value in scores.values())
    assert "50 hand-made pairs" in result.notes[0]
    assert "The model's heads are all of the last layer" in result.notes[0]


def test_once_chosen_the_best_heads_are_the_models(directory, capsys):
    Align(model=directory).cli_cmd()

    assert "next: polyseme-model export" in capsys.readouterr().out
    scores = {score.key: score.value for score in alignment(directory, limit=None).scores}
    assert scores["alignment.all"] == scores["alignment.best_heads"]


def test_a_model_of_other_languages_is_not_scored_and_refused_where_it_should_choose(
    directory, pairs
):
    folder = directory / FOLDER
    config = read_translation_config(folder)
    write_translation_config(folder, replace(config, pairs=(("de", "fr"),)))

    assert alignment(directory, limit=None).scores == []
    with pytest.raises(UnsupportedModel, match="fr-en"):
        choose_alignment(directory, pairs)
    with pytest.raises(SystemExit, match=r"polyseme-model: .*none of the directions"):
        Align(model=directory).cli_cmd()
