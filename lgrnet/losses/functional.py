"""Mask losses at sampled points, row by row and between all pairs of rows.

Letters: M maps, P points, L points of all frames of a clip, Q queries, N objects. Targets are memberships in
0..1. `weights` of 0 leave a point out; None counts every point once.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def point_bce(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, the mean over the points of each map.

    logits, targets, weights  [M, P]; a map whose weights are all 0 costs 0

    Returns [M].
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if weights is None:
        return loss.mean(1)
    return (loss * weights).sum(1) / weights.sum(1).clamp(min=1)


def point_dice(logits: Tensor, targets: Tensor, weights: Tensor | None = None, smooth: float = 1.0) -> Tensor:
    """1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth) of each map, p = sigmoid (V-Net, 2016; +1 as published).

    logits, targets, weights  [M, P]; a map whose weights are all 0 costs 0

    Returns [M].
    """
    probability = logits.sigmoid()
    if weights is not None:
        probability, targets = probability * weights, targets * weights
    overlap = (probability * targets).sum(1)
    return 1 - (2 * overlap + smooth) / (probability.sum(1) + targets.sum(1) + smooth)


def pairwise_bce(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """`point_bce` between every query and every object; both read the same points.

    logits [Q, L], targets [N, L], weights [L]

    Returns [Q, N].
    """
    # BCE(x, t) = softplus(x) - x t, so all pairs are one matrix product.
    background = F.softplus(logits)
    count = logits.shape[1]
    if weights is not None:
        logits, background, count = logits * weights, background * weights, weights.sum().clamp(min=1)
    return (background.sum(1, keepdim=True) - logits @ targets.T) / count


def pairwise_dice(logits: Tensor, targets: Tensor, weights: Tensor | None = None, smooth: float = 1.0) -> Tensor:
    """`point_dice` between every query and every object; both read the same points.

    logits [Q, L], targets [N, L], weights [L]

    Returns [Q, N].
    """
    probability = logits.sigmoid()
    if weights is not None:
        probability, targets = probability * weights, targets * weights
    total = probability.sum(1)[:, None] + targets.sum(1)[None]
    return 1 - (2 * (probability @ targets.T) + smooth) / (total + smooth)
