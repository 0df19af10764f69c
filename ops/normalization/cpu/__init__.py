"""Layer norm compiled for the CPU: normalization.cpp says how it works."""

from __future__ import annotations

from ctypes import c_float, c_int

import torch
from torch import Tensor

from lgrnet.ops.cpu import address, kernel, rows_of
from lgrnet.ops.normalization.reference import layer_norm_reference

__all__ = ["layer_norm_cpu"]


def layer_norm_cpu(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """See `lgrnet.ops.layer_norm`."""
    if x.numel() == 0:
        return layer_norm_reference(x, weight, bias, epsilon)
    out, rows = torch.empty_like(x, memory_format=torch.contiguous_format), rows_of(x)
    weight, bias = weight.contiguous(), bias.contiguous()  # by name: copies must last until the kernel is done
    addresses = map(address, (rows, weight, bias, out))
    sizes = (*rows.shape, rows.stride(0), x.dtype == torch.bfloat16)
    kernel("lgrnet_layer_norm", 4, 4, c_float, c_int)(*addresses, *sizes, epsilon, torch.get_num_threads())
    return out
