"""Each loss against its formula written out in plain Python, and its gradient against finite differences."""

import math

import pytest
import torch

from usg_psg.losses.functional import dice_loss, mask_bce_loss, sigmoid_class_loss, weighted_pair_loss


def bce(x: float, t: float, pos_weight: float = 1.0) -> float:
    p = 1 / (1 + math.exp(-x))
    return -(pos_weight * t * math.log(p) + (1 - t) * math.log(1 - p))


@pytest.fixture
def masks():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 7, generator=generator, dtype=torch.float64)
    return logits, (torch.rand(3, 7, generator=generator) > 0.5).double()


def test_mask_bce_is_the_mean_over_points(masks):
    logits, targets = masks
    expected = [
        sum(bce(x, t) for x, t in zip(row, target, strict=True)) / 7
        for row, target in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    torch.testing.assert_close(mask_bce_loss(logits, targets), torch.tensor(expected, dtype=torch.float64))


def test_dice_formula(masks):
    logits, targets = masks
    expected = []
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        prob = [1 / (1 + math.exp(-x)) for x in row]
        overlap = sum(p * t for p, t in zip(prob, target, strict=True))
        expected.append(1 - (2 * overlap + 1) / (sum(prob) + sum(target) + 1))
    torch.testing.assert_close(dice_loss(logits, targets), torch.tensor(expected, dtype=torch.float64))


def test_dice_of_a_perfect_and_of_an_empty_mask():
    target = torch.tensor([[1.0, 1.0, 0.0]])
    assert dice_loss(torch.tensor([[50.0, 50.0, -50.0]]), target).item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(dice_loss(torch.full((1, 3), -50.0), torch.zeros(1, 3))).all()


def test_class_loss_is_a_weighted_sum():
    logits = torch.tensor([[[0.3, -1.2], [2.0, 0.1]]], dtype=torch.float64)
    targets = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    weight = torch.tensor([[1.0, 0.1]], dtype=torch.float64)
    expected = bce(0.3, 1) + bce(-1.2, 0) + 0.1 * (bce(2.0, 0) + bce(0.1, 0))
    assert sigmoid_class_loss(logits, targets, weight).item() == pytest.approx(expected)


def test_pair_loss_weights_positives_and_ignores_the_diagonal():
    logits = torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    targets = torch.zeros_like(logits)
    targets[0, 0, 2] = 1
    expected = sum(
        bce(logits[0, i, j].item(), targets[0, i, j].item(), 5.0) for i in range(3) for j in range(3) if i != j
    )
    assert weighted_pair_loss(logits, targets, 5.0).item() == pytest.approx(expected)
    changed = logits + 100 * torch.eye(3)
    assert weighted_pair_loss(changed, targets, 5.0).item() == pytest.approx(expected)


def test_gradients(masks):
    logits, targets = masks
    logits = logits.requires_grad_()
    for loss in (mask_bce_loss, dice_loss, sigmoid_class_loss):
        assert torch.autograd.gradcheck(loss, (logits, targets))
    pairs = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    labels = (torch.rand(2, 3, 3) > 0.7).double()
    assert torch.autograd.gradcheck(lambda x: weighted_pair_loss(x, labels, 5.0), (pairs,))
