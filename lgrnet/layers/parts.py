"""Large tensors on a CPU, some rows at a time: small ones stay in its caches, and in memory that is mapped already.

glibc maps a tensor of more than 32 MB anew for every use and returns it afterwards; to touch its pages for the first
time takes longer than to compute what is in them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def in_parts(function: Callable[[Tensor], Tensor], rows: Tensor, width: int, most: int) -> Tensor:
    """`function` of rows [R, ...], each of which it must treat by itself -> [R, ...]

    width  numbers that it makes of one row on its way
    most   numbers at a time, on a CPU; elsewhere and where a graph is recorded, all rows go at once
    """
    count = max(1, most // max(1, width))
    if recorded() or rows.device.type != "cpu" or len(rows) <= count:
        return function(rows)
    return torch.cat([function(part) for part in rows.split(count)])


def recorded() -> bool:
    """Whether a graph is recorded, which is to hold for other sizes, too."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def at_least_float32(tensor: Tensor) -> Tensor:
    """A tensor in float32, or float64 where it is: sums in half precision are not good enough."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
