"""Depthwise convolution and GELU compiled for the CPU: depthwise.cpp says how it works."""

from __future__ import annotations

from ctypes import c_int

import torch
from torch import Tensor

from lgrnet.ops.backends import refuse_second_derivatives
from lgrnet.ops.cpu import address, kernel

__all__ = ["depthwise_gelu_cpu"]

TOKENS = (torch.float32, torch.bfloat16)
"""Types of tokens that the kernel reads and writes as they are."""


def depthwise_gelu_cpu(
    x: Tensor, weight: Tensor, bias: Tensor, shape: tuple[int, int], shift: Tensor | None = None
) -> Tensor:
    """See `lgrnet.ops.depthwise_gelu`; computes in float32."""
    tokens = x if x.dtype in TOKENS else x.float()
    others = (None if t is None else t.float().contiguous() for t in (weight, bias, shift))
    return depthwise_forward(tokens.contiguous(), *others, *shape).to(x.dtype)


@torch.library.custom_op("lgrnet::depthwise_forward", mutates_args=(), device_types="cpu")
def depthwise_forward(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, height: int, width: int) -> Tensor:
    """[B, H * W, C], of the type of x: float32 or bfloat16; all others are float32."""
    _check(x, weight, bias, shift, height, width)
    out = torch.empty_like(x)
    if out.numel():
        sizes, bfloat16 = (len(x), height, width, x.shape[2]), x.dtype == torch.bfloat16
        function = kernel("lgrnet_depthwise_forward", 5, 5, c_int)
        function(*map(address, (x, shift, weight, bias, out)), *sizes, bfloat16, torch.get_num_threads())
    return out


@torch.library.custom_op("lgrnet::depthwise_backward", mutates_args=(), device_types="cpu")
def depthwise_backward(
    x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, dout: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of its type as dout is, and of weight and bias, in float32."""
    _check(x, weight, bias, shift, height, width)
    if dout.shape != x.shape or dout.dtype != x.dtype:
        raise ValueError(
            f"dout is {dout.dtype} of shape {tuple(dout.shape)}, expected that of x, {x.dtype} of {tuple(x.shape)}"
        )
    if x.numel() == 0:
        return tuple(torch.zeros_like(t) for t in (x, weight, bias))
    gradients = [torch.empty_like(t) for t in (x, weight, bias)]
    tensors = (x, shift, weight, bias, dout, *gradients)
    sizes, bfloat16 = (len(x), height, width, x.shape[2]), x.dtype == torch.bfloat16
    function = kernel("lgrnet_depthwise_backward", 8, 5, c_int)
    function(*map(address, tensors), *sizes, bfloat16, torch.get_num_threads())
    return tuple(gradients)


@depthwise_forward.register_fake
def _(x, weight, bias, shift, height, width):
    return torch.empty_like(x)


@depthwise_backward.register_fake
def _(x, weight, bias, shift, dout, height, width):
    return tuple(torch.empty_like(t) for t in (x, weight, bias))


def _remember(ctx, inputs, output) -> None:
    *tensors, ctx.height, ctx.width = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, dout):
    refuse_second_derivatives("depthwise convolution")
    x, *others = (None if t is None else t.contiguous() for t in ctx.saved_tensors)  # hooks may lay them out anew
    dtype, shifted = x.dtype, ctx.needs_input_grad[3]
    if shifted:  # a sum of rounded numbers would lose digits
        x, dout = x.float(), dout.float()
    dx, *gradients = depthwise_backward(x, *others, dout.contiguous(), ctx.height, ctx.width)
    return dx.to(dtype), *gradients, dx.sum((0, 1)) if shifted else None, None, None


depthwise_forward.register_autograd(_backward, setup_context=_remember)


def _check(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, height: int, width: int) -> None:
    """The kernel reads and writes where the sizes and types say: wrong ones would be memory of others."""
    if x.dtype not in TOKENS:
        raise ValueError(f"x is {x.dtype}, expected {' or '.join(map(str, TOKENS))}")
    channels = x.shape[2]
    found = (weight.numel(), len(bias), channels if shift is None else len(shift))
    if min(height, width) < 0 or height * width != x.shape[1] or found != (9 * channels, channels, channels):
        shapes = ", ".join(str(None if t is None else tuple(t.shape)) for t in (x, weight, bias, shift))
        raise ValueError(
            f"x, weight, bias and shift have shapes {shapes}; expected [B, {height} * {width}, C], [C, 1, 3, 3], [C] "
            "and [C] or None"
        )
