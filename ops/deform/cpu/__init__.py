"""Multi-scale deformable attention compiled for the CPU: deform.cpp says how it works."""

from __future__ import annotations

from ctypes import c_int

import torch
from torch import Tensor

from lgrnet.ops.backends import refuse_second_derivatives
from lgrnet.ops.cpu import address, check_sides, kernel

__all__ = ["ms_deform_attn_cpu"]


def ms_deform_attn_cpu(
    value: Tensor, offsets: Tensor, weight_logits: Tensor, reference: Tensor, shapes: tuple[tuple[int, int], ...]
) -> Tensor:
    """See `lgrnet.ops.ms_deform_attn`; computes in float32."""
    floats = (t.float().contiguous() for t in (value, offsets, weight_logits, reference))
    return deform_forward(*floats, [side for shape in shapes for side in shape]).to(value.dtype)


@torch.library.custom_op("lgrnet::deform_forward", mutates_args=(), device_types="cpu")
def deform_forward(value: Tensor, offsets: Tensor, logits: Tensor, reference: Tensor, sides: list[int]) -> Tensor:
    """[B, Q, heads * d]; `sides` are height, width, height, width, ... of the levels."""
    check_sides(sides, value.shape[1])
    out = _out(value, offsets)
    if out.numel() == 0 or logits.shape[-1] == 0:
        return out.zero_()
    shapes = torch.tensor(sides, dtype=torch.int32)
    tensors = (value, offsets, logits, reference, shapes, out)
    kernel("lgrnet_deform_forward", 6, 8, c_int)(*map(address, tensors), *_sizes(value, offsets, reference))
    return out


@torch.library.custom_op("lgrnet::deform_backward", mutates_args=(), device_types="cpu")
def deform_backward(
    value: Tensor, offsets: Tensor, logits: Tensor, reference: Tensor, dout: Tensor, sides: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, offsets and logits."""
    check_sides(sides, value.shape[1])
    inputs = (value, offsets, logits)
    if dout.numel() == 0 or logits.shape[-1] == 0:
        return tuple(torch.zeros_like(t) for t in inputs)
    gradients = [torch.empty_like(t) for t in inputs]
    shapes = torch.tensor(sides, dtype=torch.int32)
    tensors = (*inputs, reference, shapes, dout, *gradients)
    kernel("lgrnet_deform_backward", 9, 8, c_int)(*map(address, tensors), *_sizes(value, offsets, reference))
    return tuple(gradients)


@deform_forward.register_fake
def _(value, offsets, logits, reference, sides):
    return _out(value, offsets)


@deform_backward.register_fake
def _(value, offsets, logits, reference, dout, sides):
    return tuple(torch.empty_like(t) for t in (value, offsets, logits))


def _remember(ctx, inputs, output) -> None:
    *tensors, ctx.sides = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, dout):
    refuse_second_derivatives("deformable attention")
    tensors = [t.contiguous() for t in ctx.saved_tensors]  # which hooks may have laid out otherwise
    dvalue, doffsets, dlogits = deform_backward(*tensors, dout.contiguous(), ctx.sides)
    dreference = None
    if ctx.needs_input_grad[3]:
        # A reference point moves all samples of its level by its share of the level's width and height.
        sizes = doffsets.new_tensor(ctx.sides).view(-1, 2).flip(1)
        dreference = doffsets.sum((2, 4)) * sizes
        dreference = dreference.sum_to_size(tensors[3].shape)
    return dvalue, doffsets, dlogits, dreference, None


deform_forward.register_autograd(_backward, setup_context=_remember)


def _out(value: Tensor, offsets: Tensor) -> Tensor:
    return value.new_empty(len(value), offsets.shape[1], value.shape[2] * value.shape[3])


def _sizes(value: Tensor, offsets: Tensor, reference: Tensor) -> tuple[int, ...]:
    """B, S, Q, heads, d, levels, points, clips of the reference and the number of threads."""
    batch, tokens, heads, channels = value.shape
    _, queries, _, levels, points, _ = offsets.shape
    return batch, tokens, queries, heads, channels, levels, points, len(reference), torch.get_num_threads()
