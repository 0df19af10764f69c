"""Neighborhood attention compiled for the CPU: neighborhood.cpp and planes.h say how it works."""

from __future__ import annotations

from ctypes import c_int, c_int64

import torch
from torch import Tensor

from lgrnet.ops.backends import refuse_second_derivatives
from lgrnet.ops.cpu import address, check_sides, kernel

__all__ = ["neighborhood_attention_cpu"]


def neighborhood_attention_cpu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    shapes: tuple[tuple[int, int], ...],
    window: int,
    dilation: int,
    frame_shift: int,
) -> Tensor:
    """See `lgrnet.ops.neighborhood_attention`; computes in float32."""
    sides = [side for shape in shapes for side in shape]
    return neighborhood_forward(q.float(), k.float(), v.float(), sides, window, dilation, frame_shift).to(q.dtype)


@torch.library.custom_op("lgrnet::neighborhood_forward", mutates_args=(), device_types="cpu")
def neighborhood_forward(
    q: Tensor, k: Tensor, v: Tensor, sides: list[int], window: int, dilation: int, frame_shift: int
) -> Tensor:
    """[B, T, S, heads, d]; `sides` are height, width, height, width, ... of the levels."""
    check_sides(sides, q.shape[2])
    out = _like(q)
    if out.numel():
        q, k, v = map(_rows, (q, k, v))
        sizes = _sizes((q, k, v), sides, window, dilation, frame_shift)
        kernel("lgrnet_neighborhood_forward", 6, 9, c_int)(*map(address, (q, k, v, out)), *sizes)
    return out


@torch.library.custom_op("lgrnet::neighborhood_backward", mutates_args=(), device_types="cpu")
def neighborhood_backward(
    q: Tensor, k: Tensor, v: Tensor, dout: Tensor, sides: list[int], window: int, dilation: int, frame_shift: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    check_sides(sides, q.shape[2])
    gradients = (_like(q), _like(q), _like(q))
    if q.numel():
        inputs = [_rows(t) for t in (q, k, v, dout)]
        sizes = _sizes(inputs, sides, window, dilation, frame_shift)
        kernel("lgrnet_neighborhood_backward", 9, 9, c_int)(*map(address, (*inputs, *gradients)), *sizes)
    return gradients


@neighborhood_forward.register_fake
def _(q, k, v, sides, window, dilation, frame_shift):
    return _like(q)


@neighborhood_backward.register_fake
def _(q, k, v, dout, sides, window, dilation, frame_shift):
    return _like(q), _like(q), _like(q)


def _remember(ctx, inputs, output) -> None:
    *tensors, ctx.sides, ctx.window, ctx.dilation, ctx.frame_shift = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, dout):
    refuse_second_derivatives("neighborhood attention")
    gradients = neighborhood_backward(*ctx.saved_tensors, dout, ctx.sides, ctx.window, ctx.dilation, ctx.frame_shift)
    return *gradients, None, None, None, None


neighborhood_forward.register_autograd(_backward, setup_context=_remember)


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _rows(tensor: Tensor) -> Tensor:
    """The tensor itself where the heads of a token lie side by side, as in the half of a projection; else a copy."""
    heads, channels = tensor.shape[-2:]
    dense = (heads == 1 or tensor.stride(-2) == channels) and (channels == 1 or tensor.stride(-1) == 1)
    return tensor if dense else tensor.contiguous()


def _sizes(tensors, sides: list[int], window: int, dilation: int, frame_shift: int) -> list:
    """Strides, sides, their number, B, T, S, heads, d, the window and the number of threads."""
    strides = [stride for t in tensors for stride in t.stride()[:3]]
    clips, frames, *others = tensors[0].shape
    sizes = (len(sides) // 2, clips, frames, *others, window, dilation, frame_shift % frames)
    arrays = ((c_int64 * len(numbers))(*numbers) for numbers in (strides, sides))
    return [*arrays, *sizes, torch.get_num_threads()]
