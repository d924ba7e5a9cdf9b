"""Compiling as for a GPU, tried on a CPU: the same losses, and few graphs."""

import pytest
import torch

from encoder.training.masked_lm import Pretraining
from encoder.training.schedule import step_at
from encoder.training.workers import Workers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # torch.compile warns of what torch itself does
]


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


def losses_of(training, numbers):
    """Of these steps, each as the next one."""
    found = []
    for number in numbers:
        training.steps_done = number
        losses = training.train(step_at(training.recipe, number))
        found += [losses.masked, losses.rebuilt]
    return torch.tensor(found)


def test_a_model_compiled_in_parts_has_the_losses_of_a_plain_one(tiny_data, fresh_compiler):
    recipe, data = tiny_data
    # Rows of both lengths, of several mask rates, with and without reconstruction.
    numbers = [0, 1, 6, 10, 13, recipe.steps - 1]
    plain = losses_of(Pretraining(recipe, data, Workers(), for_gpu=True), numbers)

    compiled = Pretraining(recipe, data, Workers(), compiled=True, for_gpu=True)
    torch.testing.assert_close(losses_of(compiled, numbers), plain, rtol=1e-3, atol=1e-3)

    # For each length of rows a first layer and all others, of which one rebuilds; one head for
    # all counts of hidden tokens, after its first.
    graphs = fresh_compiler["stats"]["unique_graphs"]
    assert graphs <= 2 * len(recipe.stages) + 3
    held_out = compiled.evaluate()
    assert held_out["mean"] > 0
    assert fresh_compiler["stats"]["unique_graphs"] == graphs  # it compiled nothing
