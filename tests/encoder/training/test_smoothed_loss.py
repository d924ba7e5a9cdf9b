import pytest
import torch
from torch.nn import functional as F

from encoder.training.smoothed_loss import ROWS, Smoothing, smoothed_cross_entropy


def inputs(rows=ROWS + 37, vocabulary=40, width=8):
    generator = torch.Generator().manual_seed(1)
    states, table, bias = (
        torch.randn(*shape, generator=generator).requires_grad_()
        for shape in ((rows, width), (vocabulary, width), (vocabulary,))
    )
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    return states, table, bias, targets


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_loss_and_gradients_equal_those_of_torch(share):
    states, table, bias, targets = inputs()
    logits = F.linear(states, table, bias)
    theirs = F.cross_entropy(logits, targets, label_smoothing=share, reduction="sum")
    expected = torch.autograd.grad(theirs * 0.3, (states, table, bias))

    ours = smoothed_cross_entropy(states, table, bias, targets, Smoothing(share))
    found = torch.autograd.grad(ours[0] * 0.3, (states, table, bias))

    torch.testing.assert_close(ours[0], theirs, rtol=1e-5, atol=0)
    plain = F.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(ours[1], plain, rtol=1e-5, atol=0)
    for our_gradient, their_gradient in zip(found, expected, strict=True):
        torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-4, atol=1e-4)


def test_what_is_frozen_gets_no_gradient_and_nothing_does_without_gradients():
    states, table, bias, targets = inputs()
    table.requires_grad_(False)

    smoothed_cross_entropy(states, table, bias, targets, Smoothing(0.1))[0].backward()

    assert table.grad is None
    assert states.grad is not None
    with torch.no_grad():
        losses = smoothed_cross_entropy(states, table, bias, targets, Smoothing(0.1))
    assert not losses.requires_grad


def test_products_in_bf16_are_near():
    states, table, bias, targets = inputs()

    exact = smoothed_cross_entropy(states, table, bias, targets, Smoothing(0.1))
    low = smoothed_cross_entropy(states, table, bias, targets, Smoothing(0.1, torch.bfloat16))

    torch.testing.assert_close(low, exact, rtol=5e-3, atol=0)
