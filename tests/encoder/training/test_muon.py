import copy

import pytest
import torch

from encoder.training.muon import StackedMuon, orthogonal

SHAPES = [(8, 16), (16, 8), (8, 16), (8, 8), (8, 16)]
SETTINGS = {"lr": 0.02, "weight_decay": 0.01, "momentum": 0.95}


def parameters(seed):
    torch.manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def step(optimizer, values, seed):
    torch.manual_seed(seed)
    for value in values:
        value.grad = torch.randn_like(value)
    optimizer.step()


@pytest.mark.parametrize("rule", ["match_rms_adamw", "original"])
def test_stacked_steps_are_those_of_torch_up_to_rounding(rule):
    one, other = parameters(0), parameters(0)
    plain = torch.optim.Muon(one, adjust_lr_fn=rule, **SETTINGS)
    stacked = StackedMuon(other, adjust_lr_fn=rule, **SETTINGS)

    for seed in range(5):
        step(plain, one, seed)
        step(stacked, other, seed)

    begun = parameters(0)
    for first, second, before in zip(one, other, begun, strict=True):
        moved = (first - before).norm()
        assert moved > 0
        assert (first - second).norm() < 0.02 * moved  # both turn in bf16


def test_a_state_goes_from_one_to_the_other():
    one = parameters(0)
    plain = torch.optim.Muon(one, **SETTINGS)
    step(plain, one, 1)
    other = [torch.nn.Parameter(value.detach().clone()) for value in one]
    stacked = StackedMuon(other, **SETTINGS)

    stacked.load_state_dict(copy.deepcopy(plain.state_dict()))
    step(plain, one, 2)
    step(stacked, other, 2)

    for first, second in zip(one, other, strict=True):
        torch.testing.assert_close(first, second, atol=2e-3, rtol=0)


def test_a_parameter_without_a_gradient_stays():
    values = parameters(0)
    before = values[0].detach().clone()
    stacked = StackedMuon(values, **SETTINGS)
    for value in values[1:]:
        value.grad = torch.ones_like(value)

    stacked.step()

    assert torch.equal(values[0], before)
    assert not torch.equal(values[1], parameters(0)[1])


def test_singular_values_come_near_one():
    torch.manual_seed(0)
    matrices = torch.randn(3, 24, 10)

    turned = orthogonal(matrices, (3.4445, -4.7750, 2.0315), 5, 1e-7).float()

    values = torch.linalg.svdvals(turned)
    assert values.min() > 0.5
    assert values.max() < 1.4
