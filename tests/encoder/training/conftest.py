"""A corpus, a recipe and a prepared text so small that a whole run takes two seconds."""

import random

import pytest
import torch

from encoder.training.recipe import Masking, Recipe, Shape, Stage, Vocabulary
from encoder.training.run import Settings, prepare

SUBJECTS = ("the cat", "a dog", "my sister", "one bird", "der Hund", "die Katze", "le chat")
VERBS = ("sees", "likes", "follows", "hears", "sieht", "mag", "voit", "aime")
OBJECTS = ("a red apple", "the company", "two trees", "einen Apfel", "une pomme", "das Haus")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """A matrix of 32 x 32 is not worth a second thread, least of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sentences(count, seed=0):
    rng = random.Random(seed)
    return [
        f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)}, {rng.randint(0, 99)}."
        for _ in range(count)
    ]


@pytest.fixture(scope="session")
def tiny_recipe():
    return Recipe(
        name="tiny",
        seed=7,
        model=Shape(width=32, layers=2, heads=2, inner_width=32, tokens_max=32),
        vocabulary=Vocabulary(size=512),
        masking=Masking(rate_first=0.3, rate_last=0.15),
        micro_tokens=128,
        stages=(
            Stage(row_tokens=16, step_rows=16, tokens=16 * 16 * 10),
            Stage(row_tokens=32, step_rows=8, tokens=32 * 8 * 10),
        ),
    )


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "a.txt").write_text("\n".join(sentences(600)), encoding="utf-8")
    pairs = zip(sentences(200, 1), sentences(200, 2), strict=True)
    (folder / "b.tsv").write_text("\n".join("\t".join(pair) for pair in pairs), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_settings(tiny_text, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return Settings(text=tiny_text, out=out / "tiny", cache=out / "cache")


@pytest.fixture(scope="session")
def tiny_data(tiny_recipe, tiny_settings):
    """The recipe as it is followed, and the tokenised text."""
    return prepare(tiny_recipe, tiny_settings)
