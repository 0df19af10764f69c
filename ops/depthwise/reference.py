"""Depthwise convolution and GELU in plain torch: the truth that every kernel is tested against."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def depthwise_gelu_reference(
    x: Tensor, weight: Tensor, bias: Tensor, shape: tuple[int, int], shift: Tensor | None = None
) -> Tensor:
    """See `lgrnet.ops.depthwise_gelu`."""
    x = x if shift is None else x + shift
    maps = x.transpose(1, 2).unflatten(2, shape)
    return F.gelu(F.conv2d(maps, weight, bias, padding=1, groups=x.shape[2]).flatten(2).transpose(1, 2))
