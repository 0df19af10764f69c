"""Targets as maps: a membership map for each class, or one map of class indices; and means over frames of all ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lgrnet.distributed import reduce_mean, world_size
from lgrnet.structures import SegOutput, Targets


def membership_maps(targets: Sequence[Targets], logits: Tensor) -> tuple[Tensor, Tensor]:
    """What a sigmoid model should say in place of logits [B, K, T, h, w]: truth of their shape, in 0..1, and valid
    [B, 1, T, h, w] of 0 and 1.

    A pixel of the truth is the mean over the area that it covers, so it is soft at borders; objects of one class are
    united. It is valid when more than half of that area is, and its truth is the mean over what is. Raises ValueError
    for a class that the model does not have, and for targets of other clips or frames.
    """
    check_clips(targets, logits)
    maps = [_membership(target, logits) for target in targets]
    truth, valid = (torch.stack(part) for part in zip(*maps, strict=True))
    return truth, valid


def check_clips(targets: Sequence[Targets], logits: Tensor) -> None:
    """Raises ValueError unless there are targets for each clip and frame of logits [B, K, T, h, w]."""
    batch, _, frames, *_ = logits.shape
    wrong = next((t.masks.shape[1] for t in targets if t.masks.shape[1] != frames), frames)
    if len(targets) != batch or wrong != frames:
        raise ValueError(
            f"the output is of {batch} clips of {frames} frames, the targets of {len(targets)} clips of {wrong} frames"
        )


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
    """Raises ValueError unless the maps of an output mean what a criterion takes them for: one for each class."""
    if output.class_logits is not None:
        raise ValueError(
            f"{criterion} needs one map for each class, but the model gives {output.mask_logits.shape[1]} queries with "
            "class logits; take SetCriterion"
        )
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


def frame_mean(
    values: Tensor, targets: Sequence[Targets], whole: Sequence[Targets] | None = None, all_pixels: bool = False
) -> Tensor:
    """The mean of [B, K, T] over classes and the counted frames of all clips and ranks; 0 when none is counted.

    whole       targets of all clips of this process's step when `values` is of a part of them: the mean over equal
                parts is then the mean of the whole
    all_pixels  ignored pixels count like others, and so do annotated frames of nothing else
    """

    def counted(of: Sequence[Targets]) -> Tensor:
        return torch.stack([t.annotated if all_pixels else t.counted for t in of]).to(values.dtype)  # [B, T]

    of_step = targets if whole is None else whole
    maps = reduce_mean(counted(of_step).sum() * values.shape[1])
    maps = maps.clamp(min=1 / world_size()) * (len(targets) / len(of_step))
    return (values * counted(targets)[:, None]).sum() / maps


def _membership(target: Targets, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Truth [K, T, h, w] and valid [1, T, h, w] of a clip."""
    classes, size = logits.shape[1], logits.shape[-2:]
    _check_labels(target, classes)
    masks, valid = target.masks.to(logits.dtype), target.valid[None].to(logits.dtype)
    truth = masks.new_zeros(classes, *masks.shape[1:])
    for label, mask in zip(target.labels.tolist(), masks, strict=True):
        truth[label] = torch.maximum(truth[label], mask)
    truth, share = _area_mean(truth * valid, size), _area_mean(valid, size)
    # Where all is valid the share is one.
    return truth / share.masked_fill(share == 0, 1), (share > 0.5).to(logits.dtype)


def _area_mean(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps [..., H, W] as [..., h, w], each pixel the mean over the area that it covers."""
    sides = list(zip(maps.shape[-2:], size, strict=True))
    if all(old % new == 0 or new % old == 0 for old, new in sides):
        return F.interpolate(maps, size=tuple(size), mode="area")
    rows, columns = (_shares(old, new, maps) for old, new in sides)
    with torch.autocast(maps.device.type, enabled=False):
        return rows @ maps @ columns.T


def _shares(old: int, new: int, like: Tensor) -> Tensor:
    """Of which of `old` pixels side by side each of `new` ones is made: [new, old], rows of sum 1."""
    ends = torch.arange(new + 1, device=like.device)[:, None] * old
    pixels = torch.arange(old + 1, device=like.device) * new
    covered = torch.minimum(ends[1:], pixels[1:]) - torch.maximum(ends[:-1], pixels[:-1])
    return covered.clamp(min=0).to(like.dtype) / old


def _indices(target: Targets) -> Tensor:
    """Class indices [T, H, W] of a clip."""
    classes = torch.zeros(target.valid.shape, dtype=torch.int64, device=target.masks.device)
    masks = target.masks if target.masks.is_floating_point() else target.masks.float()
    largest = masks.new_full(target.valid.shape, 0.5)
    for label, mask in zip(target.labels.tolist(), masks, strict=True):
        wins = mask > largest
        classes = classes.masked_fill(wins, label + 1)
        largest = torch.where(wins, mask, largest)
    return classes


def _check_labels(target: Targets, classes: int) -> None:
    wrong = [label for label in target.labels.tolist() if not 0 <= label < classes]
    if wrong:
        raise ValueError(f"a target has class {wrong[0]}, but the model has {classes}: 0..{classes - 1}")
