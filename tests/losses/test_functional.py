"""Point losses: values by hand, pairs equal rows, weights leave points out, gradients."""

import pytest
import torch
import torch.nn.functional as F

from lgrnet.losses.functional import pairwise_bce, pairwise_dice, point_bce, point_dice

PAIRED = [(point_bce, pairwise_bce), (point_dice, pairwise_dice)]


def maps(rows, seed, soft=False):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(rows, 40, dtype=torch.float64, generator=generator)
    return values if soft else (values > 0.5).double()


def test_bce_is_the_mean_over_points():
    logits, targets = maps(3, 0, soft=True) * 8 - 4, maps(3, 1)
    expected = F.binary_cross_entropy(logits.sigmoid(), targets, reduction="none").mean(1)
    torch.testing.assert_close(point_bce(logits, targets), expected)


def test_dice_by_hand():
    logits = torch.tensor([[100.0, 100.0, -100.0, -100.0]])
    targets = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    assert point_dice(logits, targets).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert point_dice(logits, targets, smooth=0).item() == pytest.approx(0.5)
    assert point_dice(torch.full((1, 4), -100.0), torch.zeros(1, 4)).item() == 0  # both empty


@pytest.mark.parametrize(("rowwise", "pairwise"), PAIRED)
@pytest.mark.parametrize("weighted", [False, True])
def test_pairs_are_rows(rowwise, pairwise, weighted):
    logits, targets = maps(4, 2, soft=True) * 10 - 5, maps(3, 3, soft=True)
    weights = maps(1, 4)[0] if weighted else None
    table = pairwise(logits, targets, weights)
    for q in range(4):
        rows = None if weights is None else weights.expand(3, -1)
        torch.testing.assert_close(table[q], rowwise(logits[q].expand(3, -1), targets, rows))


@pytest.mark.parametrize("loss", [point_bce, point_dice])
def test_a_weight_of_zero_is_as_if_the_point_were_not_there(loss):
    logits, targets, weights = maps(1, 5, soft=True) * 6 - 3, maps(1, 6), maps(1, 7)
    kept = weights[0] > 0
    torch.testing.assert_close(loss(logits, targets, weights), loss(logits[:, kept], targets[:, kept]))
    assert loss(logits, targets, torch.zeros_like(weights)).item() == 0


@pytest.mark.parametrize("loss", [point_bce, point_dice])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_those_of_finite_differences(loss, weighted):
    logits = (maps(2, 8, soft=True) * 6 - 3).requires_grad_()
    weights = maps(2, 9) if weighted else None
    assert torch.autograd.gradcheck(lambda x: loss(x, maps(2, 10, soft=True), weights), logits)
