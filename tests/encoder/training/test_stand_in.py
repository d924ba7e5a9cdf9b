"""Training where the text as it was given is not: clean text, its hashes and a tokenizer do."""

import dataclasses
import shutil

import numpy as np
import pytest

from encoder.training.cleaning import stand_in
from encoder.training.corpus import CLEANED, CorpusInvalid, find_sources
from encoder.training.recipe import Evaluation, Text
from encoder.training.run import prepare
from encoder.training.streams import tokenizer_path


@pytest.fixture
def here(tiny_recipe, tiny_text, tiny_settings, tmp_path):
    """A prepared recipe that names its sources, with a test set that is filtered out."""
    text = shutil.copytree(tiny_text, tmp_path / "text")
    (text / "test.txt").write_text("nobody trains on this sentence here\n", "utf-8")
    recipe = find_sources(tiny_text, tiny_recipe)
    recipe = recipe.model_copy(update={"evaluation": (Evaluation(paths=("test.txt",)),)})
    settings = dataclasses.replace(tiny_settings, text=text, cache=tmp_path / "cache")
    return (*prepare(recipe, settings), settings)


@pytest.fixture
def there(here, tmp_path):
    """Settings of another machine, which has only what must travel."""
    recipe, data, settings = here
    root = tmp_path / "there"
    (root / "text").mkdir(parents=True)
    (root / "text" / CLEANED).write_text(stand_in(settings.text, [recipe]), "utf-8")
    (clean,) = settings.cache.glob("clean-*")
    shutil.copytree(clean, root / "cache" / clean.name)
    tokenizer = tokenizer_path(clean, recipe, root / "cache")
    shutil.copyfile(data.folder / "tokenizer.json", tokenizer)
    return dataclasses.replace(settings, text=root / "text", cache=root / "cache")


def test_the_same_streams_are_made_without_the_text(here, there):
    recipe, data, _ = here

    recipe_there, data_there = prepare(recipe, there)

    assert recipe_there.sha256 == recipe.sha256
    assert data_there.sha256 == data.sha256  # so checkpoints may go from one to the other
    for one, other in zip(data.streams, data_there.streams, strict=True):
        np.testing.assert_array_equal(data.ids(one), data_there.ids(other))


def test_a_recipe_that_cleans_otherwise_is_refused(here, there):
    recipe, _, _ = here
    other = recipe.model_copy(update={"text": Text(held_out_every=77)})

    with pytest.raises(CorpusInvalid, match="knows nothing of text cleaned by this recipe"):
        prepare(other, there)
