"""From mask logits at the model's resolution to masks and maps at the size of the frames on disk."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def published_masks(
    mask_logits: Tensor, valid_size: tuple[int, int], disk_size: tuple[int, int], scale: int | tuple[int, int] = 4
) -> Tensor:
    """Masks by LGRNet's published rule: enlarge the logits, > 0, cut the padding, nearest to disk size.

    mask_logits  [Q, T, h, w] at stride `scale`
    valid_size   (H, W) of the model's input before padding, at most (h * scale, w * scale)
    disk_size    (H0, W0) of the frames on disk
    scale        the stride, or the size (H, W) of the model's input with padding, for logits of any size that cover it

    Returns bool [Q, T, H0, W0] on the CPU. The enlargement is bilinear with align_corners=False; the way to disk
    size reads source pixel floor(i * in / out). One frame is enlarged at a time, so beside the result the peak
    is one frame's [Q, h * scale, w * scale]. Raises ValueError for sizes that do not fit.
    """
    masks = _empty(mask_logits, disk_size, torch.bool)
    for index, logits in enumerate(_enlarged(mask_logits, valid_size, scale)):
        masks[:, index] = F.interpolate((logits > 0).float(), size=disk_size, mode="nearest")[0].bool()
    return masks


def decided_by_logit(
    mask_logits: Tensor, valid_size: tuple[int, int], disk_size: tuple[int, int], scale: int | tuple[int, int] = 4
) -> tuple[Tensor, Tensor]:
    """Probabilities 0..255 and `published_masks`, from one enlargement; arguments as there.

    The probability is the sigmoid of the logits enlarged and brought to disk size, both bilinear with
    align_corners=False, times 255 and rounded. Exactly 0.5 rounds down, so that a value above 127 means a logit above
    0, as in the published masks.

    Returns uint8 and bool, both [Q, T, H0, W0] on the CPU.
    """
    maps, masks = _empty(mask_logits, disk_size, torch.uint8), _empty(mask_logits, disk_size, torch.bool)
    for index, logits in enumerate(_enlarged(mask_logits, valid_size, scale)):
        masks[:, index] = F.interpolate((logits > 0).float(), size=disk_size, mode="nearest")[0].bool()
        if logits.shape[-2:] != tuple(disk_size):
            logits = F.interpolate(logits, size=disk_size, mode="bilinear", align_corners=False)
        maps[:, index] = _grey(logits[0].sigmoid())
    return maps, masks


def decided_by_probability(
    mask_logits: Tensor,
    valid_size: tuple[int, int],
    disk_size: tuple[int, int],
    scale: int | tuple[int, int] = 4,
    activation: str = "sigmoid",
) -> tuple[Tensor, Tensor]:
    """Probabilities 0..255 and masks, decided at disk size; sizes and rounding as in `decided_by_logit`.

    activation  "sigmoid": mask_logits [K, T, h, w], a mask is where the probability is above 0.5;
                "softmax": mask_logits [K + 1, T, h, w] with background first, a mask is where its class is the largest

    Returns uint8 and bool, both [K, T, H0, W0] on the CPU. Raises ValueError for sizes that do not fit.
    """
    background = 1 if activation == "softmax" else 0
    maps = _empty(mask_logits[background:], disk_size, torch.uint8)
    masks = _empty(mask_logits[background:], disk_size, torch.bool)
    frames = resized_probabilities(mask_logits, valid_size, disk_size, scale, activation)
    for index, probability in enumerate(frames):
        if background:
            classes = torch.arange(1, len(probability), device=probability.device)
            masks[:, index] = probability.argmax(0) == classes[:, None, None]
        else:
            masks[:, index] = probability > 0.5
        maps[:, index] = _grey(probability[background:])
    return maps, masks


def resized_probabilities(
    mask_logits: Tensor,
    valid_size: tuple[int, int],
    disk_size: tuple[int, int],
    scale: int | tuple[int, int] = 4,
    activation: str = "sigmoid",
) -> Iterator[Tensor]:
    """Each frame's probabilities [Q, H0, W0] in float32: the activation comes first, then the resize to disk size.

    Arguments as in `decided_by_probability`; both steps of the resize are bilinear with align_corners=False.
    """
    for logits in _enlarged(mask_logits, valid_size, scale):
        probability = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
        if probability.shape[-2:] != tuple(disk_size):
            probability = F.interpolate(probability, size=disk_size, mode="bilinear", align_corners=False)
        yield probability[0]


def _grey(probability: Tensor) -> Tensor:
    """Probabilities as 0..255; exactly 0.5 rounds down."""
    return probability.mul(255).sub(0.5).ceil().to(torch.uint8)


def _empty(mask_logits: Tensor, disk_size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The result's memory; it lies on the CPU because a long video at disk size may not fit on the device."""
    if mask_logits.ndim != 4:
        raise ValueError(f"mask_logits have shape {tuple(mask_logits.shape)}, expected [Q, T, h, w]")
    return torch.empty((*mask_logits.shape[:2], *disk_size), dtype=dtype)


def _enlarged(mask_logits: Tensor, valid_size: tuple[int, int], scale: int | tuple[int, int]) -> Iterator[Tensor]:
    """Each frame's logits [1, Q, H, W] in float32, enlarged and without padding."""
    height, width = valid_size
    seen = tuple(mask_logits.shape[-2:])
    full = (seen[0] * scale, seen[1] * scale) if isinstance(scale, int) else tuple(scale)
    if height > full[0] or width > full[1]:
        raise ValueError(
            f"the input was {height} x {width} before padding, but logits {seen} at scale {scale} cover only "
            f"{full[0]} x {full[1]}"
        )
    for logits in mask_logits.unbind(1):
        large = logits[None].float()
        if full != seen:
            large = F.interpolate(large, size=full, mode="bilinear", align_corners=False)
        yield large[..., :height, :width]
