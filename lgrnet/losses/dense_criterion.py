"""Losses for models that give every class a map of its own: no queries, no matching."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lgrnet.distributed import reduce_mean
from lgrnet.structures import SegOutput, Targets


class DenseCriterion:
    """Binary cross-entropy and soft Dice at the resolution of the logits.

    Targets are averaged down to that resolution (so they are soft at borders). Both terms are means over the
    annotated frames of all clips and ranks and over classes; a pixel that is not valid takes no part.
    """

    def __init__(self, mask_bce: float = 1.0, mask_dice: float = 1.0):
        self.weights = {"mask_bce": mask_bce, "mask_dice": mask_dice}

    def __call__(
        self,
        output: SegOutput,
        targets: Sequence[Targets],
        draws: object = None,
        whole: Sequence[Targets] | None = None,
    ) -> dict[str, Tensor]:
        """output.mask_logits [B, K, T, h, w], B targets -> the unweighted terms; `draws` is not used.

        whole  as in SetCriterion: targets of all clips of a step of which these are a part

        Raises ValueError for a target of a class that the model does not have.
        """
        size, classes = output.mask_logits.shape[-2:], output.mask_logits.shape[1]
        truth, valid = (torch.stack(maps) for maps in zip(*(_maps(t, classes, size) for t in targets), strict=True))
        logits = output.mask_logits.float()
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * valid
        share = logits.sigmoid() * valid
        overlap = (share * truth).sum((-2, -1))
        total = share.sum((-2, -1)) + (truth * valid).sum((-2, -1))
        annotated = torch.stack([t.annotated for t in targets])[:, None].to(logits.dtype)  # [B, 1, T]
        counted = targets if whole is None else whole
        frames = torch.stack([t.annotated for t in counted]).sum() * classes
        frames = reduce_mean(frames).clamp(min=1) * (len(targets) / len(counted))
        dice = (1 - (2 * overlap + 1) / (total + 1)) * annotated
        per_frame = bce.sum((-2, -1)) / valid.sum((-2, -1)).clamp(min=1) * annotated
        return {"mask_bce": per_frame.sum() / frames, "mask_dice": dice.sum() / frames}


def _maps(target: Targets, classes: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Truth [K, T, h, w] and valid [1, T, h, w] of a clip at the size of the logits."""
    if target.labels.numel() and int(target.labels.max()) >= classes:
        raise ValueError(
            f"a target has class {int(target.labels.max())}, but the model has {classes}: 0..{classes - 1}"
        )
    truth = target.masks.new_zeros(classes, *target.masks.shape[1:])
    for label, mask in zip(target.labels.tolist(), target.masks, strict=True):
        truth[label] = torch.maximum(truth[label], mask)
    valid = F.interpolate(target.valid[None].to(truth.dtype), size=size, mode="area")
    return F.interpolate(truth, size=size, mode="area"), (valid > 0.5).to(truth.dtype)
