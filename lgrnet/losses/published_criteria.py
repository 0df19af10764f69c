"""Losses that were published with still-image models of sigmoid maps; `DenseCriterion` is the one to train with.

All terms are means over the annotated frames of all clips and ranks and over classes, and pixels that are not valid
take no part. (The published losses know neither; where everything is annotated and valid, the numbers are theirs.)
Arguments of every call, and errors, are those of `DenseCriterion`; truth is brought to the size of the logits. Only
`StructureCriterion` looks at earlier outputs, too.

Left out: the focal and the unified focal losses that SSFormer's code offers and its training does not use.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from lgrnet.layers.parts import at_least_float32
from lgrnet.losses.dense_criterion import DenseCriterion
from lgrnet.losses.target_maps import check_activation, frame_mean, membership_maps, pixel_mean
from lgrnet.structures import SegOutput, Targets

_WINDOW = 31  # of the mean that finds borders, in pixels


class SSFormerCriterion:
    """What SSFormer was trained with: its logits go through a sigmoid twice, and Dice is taken pixel by pixel.

    x = sigmoid(logits) is treated as if it were logits: BCE(x, g) and 1 - (2 s g + 1) / (s + g + 1) with
    s = sigmoid(x), both means over pixels. Since s lies in 0.5..0.73, a perfect answer still costs 1.03 on background
    and 0.41 on foreground, and gradients are small. It is here to repeat that training.

    double_sigmoid  False: x = logits, the loss that was probably meant
    """

    def __init__(self, mask_bce: float = 1.0, mask_dice: float = 1.0, double_sigmoid: bool = True):
        self.weights = {"mask_bce": mask_bce, "mask_dice": mask_dice}
        self.double_sigmoid = double_sigmoid

    def __call__(
        self,
        output: SegOutput,
        targets: Sequence[Targets],
        draws: object = None,
        whole: Sequence[Targets] | None = None,
    ) -> dict[str, Tensor]:
        """output.mask_logits [B, K, T, h, w], B targets -> the unweighted terms, see `DenseCriterion`."""
        check_activation(output, "sigmoid", "SSFormerCriterion")
        logits = at_least_float32(output.mask_logits)
        if self.double_sigmoid:
            logits = logits.sigmoid()
        truth, valid = membership_maps(targets, logits)
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        share = logits.sigmoid()
        dice = 1 - (2 * share * truth + 1) / (share + truth + 1)
        return {
            "mask_bce": frame_mean(pixel_mean(bce, valid), targets, whole),
            "mask_dice": frame_mean(pixel_mean(dice, valid), targets, whole),
        }


class StructureCriterion:
    """PraNet's structure loss (Fan et al., MICCAI 2020, eq. 5): pixels near borders weigh up to six times as much.

    A pixel weighs w = 1 + 5 |mean of g over a 31 x 31 window - g|, with zeros beyond the image and in pixels that are
    not valid.

    bce         "weighted" as the paper writes it; "plain" as PraNet's code runs it: its reduce="none" means a plain
                mean, in which w cancels out
    iou         "map": 1 - (sum(w p g) + 1) / (sum(w (p + g)) - sum(w p g) + 1), as in PraNet; "pixel": the weighted
                mean of 1 - (p g + 1) / (p + g - p g + 1), which SSFormer's code offers together with bce="weighted"
    aux_weight  weight of every earlier output (published: 1)
    """

    def __init__(
        self,
        mask_bce: float = 1.0,
        mask_iou: float = 1.0,
        bce: str = "weighted",
        iou: str = "map",
        aux_weight: float = 1.0,
    ):
        if bce not in ("weighted", "plain") or iou not in ("map", "pixel"):
            raise ValueError(f'bce is {bce!r} and iou {iou!r}; expected "weighted" or "plain", and "map" or "pixel"')
        self.weights = {"mask_bce": mask_bce, "mask_iou": mask_iou}
        self.bce, self.iou, self.aux_weight = bce, iou, aux_weight

    def __call__(
        self,
        output: SegOutput,
        targets: Sequence[Targets],
        draws: object = None,
        whole: Sequence[Targets] | None = None,
    ) -> dict[str, Tensor]:
        """output.mask_logits [B, K, T, h, w], B targets -> the unweighted terms, see `DenseCriterion`."""
        terms: dict[str, Tensor] = {}
        for layer in output.layers:
            weight = 1.0 if layer is output else self.aux_weight
            if weight == 0:
                continue
            check_activation(layer, "sigmoid", "StructureCriterion")
            logits = at_least_float32(layer.mask_logits)
            truth, valid = membership_maps(targets, logits)
            bce, iou = self._maps(logits, truth, valid)
            values = {"mask_bce": frame_mean(bce, targets, whole), "mask_iou": frame_mean(iou, targets, whole)}
            terms = {name: terms.get(name, 0) + weight * value for name, value in values.items()}
        return terms

    def _maps(self, logits: Tensor, truth: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Both terms of every map, [B, K, T] each."""
        weights = _border_weights(truth * valid) * valid
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        bce = pixel_mean(bce, weights if self.bce == "weighted" else valid)
        share = logits.sigmoid()
        both = share * truth
        if self.iou == "pixel":
            return bce, pixel_mean(1 - (both + 1) / (share + truth - both + 1), weights)
        both, all_ = (both * weights).sum((-2, -1)), ((share + truth) * weights).sum((-2, -1))
        return bce, 1 - (both + 1) / (all_ - both + 1)


