"""The loss for models whose maps compete for a pixel: softmax over background and classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lgrnet.distributed import reduce_mean
from lgrnet.layers.parts import at_least_float32
from lgrnet.losses.target_maps import check_activation, check_clips, class_map, frame_mean
from lgrnet.structures import SegOutput, Targets

_IGNORED = -100


class SoftmaxCriterion:
    """Cross-entropy over pixels and soft Dice over classes, at the resolution of the targets.

    The defaults are SvANet's loss, plain cross-entropy. `study_criterion` is the loss of SSFormer's reproduction
    study, `nnunet_criterion` the usual sum of both terms. Pixels that are not valid and frames that are not annotated
    take no part. Logits of another size than the targets are brought to theirs, bilinear with align_corners=True.

    mask_ce          weight of the cross-entropy, the mean over all pixels of all clips and ranks; 0: no such term
    mask_dice        weight of 1 - Dice, the mean over classes; 0: no such term
    label_smoothing  of the cross-entropy; a criterion has no evaluation mode, so it also acts where a loss is only
                     watched (published: 0, and never switched off either)
    balance_classes  weigh classes by 1 / ln(1.1 + their share of the step's pixels), absent ones by 0
    aux_weight       weight of every earlier output (SvANet: 0.4)
    dice_squared     p and t are squared in the denominator: (2 sum p t + smooth) / (sum p^2 + sum t^2 + smooth)
    dice_smooth      keeps Dice defined where a class is absent
    dice_over        "frame": Dice of each frame, then the mean; "batch": of all frames of a call as one, where a rank,
                     and a part of a step, stands by itself
    dice_background  whether background is one of the classes that Dice averages
    dice_invalid     True: Dice counts pixels that are not valid like others, as the study does
    dice_of          "softmax": p is the softmax of the logits; "logits": the logits themselves, as in two other losses
                     of the study, where Dice may be negative
    """

    def __init__(
        self,
        mask_ce: float = 1.0,
        mask_dice: float = 0.0,
        label_smoothing: float = 0.0,
        balance_classes: bool = False,
        aux_weight: float = 0.4,
        dice_squared: bool = False,
        dice_smooth: float = 1.0,
        dice_over: str = "frame",
        dice_background: bool = True,
        dice_invalid: bool = False,
        dice_of: str = "softmax",
    ):
        if dice_over not in ("frame", "batch"):
            raise ValueError(f'dice_over is {dice_over!r}, expected "frame" or "batch"')
        if dice_of not in ("softmax", "logits"):
            raise ValueError(f'dice_of is {dice_of!r}, expected "softmax" or "logits"')
        self.weights = {k: w for k, w in (("mask_ce", mask_ce), ("mask_dice", mask_dice)) if w != 0}
        if not self.weights:
            raise ValueError("mask_ce and mask_dice are both 0; give at least one of them a weight")
        self.label_smoothing, self.balance_classes, self.aux_weight = label_smoothing, balance_classes, aux_weight
        self.dice_squared, self.dice_smooth, self.dice_over = dice_squared, dice_smooth, dice_over
        self.dice_background, self.dice_invalid, self.dice_of = dice_background, dice_invalid, dice_of

    def __call__(
        self,
        output: SegOutput,
        targets: Sequence[Targets],
        draws: object = None,
        whole: Sequence[Targets] | None = None,
    ) -> dict[str, Tensor]:
        """output.mask_logits [B, K + 1, T, h, w], B targets -> the unweighted terms; `draws` is not used.

        whole  as in SetCriterion: targets of all clips of a step of which these are a part

        Raises ValueError for sigmoid masks, for a target of a class that has no channel, and for targets of other clips
        or frames.
        """
        for layer in output.layers:
            check_activation(layer, "softmax", "SoftmaxCriterion")
        check_clips(targets, output.mask_logits)
        classes, counted = class_map(targets, output.mask_logits.shape[1])
        terms: dict[str, Tensor] = {}
        for layer in output.layers:
            weight = 1.0 if layer is output else self.aux_weight
            if weight == 0:
                continue
            logits = _resized(at_least_float32(layer.mask_logits), classes.shape[-2:])
            values = {}
            if "mask_ce" in self.weights:
                values["mask_ce"] = self._cross_entropy(logits, classes, counted, targets, whole)
            if "mask_dice" in self.weights:
                values["mask_dice"] = self._dice(logits, classes, counted, targets, whole)
            terms = {name: terms.get(name, 0) + weight * value for name, value in values.items()}
        return terms

    def _cross_entropy(
        self,
        logits: Tensor,
        classes: Tensor,
        counted: Tensor,
        targets: Sequence[Targets],
        whole: Sequence[Targets] | None,
    ) -> Tensor:
        channels = logits.shape[1]
        pixels = class_pixels(*((classes, counted) if whole is None else class_map(whole, channels)), channels)
        pixels = pixels.to(logits.dtype)
        weights = balanced_weights(pixels) if self.balance_classes else torch.ones_like(pixels)
        divisor = (weights * pixels).sum()
        divisor = torch.where(divisor > 0, divisor, 1) * (1 if whole is None else len(targets) / len(whole))
        wanted = classes.masked_fill(~counted, _IGNORED)
        loss = F.cross_entropy(
            logits,
            wanted,
            weights,
            ignore_index=_IGNORED,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return loss / divisor

    def _dice(
        self,
        logits: Tensor,
        classes: Tensor,
        counted: Tensor,
        targets: Sequence[Targets],
        whole: Sequence[Targets] | None,
    ) -> Tensor:
        if self.dice_invalid:
            annotated = torch.stack([t.annotated for t in targets])  # [B, T]
            counted = annotated[..., None, None].expand_as(counted)
        counted = counted[:, None].to(logits.dtype)  # [B, 1, T, H, W]
        truth = F.one_hot(classes, logits.shape[1]).movedim(-1, 1) * counted  # [B, K + 1, T, H, W]
        share = (logits.softmax(1) if self.dice_of == "softmax" else logits) * counted
        dims = (-2, -1) if self.dice_over == "frame" else (0, 2, 3, 4)
        overlap, predicted = (share * truth).sum(dims), (share**2 if self.dice_squared else share).sum(dims)
        dice = (2 * overlap + self.dice_smooth) / (predicted + truth.sum(dims) + self.dice_smooth)
        if self.dice_over == "batch":
            return 1 - (dice if self.dice_background else dice[1:]).mean()
        dice = dice if self.dice_background else dice[:, 1:]
        return frame_mean(1 - dice, targets, whole, all_pixels=self.dice_invalid)


def study_criterion(loss: str = "dice") -> SoftmaxCriterion:
    """A loss of SSFormer's reproduction study, by name.

    loss  "dice": the one it trained with: Dice alone, squared denominator, 1e-5, every pixel counted; its other choices
          are "ce": cross-entropy; "raw_dice": Dice of the logits without softmax; "raw_dice_ce": the sum of both

    Left out, since the study's configs do not use them: the cross-entropy of hard pixels alone (OHEM, threshold 0.7)
    and class weights of one's own choice (those of `balance_classes` are found in the data).

    Raises ValueError for another name.
    """
    raw = {"mask_dice": 1.0, "dice_of": "logits", "dice_smooth": 2e-6}  # (tp + 1e-6) / (tp + fn / 2 + fp / 2 + 1e-6)
    choices = {
        "dice": {"mask_ce": 0.0, "mask_dice": 1.0, "dice_squared": True, "dice_smooth": 1e-5, "dice_invalid": True},
        "ce": {},
        "raw_dice": {"mask_ce": 0.0, **raw},
        "raw_dice_ce": raw,
    }
    if loss not in choices:
        raise ValueError(f"loss is {loss!r}, expected one of {', '.join(choices)}")
    return SoftmaxCriterion(**choices[loss])


def nnunet_criterion(dice_over: str = "frame", dice_background: bool = False) -> SoftmaxCriterion:
    """Cross-entropy plus soft Dice of the classes (Isensee et al., Nature Methods 2021).

    nnU-Net adds -Dice, this adds 1 - Dice: the same gradients.
    """
    return SoftmaxCriterion(mask_dice=1.0, dice_over=dice_over, dice_background=dice_background)


def class_pixels(classes: Tensor, counted: Tensor, channels: int) -> Tensor:
    """How many pixels of a step have each class, the mean over ranks: [channels] float32.

    classes, counted  as `class_map` gives them
    """
    return reduce_mean(torch.bincount(classes[counted], minlength=channels))


def balanced_weights(pixels: Tensor) -> Tensor:
    """1 / ln(1.1 + share of the class), 0 for a class without pixels; pixels [K + 1] -> [K + 1]."""
    share = pixels / pixels.sum().clamp(min=torch.finfo(pixels.dtype).tiny)
    return torch.where(pixels > 0, 1 / torch.log(1.1 + share), 0)


def _resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits [B, C, T, h, w] at another size, bilinear with align_corners=True."""
    if logits.shape[-2:] == size:
        return logits
    frames = logits.transpose(1, 2).flatten(0, 1)  # [B*T, C, h, w]
    frames = F.interpolate(frames, size=size, mode="bilinear", align_corners=True)
    return frames.unflatten(0, (logits.shape[0], logits.shape[2])).transpose(1, 2)
