"""Masks of queries compiled for the CPU: masks.cpp says how it works."""

from __future__ import annotations

from ctypes import c_int

import torch
from torch import Tensor

from lgrnet.ops.cpu import address, kernel

__all__ = ["mask_logits_cpu"]


def mask_logits_cpu(queries: Tensor, features: Tensor) -> Tensor:
    """See `lgrnet.ops.mask_logits`."""
    clips, frames, channels, height, width = features.shape
    out = features.new_empty(clips, frames, queries.shape[1], height, width)
    if out.numel() == 0 or channels == 0:
        return out.zero_()
    queries, maps = queries.contiguous(), features.flatten(3)
    if maps.stride(3) != 1 and maps.shape[3] > 1:
        maps = maps.contiguous()
    sizes = (clips, frames, queries.shape[1], *maps.shape[2:], *maps.stride()[:3])
    kernel("lgrnet_mask_logits", 3, 8, c_int)(*map(address, (queries, maps, out)), *sizes, torch.get_num_threads())
    return out
