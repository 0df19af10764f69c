"""The loss for models that give every class a sigmoid map of its own: no queries, no matching."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from lgrnet.layers.parts import at_least_float32
from lgrnet.losses.target_maps import check_activation, frame_mean, membership_maps, pixel_mean
from lgrnet.structures import SegOutput, Targets


class DenseCriterion:
    """Binary cross-entropy and soft Dice at the resolution of the logits.

    Targets are averaged down to that resolution (so they are soft at borders). Both terms are means over the
    annotated frames of all clips and ranks and over classes; a pixel that is not valid takes no part, nor does a frame
    of such pixels alone. Earlier outputs (`SegOutput.aux`) are not looked at.
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

        Raises ValueError for a target of a class that the model does not have, for targets of other clips or frames,
        and for a model of softmax masks or of queries.
        """
        check_activation(output, "sigmoid", "DenseCriterion")
        logits = at_least_float32(output.mask_logits)
        truth, valid = membership_maps(targets, logits)
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        share = logits.sigmoid() * valid
        overlap = (share * truth).sum((-2, -1))
        total = share.sum((-2, -1)) + (truth * valid).sum((-2, -1))
        dice = 1 - (2 * overlap + 1) / (total + 1)
        return {
            "mask_bce": frame_mean(pixel_mean(bce, valid), targets, whole),
            "mask_dice": frame_mean(dice, targets, whole),
        }
