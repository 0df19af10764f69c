"""Which query answers for which object of a clip."""

from __future__ import annotations

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
        num_queries, num_objects = cost.shape
        if num_objects == 1 and num_queries > 0:
            # The usual clip has one object: its cheapest query needs no trip to the host.
            return cost[:, 0].argmin(0, keepdim=True), cost.new_zeros(1, dtype=torch.int64)
        # Logits that are not finite must reach the loss, where the trainer sees and skips them.
        finite = cost.nan_to_num(_WORST_COST, _WORST_COST, -_WORST_COST)
        queries, objects = linear_sum_assignment(finite.cpu().numpy())
        return torch.as_tensor(queries, device=cost.device), torch.as_tensor(objects, device=cost.device)
