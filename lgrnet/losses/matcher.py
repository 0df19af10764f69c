"""Which query answers for which object of a clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lgrnet.layers.points import sample_points, sample_upsampled
from lgrnet.losses.functional import pairwise_bce, pairwise_dice

_WORST_COST = 1e6


class HungarianMatcher:
    """The cheapest one-to-one assignment of queries to objects (DETR, Carion et al., 2020).

    A query keeps its object in all frames: costs are taken over the whole clip. One set of points serves all
    queries, objects and frames, as published.

    class_cost      weight of minus the probability of the object's class
    mask_bce_cost   weight of the cross-entropy, the mean over points and frames
    mask_dice_cost  weight of the Dice loss over all points of all frames
    """

    def __init__(self, class_cost: float = 2.0, mask_bce_cost: float = 2.0, mask_dice_cost: float = 2.0):
        self.class_cost = class_cost
        self.mask_bce_cost = mask_bce_cost
        self.mask_dice_cost = mask_dice_cost

    @torch.no_grad()
    def cost(
        self,
        mask_logits: Tensor,
        class_logits: Tensor,
        masks: Tensor,
        labels: Tensor,
        points: Tensor,
        logit_scale: int = 4,
        invalid: Tensor | None = None,
    ) -> Tensor:
        """What each query would cost for each object of one clip, over its annotated frames.

        mask_logits   [Q, T, h, w], read at the points of their enlargement by logit_scale
        class_logits  [Q, K + 1], the last one is "no object"
        masks         [N, T, H, W] in 0..1
        labels        [N] int64
        points        [1, P, 2] (x, y) in 0..1
        invalid       [T, H, W] float, more than 0 where a pixel is ignored; None: nothing is

        Returns [Q, N].
        """
        logits = sample_upsampled(mask_logits.flatten(0, 1), points, logit_scale)  # [Q*T, P]
        logits = logits.unflatten(0, mask_logits.shape[:2]).flatten(1)  # [Q, T*P]
        truth = sample_points(masks.flatten(0, 1), points).unflatten(0, masks.shape[:2]).flatten(1)  # [N, T*P]
        weights = None
        if invalid is not None:
            weights = (sample_points(invalid, points) == 0).to(logits.dtype).flatten()  # [T*P]
        truth = truth.to(logits.dtype)
        class_cost = -class_logits.to(logits.dtype).softmax(-1)[:, labels]
        return (
            self.class_cost * class_cost
            + self.mask_bce_cost * pairwise_bce(logits, truth, weights)
            + self.mask_dice_cost * pairwise_dice(logits, truth, weights)
        )

    def assign(self, cost: Tensor) -> tuple[Tensor, Tensor]:
        """The cheapest assignment for costs [Q, N].

        Returns (queries, objects), [min(Q, N)] int64 each on the costs' device, in ascending order of queries.
        """
        return self.assign_all([cost])[0]

    def assign_all(self, costs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """`assign` for many costs [Q_i, N_i] of one device, with at most one copy to the host and one back."""
        matches: dict[int, tuple[Tensor, Tensor]] = {}
        open_ = []
        for index, cost in enumerate(costs):
            num_queries, num_objects = cost.shape
            if num_objects == 1 and num_queries > 0:
                # The usual clip has one object: its cheapest query needs no trip to the host.
                matches[index] = cost[:, 0].argmin(0, keepdim=True), cost.new_zeros(1, dtype=torch.int64)
            elif min(cost.shape) == 0:
                matches[index] = (cost.new_zeros(0, dtype=torch.int64),) * 2
            else:
                open_.append(index)
        if open_:
            solved = _solve([costs[index] for index in open_])
            matches.update(zip(open_, solved, strict=True))
        return [matches[index] for index in range(len(costs))]


def _solve(costs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The cheapest assignments on the host."""
    # Logits that are not finite must reach the loss, where the trainer sees and skips them.
    flat = torch.cat([cost.flatten() for cost in costs]).nan_to_num(_WORST_COST, _WORST_COST, -_WORST_COST)
    parts = flat.cpu().split([cost.numel() for cost in costs])
    solved = [linear_sum_assignment(part.view(cost.shape)) for part, cost in zip(parts, costs, strict=True)]
    both = torch.from_numpy(np.concatenate([np.stack(pair) for pair in solved], axis=1)).to(flat.device)
    sizes = [len(queries) for queries, _ in solved]
    return list(zip(both[0].split(sizes), both[1].split(sizes), strict=True))
