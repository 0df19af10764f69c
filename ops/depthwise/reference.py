"""Depthwise convolution and GELU in plain torch: the truth that every kernel is tested against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise_gelu_reference(
    x: Tensor, weight: Tensor, bias: Tensor, shape: tuple[int, int], shift: Tensor | None = None
) -> Tensor:
    """See `lgrnet.ops.depthwise_gelu`."""
    if x.numel() == 0:
        return x.clone()
    kind, exact = x.dtype, torch.promote_types(x.dtype, weight.dtype)
    x = x if shift is None else x + shift
    maps = x.to(exact).transpose(1, 2).unflatten(2, shape)
    sums = F.conv2d(maps, weight.to(exact), bias.to(exact), padding=1, groups=x.shape[2])
    return F.gelu(sums.flatten(2).transpose(1, 2)).to(kind)
