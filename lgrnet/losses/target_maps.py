"""Targets as maps: a membership map for each class, or one map of class indices; and means over frames of all ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lgrnet.distributed import reduce_mean, world_size
from lgrnet.structures import SegOutput, Targets


def membership_maps(targets: Sequence[Targets], classes: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What a sigmoid model should say: truth [B, K, T, *size] in 0..1 and valid [B, 1, T, *size] of 0 and 1.

    Masks are averaged down (or repeated) to `size`, so they are soft at borders; objects of one class are united. A
    pixel is valid when more than half of it is, and its truth is the mean over what is valid of it. Raises ValueError
    for a class that the model does not have.
    """
    maps = [_membership(target, classes, size) for target in targets]
    truth, valid = (torch.stack(part) for part in zip(*maps, strict=True))
    return truth, valid


def class_map(targets: Sequence[Targets], channels: int) -> tuple[Tensor, Tensor]:
    """What a softmax model should say: class indices int64 and which pixels count, bool, both [B, T, H, W].

    channels  of the model: background and K classes

    Index 0 is background, k + 1 is the 0-based class k. A pixel belongs to the object with the largest membership
    there, the first of equal ones, and to the background where no membership is above 0.5. Pixels that are not valid
    have an index like all others but do not count, nor do those of frames that are not annotated.

    Raises ValueError for a class that has no channel, or none at all (-1).
    """
    for target in targets:
        _check_labels(target, channels - 1)
    classes = torch.stack([_indices(target) for target in targets])
    counted = torch.stack([target.valid & target.annotated[:, None, None] for target in targets])
    return classes, counted


def check_activation(output: SegOutput, activation: str, criterion: str) -> None:
    """Raises ValueError unless the maps of an output mean what a criterion takes them for."""
    if output.activation != activation:
        other = {"sigmoid": "SoftmaxCriterion", "softmax": "DenseCriterion"}[activation]
        raise ValueError(
            f"{criterion} needs {activation} masks, but the model gives {output.activation} masks; "
            f"take {other}, or a model with {activation} masks"
        )


def pixel_mean(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean over the pixels of each map, [..., H, W] -> [...]; 0 for a map whose weights are all 0."""
    weighted = (values * weights).sum((-2, -1))
    return weighted / weights.sum((-2, -1)).clamp(min=1)


def frame_mean(values: Tensor, targets: Sequence[Targets], whole: Sequence[Targets] | None = None) -> Tensor:
    """The mean of [B, K, T] over classes and the annotated frames of all clips and ranks; 0 when none is annotated.

    whole  targets of all clips of this process's step when `values` is of a part of them: the mean over equal parts
           is then the mean of the whole
    """
    counted = targets if whole is None else whole
    annotated = torch.stack([t.annotated for t in targets])[:, None].to(values.dtype)  # [B, 1, T]
    maps = torch.stack([t.annotated for t in counted]).sum() * values.shape[1]
    maps = reduce_mean(maps).clamp(min=1 / world_size()) * (len(targets) / len(counted))
    return (values * annotated).sum() / maps


def _membership(target: Targets, classes: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Truth [K, T, h, w] and valid [1, T, h, w] of a clip."""
    _check_labels(target, classes)
    masks = target.masks if target.masks.is_floating_point() else target.masks.float()
    truth, valid = masks.new_zeros(classes, *masks.shape[1:]), target.valid[None].to(masks.dtype)
    for label, mask in zip(target.labels.tolist(), masks, strict=True):
        truth[label] = torch.maximum(truth[label], mask)
    truth, share = (F.interpolate(part, size=size, mode="area") for part in (truth * valid, valid))
    # Where all is valid the share is exactly one.
    return truth / share.masked_fill(share == 0, 1), (share > 0.5).to(masks.dtype)


def _indices(target: Targets) -> Tensor:
    """Class indices [T, H, W] of a clip."""
    classes = torch.zeros(target.valid.shape, dtype=torch.int64, device=target.masks.device)
    largest = target.masks.new_full(target.valid.shape, 0.5)
    for label, mask in zip(target.labels.tolist(), target.masks, strict=True):
        wins = mask > largest
        classes = classes.masked_fill(wins, label + 1)
        largest = torch.where(wins, mask, largest)
    return classes


def _check_labels(target: Targets, classes: int) -> None:
    wrong = [label for label in target.labels.tolist() if not 0 <= label < classes]
    if wrong:
        raise ValueError(f"a target has class {wrong[0]}, but the model has {classes}: 0..{classes - 1}")
