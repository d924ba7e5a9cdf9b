"""Alignment heads chosen and scored on pairs that people have aligned."""

import shutil

import pytest

from encoder.evaluation.alignment import (
    AlignedPair,
    choose_alignment,
    read_pairs,
    score_alignment,
)
from encoder.translation_config import FOLDER, AlignmentHeads, read_translation_config

LINES = [
    "le chat voit la maison\tthe cat sees the house\t0-0 1-1 2-2 3-3 4-4",
    "la maison voit le chien\tthe house sees the dog\t0-0 1-1 2-2 3-3 4-4",
    "Je suis étudiant\tI am a student\t0-0 1-1 2?2 2-3",
]


def test_pairs_are_read_from_lines(tmp_path):
    file = tmp_path / "pairs.tsv"
    file.write_text("\n".join(LINES), "utf-8")

    pairs = read_pairs(file)

    assert pairs[2] == AlignedPair(
        "Je suis étudiant",
        "I am a student",
        frozenset({(0, 0), (1, 1), (2, 3)}),
        frozenset({(0, 0), (1, 1), (2, 2), (2, 3)}),
    )


@pytest.mark.parametrize("line", ["a\tb", "a\tb\t0:0", "a\tb\t0-x"])
def test_a_line_that_is_no_pair_is_named(tmp_path, line):
    file = tmp_path / "pairs.tsv"
    file.write_text(f"{LINES[0]}\n{line}\n", "utf-8")

    with pytest.raises(ValueError, match="line 2"):
        read_pairs(file)


def test_the_chosen_heads_align_no_worse_than_all_together(tmp_path, translating_directory):
    directory = tmp_path / "model"
    shutil.copytree(translating_directory, directory)
    file = tmp_path / "pairs.tsv"
    file.write_text("\n".join(LINES), "utf-8")
    pairs = read_pairs(file)
    before = score_alignment(directory, pairs, "en")

    chosen = choose_alignment(directory, pairs, "en")

    config = read_translation_config(directory / FOLDER)
    assert before.heads == AlignmentHeads()
    assert config.alignment == chosen.heads
    assert 1 <= len(chosen.heads.heads) <= 4
    assert chosen.error_rate <= before.error_rate
    assert score_alignment(directory, pairs, "en") == chosen
