"""Losses, costs and assignments of the published code, for its own outputs and draws."""

import pytest
import torch
import torch.nn.functional as F

from lgrnet.losses.matcher import HungarianMatcher
from lgrnet.losses.set_criterion import SetCriterion
from tests.losses.golden import KINDS, LARGE, SUBSET, draws_of, load, losses_of, output_of, targets_of


class WatchedMatcher(HungarianMatcher):
    """Keeps every cost and assignment in the order of the calls."""

    def __init__(self):
        super().__init__()
        self.costs, self.assignments = [], []

    def assign_all(self, costs):
        matches = super().assign_all(costs)
        shown = [(cost, match) for cost, match in zip(costs, matches, strict=True) if cost.shape[1]]
        self.costs += [cost for cost, _ in shown]
        self.assignments += [match for _, match in shown]
        return matches


def check(golden, kind, num_points, scale):
    matcher = WatchedMatcher()
    criterion = SetCriterion(num_points=num_points, logit_scale=scale, matcher=matcher)
    draws = draws_of(golden, kind, num_points)
    terms = criterion(output_of(golden, scale), targets_of(golden, kind), draws)
    assert set(terms) == set(criterion.weights)
    for name, expected in losses_of(golden, kind, num_points).items():
        assert terms[name].item() == pytest.approx(expected, rel=1e-5), name

    run = f"{kind}.np{num_points}"
    pairs = zip(golden[f"{run}.cost"], golden[f"{run}.assign"], strict=True)
    wanted = [(cost, match) for cost, match in pairs if cost.shape[1]]
    assert len(wanted) == len(matcher.costs) > 0
    for (cost, match), our_cost, ours in zip(wanted, matcher.costs, matcher.assignments, strict=True):
        torch.testing.assert_close(our_cost, cost, rtol=2e-5, atol=2e-5)
        assert [m.tolist() for m in ours] == [m.tolist() for m in match]
    return draws


@pytest.mark.parametrize("kind", KINDS)
def test_losses_from_stride_4_logits_are_the_published_ones(kind):
    draws = check(load(SUBSET), kind, 256, scale=4)
    assert next(draws.recorded, None) is None  # every published draw was used


@pytest.mark.parametrize("num_points", [256, 12544])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_from_full_size_logits_are_the_published_ones(shared, kind, num_points):
    check(load(shared / LARGE), kind, num_points, scale=1)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_the_published_number_of_points_from_stride_4(shared, kind):
    check({**load(shared / LARGE), **load(SUBSET)}, kind, 12544, scale=4)


def test_stored_stride_4_logits_enlarge_to_the_published_masks(shared):
    large, small = load(shared / LARGE), load(SUBSET)
    for index in range(4):
        logits = small[f"train_out{index}.mask_logits_stride4"].flatten(0, 1)
        masks = large[f"train_out{index}.pred_masks"].transpose(1, 2).flatten(0, 1)
        enlarged = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
        torch.testing.assert_close(enlarged, masks, rtol=0, atol=3e-6)


def test_total_is_the_published_sum():
    golden = load(SUBSET)
    criterion = SetCriterion(num_points=256)
    terms = criterion(output_of(golden, 4), targets_of(golden, "single"), draws_of(golden, "single", 256))
    total = sum(criterion.weights[name] * value.item() for name, value in terms.items())
    assert total == pytest.approx(golden["grad.total_loss"], rel=1e-5)
