"""Multi-head attention compiled for the CPU: attention.cpp says how it works."""

from __future__ import annotations

from ctypes import c_float, c_int

import torch
from torch import Tensor

from lgrnet.ops.attention.reference import multi_head_attention_reference
from lgrnet.ops.cpu import PRODUCTS, address, in_lanes, kernel, multiplies_matrices, rows_of

__all__ = ["multi_head_attention_cpu"]


@torch.library.custom_op("lgrnet::multi_head_attention", mutates_args=(), device_types="cpu")
def multi_head_attention_cpu(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """See `lgrnet.ops.multi_head_attention`."""
    _check(q, k, v, heads)
    out = q.new_zeros(q.shape) if k.numel() == 0 else q.new_empty(q.shape)
    if q.numel() and k.numel():
        channels, rows = q.shape[2] // heads, [rows_of(tensor) for tensor in (q, k, v)]
        if q.dtype == torch.bfloat16 and (channels % 2 or not in_lanes(*rows)):
            return multi_head_attention_reference(q, k, v, heads)
        steps = (tensor.stride(0) for tensor in rows)
        sizes = (len(q), heads, q.shape[1], k.shape[1], channels, *steps)
        products = (q.dtype == torch.bfloat16, multiplies_matrices())
        attend = kernel("lgrnet_attention", 4, 10, c_float, c_int)
        attend(*map(address, (*rows, out)), *sizes, *products, channels**-0.5, torch.get_num_threads())
    return out


@multi_head_attention_cpu.register_fake
def _(q, k, v, heads):
    return q.new_empty(q.shape)


def _check(q: Tensor, k: Tensor, v: Tensor, heads: int) -> None:
    """The kernel reads and writes where the sizes say: wrong ones would be memory of others."""
    fits = q.ndim == k.ndim == 3 and k.shape == v.shape and (q.shape[0], q.shape[2]) == (k.shape[0], k.shape[2])
    fits = fits and q.dtype == k.dtype == v.dtype and q.dtype in PRODUCTS
    if not fits or heads < 1 or q.shape[2] % heads:
        shapes = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in (q, k, v))
        raise ValueError(
            f"q, k, v are {shapes} with {heads} heads; expected float32 or bfloat16 [B, N, C], [B, M, C], [B, M, C]"
        )