class TverskyCriterion:
    """Focal Tversky loss (1 - t)^gamma, t = (tp + 1) / (tp + alpha fp + beta fn + 1), over all frames as one.

    As SSFormer's code offers it (Salehi et al., 2017; Abraham and Khan, 2019, who write 1 / gamma for the exponent).
    Sums run over all annotated frames and classes of a call, so a rank, and a part of a step, stands by itself and the
    loss is the mean over them.

    mask_tversky  weight of the Tversky term
    mask_bce      weight of a plain binary cross-entropy beside it; 0: none
    alpha, beta   cost of what is found too much and of what is missed; half each is Dice
    gamma         exponent, at least 1
    """

    def __init__(
        self,
        mask_tversky: float = 1.0,
        mask_bce: float = 0.0,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 2.0,
    ):
        if min(alpha, beta) < 0 or gamma < 1:
            raise ValueError(f"alpha {alpha}, beta {beta}, gamma {gamma}: expected at least 0, 0 and 1")
        self.weights = {"mask_tversky": mask_tversky, "mask_bce": mask_bce}
        self.alpha, self.beta, self.gamma = alpha, beta, gamma

    def __call__(
        self,
        output: SegOutput,
        targets: Sequence[Targets],
        draws: object = None,
        whole: Sequence[Targets] | None = None,
    ) -> dict[str, Tensor]:
        """output.mask_logits [B, K, T, h, w], B targets -> the unweighted terms, see `DenseCriterion`."""
        check_activation(output, "sigmoid", "TverskyCriterion")
        logits = at_least_float32(output.mask_logits)
        truth, valid = membership_maps(targets, logits)
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        counted = valid * torch.stack([t.annotated for t in targets])[:, None, :, None, None]
        share = logits.sigmoid()
        hit = (share * truth * counted).sum()
        extra = (share * (1 - truth) * counted).sum()
        missed = ((1 - share) * truth * counted).sum()
        overlap = (hit + 1) / (hit + self.alpha * extra + self.beta * missed + 1)
        return {
            "mask_tversky": (1 - overlap) ** self.gamma,
            "mask_bce": frame_mean(pixel_mean(bce, valid), targets, whole),
        }


def _border_weights(truth: Tensor) -> Tensor:
    """1 + 5 |mean over a window - truth| of maps [B, K, T, h, w]."""
    flat = truth.flatten(0, 2)[:, None]  # [B*K*T, 1, h, w]
    mean = F.avg_pool2d(flat, _WINDOW, stride=1, padding=_WINDOW // 2)
    return (1 + 5 * (mean - flat).abs()).view_as(truth)


def ssformer_criterion(loss: str = "bce_dice") -> DenseCriterion | SSFormerCriterion:
    """The loss of an SSFormer training, by name.

    loss  "bce_dice": binary cross-entropy and soft Dice, `DenseCriterion`, for new trainings; "published": the double
          sigmoid that SSFormer was trained with, `SSFormerCriterion`; "single_sigmoid": the same terms with one

    Raises ValueError for another name.
    """
    choices = {
        "bce_dice": DenseCriterion,
        "published": SSFormerCriterion,
        "single_sigmoid": partial(SSFormerCriterion, double_sigmoid=False),
    }
    if loss not in choices:
        raise ValueError(f"loss is {loss!r}, expected one of {', '.join(choices)}")
    return choices[loss]()
