"""Targets and golden numbers for the losses of still models."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lgrnet.structures import Targets


def binary_targets(maps: Tensor) -> list[Targets]:
    """Targets of one class and one frame from maps [B, 1, H, W] in 0..1."""
    everywhere = torch.ones(1, *maps.shape[-2:], dtype=torch.bool)
    return [Targets(torch.tensor([0]), m[None], everywhere, torch.ones(1, dtype=torch.bool)) for m in maps]


def index_targets(classes: np.ndarray, ignored: int = 255) -> list[Targets]:
    """Targets of one frame from class indices [B, H, W], 0 is background."""
    targets = []
    for image in torch.from_numpy(classes):
        found = [int(k) for k in image.unique() if 0 < k != ignored]
        masks = [image == k for k in found]
        masks = torch.stack(masks).float()[:, None] if masks else torch.zeros(0, 1, *image.shape)
        labels = torch.tensor([k - 1 for k in found], dtype=torch.int64)
        targets.append(Targets(labels, masks, (image != ignored)[None], torch.ones(1, dtype=torch.bool)))
    return targets


def weighted_sum(criterion, terms: dict[str, Tensor]) -> Tensor:
    """The loss as a trainer adds it up."""
    return sum(weight * terms[name] for name, weight in criterion.weights.items())
