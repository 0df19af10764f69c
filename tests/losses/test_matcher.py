"""Assignments: the cheapest one, one object without the host, and inputs that could stop it."""

import itertools

import pytest
import torch

from lgrnet.losses import matcher as matcher_module
from lgrnet.losses.matcher import HungarianMatcher


def clip(num_queries=5, num_objects=3, frames=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "mask_logits": torch.randn(num_queries, frames, 6, 8, generator=g) * 3,
        "class_logits": torch.randn(num_queries, 3, generator=g),
        "masks": (torch.rand(num_objects, frames, 24, 32, generator=g) > 0.6).float(),
        "labels": torch.randint(0, 2, (num_objects,), generator=g),
        "points": torch.rand(1, 64, 2, generator=g),
    }


def test_the_assignment_is_the_cheapest_of_all():
    cost = torch.rand(5, 3, generator=torch.Generator().manual_seed(1))
    queries, objects = HungarianMatcher().assign(cost)
    best = min(sum(cost[q, n] for n, q in enumerate(order)) for order in itertools.permutations(range(5), 3))
    assert cost[queries, objects].sum().item() == pytest.approx(best.item())
    assert queries.tolist() == sorted(queries.tolist()) and sorted(objects.tolist()) == [0, 1, 2]


def test_one_object_takes_the_cheapest_query_and_never_calls_scipy(monkeypatch):
    monkeypatch.setattr(matcher_module, "linear_sum_assignment", None)
    queries, objects = HungarianMatcher().assign(torch.tensor([[3.0], [1.0], [2.0]]))
    assert (queries.tolist(), objects.tolist()) == ([1], [0])
    assert queries.dtype == objects.dtype == torch.int64


def test_more_objects_than_queries_leaves_objects_without_a_query():
    queries, objects = HungarianMatcher().assign(torch.rand(2, 4))
    assert queries.tolist() == [0, 1] and len(set(objects.tolist())) == 2
    queries, objects = HungarianMatcher().assign(torch.rand(2, 0))
    assert len(queries) == len(objects) == 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("num_objects", [1, 2])
def test_costs_that_are_not_finite_are_assigned_all_the_same(bad, num_objects):
    cost = torch.full((4, num_objects), bad)
    queries, objects = HungarianMatcher().assign(cost)
    assert len(queries) == len(objects) == num_objects


def test_each_weight_scales_its_part_of_the_cost():
    inputs = clip()
    parts = [HungarianMatcher(*w).cost(**inputs) for w in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    torch.testing.assert_close(parts[0], -inputs["class_logits"].softmax(-1)[:, inputs["labels"]])
    expected = 2 * parts[0] + 3 * parts[1] + 5 * parts[2]
    torch.testing.assert_close(HungarianMatcher(2, 3, 5).cost(**inputs), expected)


def test_a_query_that_draws_an_object_is_given_it():
    inputs = clip(num_objects=2, seed=4)
    drawn = torch.nn.functional.avg_pool2d(inputs["masks"], 4) * 20 - 10
    inputs["mask_logits"][3], inputs["mask_logits"][1] = drawn[0], drawn[1]
    matcher = HungarianMatcher(class_cost=0)
    queries, objects = matcher.assign(matcher.cost(**inputs))
    assert dict(zip(objects.tolist(), queries.tolist(), strict=True)) == {0: 3, 1: 1}


def test_what_stands_on_ignored_pixels_does_not_change_the_cost():
    inputs = clip(seed=5)
    invalid = torch.zeros(2, 24, 32)
    invalid[0, :, 16:] = 1
    before = HungarianMatcher().cost(**inputs, invalid=invalid)
    inputs["masks"][:, 0, :, 16:] = 1 - inputs["masks"][:, 0, :, 16:]
    assert torch.equal(before, HungarianMatcher().cost(**inputs, invalid=invalid))
    assert not torch.equal(before, HungarianMatcher().cost(**inputs))


def test_all_costs_at_once_are_solved_as_each_alone():
    generator = torch.Generator().manual_seed(0)
    sizes = [(5, 2), (5, 1), (3, 0), (2, 4), (5, 3), (4, 1)]
    costs = [torch.rand(size, generator=generator) for size in sizes]
    costs[4][1, 1] = float("nan")
    for (queries, objects), cost in zip(HungarianMatcher().assign_all(costs), costs, strict=True):
        alone = HungarianMatcher().assign(cost)
        assert torch.equal(queries, alone[0]) and torch.equal(objects, alone[1])
        assert len(queries) == len(objects) == min(cost.shape)
    assert HungarianMatcher().assign_all([]) == []


def test_one_copy_to_the_host_for_all_costs(monkeypatch):
    copies = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: copies.append(self.shape) or self)
    HungarianMatcher().assign_all([torch.rand(5, 2), torch.rand(5, 1), torch.rand(5, 3)])
    assert copies == [(25,)]
    HungarianMatcher().assign_all([torch.rand(5, 1)] * 40)
    assert len(copies) == 1
