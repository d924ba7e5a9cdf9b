import numpy as np
import pytest
import torch

from encoder.training.checkpoints import load_checkpoint, save_checkpoint
from encoder.training.masked_lm import Pretraining
from encoder.training.recipe import Optimizer
from encoder.training.schedule import step_at
from encoder.training.workers import Workers

HASHES = {"recipe_sha256": "a", "data_sha256": "b"}


def train(training, first, last):
    return [training.train(step_at(training.recipe, n)).masked for n in range(first, last)]


def weights(training):
    with training.averaged() as model:
        average = [p.detach().clone() for p in model.parameters()]
    return [p.detach().clone() for p in training.model.parameters()] + average


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_model_learns_more_than_how_often_each_token_occurs(tiny_data, optimizer):
    recipe, data = tiny_data
    settings = Optimizer(name=optimizer, rate=1e-2, matrix_rate=1e-2)
    recipe = recipe.model_copy(update={"optimizer": settings}).with_tokens(48_000)
    training = Pretraining(recipe, data, Workers())

    losses = train(training, 0, recipe.steps)

    ids = np.concatenate([data.ids(stream) for stream in data.streams])
    frequencies = np.bincount(ids)[np.bincount(ids) > 0] / len(ids)
    entropy = -(frequencies * np.log(frequencies)).sum()
    assert np.mean(losses[-10:]) < entropy < losses[0]
    assert training.evaluate()["mean"] < entropy


@pytest.mark.parametrize("stop", [1, 10, 17])
def test_a_run_resumed_at_any_step_ends_with_the_same_bits(tiny_data, tmp_path, stop):
    recipe, data = tiny_data
    whole = Pretraining(recipe, data, Workers())
    train(whole, 0, recipe.steps)

    begun = Pretraining(recipe, data, Workers())
    train(begun, 0, stop)
    save_checkpoint(tmp_path / "c.pt", {**HASHES, "training": begun.state()})
    torch.manual_seed(12345)  # whatever a new process begins with
    resumed = Pretraining(recipe, data, Workers())
    resumed.load(load_checkpoint(tmp_path / "c.pt", **HASHES)["training"])
    train(resumed, stop, recipe.steps)

    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), weights(whole), strict=True))


def test_the_average_is_of_the_weights_after_the_rate_began_to_fall(tiny_data):
    recipe, data = tiny_data
    training = Pretraining(recipe, data, Workers())
    falls = next(n for n in range(recipe.steps) if step_at(recipe, n).decays)
    train(training, 0, falls)
    mark = 1.0
    for average in training._average:
        average.fill_(mark)

    train(training, falls, recipe.steps)

    own = [p.detach().clone() for p in training._trained]
    with training.averaged(), torch.no_grad():
        left = [float((a - o).abs().mean()) for a, o in zip(training._trained, own, strict=True)]
    assert recipe.steps - falls == 5
    assert max(left) < 0.05 * mark


def test_steps_cannot_be_skipped(tiny_data):
    recipe, data = tiny_data

    with pytest.raises(ValueError, match="step 3 after 0"):
        Pretraining(recipe, data, Workers()).train(step_at(recipe, 3))


def test_the_size_of_a_pass_changes_memory_but_not_the_gradient(tiny_data):
    recipe, data = tiny_data
    losses = [
        train(Pretraining(recipe.model_copy(update={"micro_tokens": size}), data, Workers()), 0, 5)
        for size in (32, 128, 8192)
    ]

    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-5)


def test_evaluation_changes_nothing_and_is_the_same_each_time(tiny_data):
    recipe, data = tiny_data
    training = Pretraining(recipe, data, Workers())
    train(training, 0, 3)
    before = weights(training)

    first, second = training.evaluate(), training.evaluate()

    assert first == second
    assert set(first) == {"text", "mean"}
    assert all(torch.equal(a, b) for a, b in zip(weights(training), before, strict=True))


def test_reconstruction_trains_the_encoder_through_the_pooled_vector(tiny_data):
    recipe, data = tiny_data
    training = Pretraining(recipe, data, Workers())
    number = recipe.steps - 1
    training.steps_done = number

    losses = training.train(step_at(recipe, number))

    assert losses.rebuilt > 0
    assert training.steps_done == recipe.steps
