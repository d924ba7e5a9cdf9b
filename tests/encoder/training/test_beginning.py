"""A run that begins with a model instead of random numbers."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from encoder.checkpoint import load_language_model
from encoder.config import UnsupportedModel
from encoder.training.beginning import begin_with, shape_of
from encoder.training.curves import read_curves
from encoder.training.masked_lm import Pretraining
from encoder.training.recipe import RecipeInvalid
from encoder.training.run import Run, prepare
from encoder.training.workers import Workers


@pytest.fixture(scope="module")
def taught(tiny_data, tiny_settings, tmp_path_factory):
    """A model of twenty steps."""
    settings = replace(tiny_settings, out=tmp_path_factory.mktemp("taught") / "run")
    return Run(*tiny_data, settings, Workers()).train()


def test_it_begins_with_the_models_weights_head_and_tokenizer(
    taught, tiny_recipe, tiny_settings, tmp_path
):
    settings = replace(tiny_settings, out=tmp_path, weights=taught)

    recipe, data = prepare(tiny_recipe, settings)
    begun = Pretraining(recipe, data, Workers(), weights=taught)

    assert (data.folder / "tokenizer.json").read_bytes() == (taught / "tokenizer.json").read_bytes()
    expected = load_language_model(taught).state_dict()
    assert all(torch.equal(begun.model.state_dict()[name], expected[name]) for name in expected)
    with begun.averaged() as averaged:
        assert all(torch.equal(averaged.state_dict()[name], expected[name]) for name in expected)


def test_it_goes_on_learning_from_there(taught, tiny_recipe, tiny_settings, tiny_data, tmp_path):
    settings = replace(tiny_settings, out=tmp_path / "more", weights=taught)
    Run(*prepare(tiny_recipe, settings), settings, Workers()).train()
    afresh = replace(tiny_settings, out=tmp_path / "afresh")
    Run(*tiny_data, afresh, Workers()).train()

    first = [read_curves(s.out / "curves.jsonl")[0]["loss"] for s in (settings, afresh)]
    held_out = [read_curves(s.out / "curves.jsonl")[-1]["held_out"] for s in (settings, afresh)]

    assert first[0] < first[1] - 0.5
    assert held_out[0]["mean"] < held_out[1]["mean"]


def test_another_text_is_written_with_the_models_own_tokens(
    taught, tiny_recipe, tiny_settings, tmp_path
):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "field.txt").write_text("haematology and thrombocytes\n" * 400)
    settings = replace(tiny_settings, text=tmp_path / "text", out=tmp_path, weights=taught)

    _, data = prepare(tiny_recipe, settings)

    assert data.tokenizer.get_vocab_size() == load_language_model(taught).encoder.config.vocab_size


def test_without_a_recipe_the_shape_is_the_models(taught, tiny_recipe):
    assert shape_of(taught) == tiny_recipe.model


def test_another_shape_is_refused_with_both_numbers(taught, tiny_recipe, tiny_settings, tmp_path):
    settings = replace(tiny_settings, out=tmp_path, weights=taught)
    wider = tiny_recipe.model.model_copy(update={"layers": 3})
    recipe, data = prepare(tiny_recipe.model_copy(update={"model": wider}), settings)

    with pytest.raises(RecipeInvalid, match="layers is 2 there and 3 in the recipe"):
        Run(recipe, data, settings, Workers())


def test_a_model_of_another_layout_is_refused(minilm_source):
    with pytest.raises(RecipeInvalid, match="another layout"):
        shape_of(minilm_source)


def test_a_model_without_its_head_is_refused(taught, tiny_data, tmp_path):
    for file in taught.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(taught / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if not name.startswith("head.")}
    save_file(kept, tmp_path / "model.safetensors")

    with pytest.raises(UnsupportedModel, match="has no weight"):
        begin_with(Pretraining(*tiny_data, Workers()).model, tmp_path)
