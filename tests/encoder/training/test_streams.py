from pathlib import Path

import pytest

from encoder.training.cleaning import clean
from encoder.training.corpus import find_sources
from encoder.training.recipe import recipe_from
from encoder.training.streams import vocabulary_lines


@pytest.fixture
def sampled(tmp_path: Path):
    """How often a word stands in the tokenizer's sample of four files, by the word."""
    for name, line in {"a": "alpha", "b": "beta", "c": "gamma"}.items():
        rows = (f"{line} number {index} of a long list of lines.\n" for index in range(2000))
        (tmp_path / f"{name}.txt").write_text("".join(rows))
    pairs = (f"{index} apples lie here\t{index} pommes sont ici\n" for index in range(2000))
    (tmp_path / "d.tsv").write_text("".join(pairs))

    def count(**vocabulary) -> dict[str, int]:
        table = {
            "vocabulary": {"size": 512, "sample_bytes": 60_000, **vocabulary},
            "text": {"lower_cased_share": 0.0},
            "sources": [
                {"path": "a.txt", "language": "en", "weight": 3.0},
                {"path": "b.txt", "language": "en"},
                {"path": "c.txt", "language": "de"},
            ],
            "pairs": [{"path": "d.tsv", "language": "en-fr"}],
        }
        recipe = find_sources(tmp_path, recipe_from(table, name="test"))
        folder, files = clean(tmp_path, recipe, tmp_path / "cache")
        lines = list(vocabulary_lines(folder, files, recipe))
        words = ("alpha", "beta", "gamma", "apples", "pommes")
        return {word: sum(word in line for line in lines) for word in words}

    return count


def test_a_source_gives_the_tokenizer_as_much_as_its_weight_and_its_language_say(sampled):
    counts = sampled(languages={"en": 0.5, "de": 0.5}, pair_share=0.0)

    assert counts["alpha"] == pytest.approx(3 * counts["beta"], rel=0.1)
    assert counts["gamma"] == pytest.approx(counts["alpha"] + counts["beta"], rel=0.1)
    assert counts["apples"] == 0


def test_translations_give_the_tokenizer_both_their_sides(sampled):
    counts = sampled(pair_share=0.5)

    assert counts["apples"] == counts["pommes"]
    text = counts["alpha"] + counts["beta"] + counts["gamma"]
    assert counts["apples"] == pytest.approx(text, rel=0.4)  # shorter lines, two to a pair
