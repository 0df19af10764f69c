"""Linear layers compiled for the CPU: projection.cpp says how it works.

A call is short beside the products of few tokens: what is asked and made on the way is as little as can be.
"""

from __future__ import annotations

from ctypes import c_int

import torch
from torch import Tensor

from lgrnet.ops.cpu import address, in_lanes, kernel, multiplies_matrices, rows_of, without_gradients
from lgrnet.ops.projection.reference import linear_reference

__all__ = ["linear_cpu"]


def linear_cpu(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor | None) -> Tensor:
    """See `lgrnet.ops.linear`."""
    if x.numel() == 0 or weight.numel() == 0:
        return linear_reference(x, weight, bias, residual, out)
    if not without_gradients((x, weight, bias, residual)):
        y = linear_forward(x, weight, bias)
        return y if residual is None else residual + y
    rows, weights = rows_of(x), rows_of(weight)
    if not in_lanes(rows, weights):
        return linear_reference(x, weight, bias, residual, out)
    out = x.new_empty((*x.shape[:-1], len(weight))) if out is None else out
    _multiply(rows, weights, out, bias, residual)
    return out


def _multiply(
    rows: Tensor,
    weight: Tensor,
    out: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    by_columns: bool = False,
) -> None:
    """Writes to `out`; `rows` and `weight` are as of `rows_of`. By columns: weight is [C, D]."""
    bias = bias if bias is None or bias.is_contiguous() else bias.contiguous()
    residual = None if residual is None else rows_of(residual)
    outputs = out.shape[-1]
    steps = (rows.stride(0), weight.stride(0), 0 if residual is None else residual.stride(0), outputs)
    sizes = (*rows.shape, outputs, *steps, out.dtype == torch.bfloat16, by_columns, multiplies_matrices())
    addresses = map(address, (rows, weight, bias, residual, out))
    kernel("lgrnet_linear", 5, 10, c_int)(*addresses, *sizes, torch.get_num_threads())


@torch.library.custom_op("lgrnet::linear_forward", mutates_args=(), device_types="cpu")
def linear_forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias, all of float32, with gradients; no size is 0."""
    _check(x, weight)
    out = x.new_empty((*x.shape[:-1], len(weight)))
    _multiply(rows_of(x), rows_of(weight), out, bias)
    return out


@torch.library.custom_op("lgrnet::linear_backward", mutates_args=(), device_types="cpu")
def linear_backward(x: Tensor, weight: Tensor, dout: Tensor, which: list[bool]) -> tuple[Tensor, Tensor]:
    """Gradients of x and of weight; of those not in `which` an empty tensor."""
    _check(x, weight)
    if dout.shape != (*x.shape[:-1], len(weight)) or dout.dtype != torch.float32:
        raise ValueError(f"dout is {tuple(dout.shape)} {dout.dtype}; expected float32 {(*x.shape[:-1], len(weight))}")
    rows, gradients = rows_of(dout), [x.new_empty(0), x.new_empty(0)]
    if which[0]:
        gradients[0] = x.new_empty(x.shape)
        _multiply(rows, rows_of(weight), gradients[0], by_columns=True)
    if which[1]:
        gradients[1] = _across(rows, rows_of(x))
    return tuple(gradients)


def _across(left: Tensor, right: Tensor) -> Tensor:
    """left^T right of [tokens, D] and [tokens, C]: [D, C]"""
    if 2 * left.shape[1] < right.shape[1]:  # the right one is copied: the smaller of the two
        return _across(right, left).T.contiguous()
    out = left.new_empty(left.shape[1], right.shape[1])
    sizes = (left.shape[1], len(left), right.shape[1], left.stride(0), right.stride(0))
    kernel("lgrnet_linear_across", 3, 5, c_int)(*map(address, (left, right, out)), *sizes, torch.get_num_threads())
    return out


@linear_forward.register_fake
def _(x, weight, bias):
    return x.new_empty((*x.shape[:-1], len(weight)))


@linear_backward.register_fake
def _(x, weight, dout, which):
    return tuple(t.new_empty(t.shape if wanted else 0) for t, wanted in zip((x, weight), which, strict=True))


def _remember(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx, dout):
    (x, weight), wanted = ctx.saved_tensors, ctx.needs_input_grad
    dbias = dout.flatten(0, -2).sum(0) if wanted[2] else None
    if torch.is_grad_enabled():  # gradients of gradients are torch's
        return dout @ weight, dout.flatten(0, -2).T @ x.flatten(0, -2), dbias
    dx, dweight = linear_backward(x, weight, dout, list(wanted[:2]))
    return dx if wanted[0] else None, dweight if wanted[1] else None, dbias


linear_forward.register_autograd(_backward, setup_context=_remember)


def _check(x: Tensor, weight: Tensor) -> None:
    """The kernel reads and writes where the sizes say: wrong ones would be memory of others."""
    if x.shape[-1] != weight.shape[1] or x.dtype != torch.float32 or weight.dtype != torch.float32:
        found = f"{tuple(x.shape)} {x.dtype} and {tuple(weight.shape)} {weight.dtype}"
        raise ValueError(f"x and weight are {found}; expected float32 [..., C] and [D, C]")
