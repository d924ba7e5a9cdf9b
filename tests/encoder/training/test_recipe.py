from pathlib import Path

import pytest

from encoder.training.recipe import Recipe, RecipeInvalid, Stage, load_recipe, recipe_from

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_the_recipes_that_ship_can_be_followed(file):
    assert load_recipe(file).name == file.stem


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_the_recipes_that_ship_keep_every_evaluation_set_out(file):
    patterns = " ".join(path for rule in load_recipe(file).evaluation for path in rule.paths)

    for name in (
        "multi30k/val",
        "multi30k/test",
        "stsb",
        "tatoeba-laser",
        "coarsewsd",
        "retrieval",
    ):
        assert name in patterns


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"sede": 1}, "unknown key 'sede'"),
        ({"model": {"widht": 3}}, "unknown key 'model.widht'"),
        ({"model": {"width": -3}}, "model.width"),
        ({"stages": []}, "at least one"),
        ({"stages": [{"row_tokens": 1024, "step_rows": 1, "tokens": 1}]}, "1024"),
        ({"vocabulary": {"size": 70_000}}, "vocabulary.size"),
    ],
)
def test_a_wrong_recipe_is_refused_by_the_name_of_its_key(content, named):
    with pytest.raises(RecipeInvalid, match=named):
        recipe_from(content, name="r.toml")


def test_a_recipe_that_is_missing_or_not_toml_is_refused_by_its_name(tmp_path):
    (tmp_path / "bad.toml").write_text("name = ")

    with pytest.raises(RecipeInvalid, match=r"bad\.toml is not TOML"):
        load_recipe(tmp_path / "bad.toml")
    with pytest.raises(RecipeInvalid, match=r"none\.toml: No such file"):
        load_recipe(tmp_path / "none.toml")


def test_two_recipes_have_one_hash_only_if_every_value_is_equal():
    assert Recipe().sha256 == recipe_from({"seed": 1}, name="").sha256
    assert Recipe().sha256 != Recipe(seed=2).sha256


def test_a_shortened_recipe_keeps_the_proportions_of_its_stages():
    stages = (
        Stage(row_tokens=16, step_rows=10, tokens=16_000),
        Stage(row_tokens=32, step_rows=10, tokens=32_000),
    )

    short = Recipe(stages=stages).with_tokens(4_800)

    assert [stage.steps for stage in short.stages] == [10, 10]
    assert short.tokens == 4_800
