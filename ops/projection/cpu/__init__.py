"""Linear layers compiled for the CPU: projection.cpp says how it works.

A call is short beside the products of few tokens: what is asked and made on the way is as little as can be.
"""

from __future__ import annotations

from ctypes import c_int

import torch
from torch import Tensor

from lgrnet.ops.cpu import address, in_lanes, kernel, rows_of
from lgrnet.ops.projection.reference import linear_reference

__all__ = ["linear_cpu"]


def linear_cpu(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor | None) -> Tensor:
    """See `lgrnet.ops.linear`."""
    if x.numel() == 0 or weight.numel() == 0:
        return linear_reference(x, weight, bias, residual, out)
    rows, weights = rows_of(x), rows_of(weight)
    if not in_lanes(rows, weights):
        return linear_reference(x, weight, bias, residual, out)
    outputs, inputs = weight.shape
    out = x.new_empty((*x.shape[:-1], outputs)) if out is None else out
    bias = bias if bias is None or bias.is_contiguous() else bias.contiguous()
    residual = None if residual is None else rows_of(residual)
    steps = (rows.stride(0), weights.stride(0), 0 if residual is None else residual.stride(0), outputs)
    sizes = (rows.shape[0], inputs, outputs, *steps, x.dtype == torch.bfloat16)
    addresses = map(address, (rows, weights, bias, residual, out))
    kernel("lgrnet_linear", 5, 8, c_int)(*addresses, *sizes, torch.get_num_threads())
    return out
