"""The selective scan compiled for the CPU: scan.cpp says how it works."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import Array, c_int, c_int64

import torch
from torch import Tensor
from torch._ops import OpOverload

from lgrnet.ops.backends import refuse_second_derivatives
from lgrnet.ops.cpu import address, kernel, library, row_step

__all__ = ["selective_scan_cpu"]

INTERVAL = 32
"""Tokens between two states that are kept for the backward pass, which computes the others again."""
MOST_STATES = 256
"""The kernel's largest N and R."""


def selective_scan_cpu(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    skip: Tensor,
    order: Tensor,
    initial_state: Tensor | None = None,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """See `lgrnet.ops.selective_scan`; computes in float32."""
    weights = map(_plain, (dt_weight, dt_bias, A, skip))
    initial = None if initial_state is None else _plain(initial_state)
    inputs = (_plain(x), *(_rows(t.float()) for t in (dt, B, C)), *weights)
    if order.dtype != torch.int32:  # what is too large stays wrong
        order = order.long().clamp(-1, torch.iinfo(torch.int32).max)
    orders = order.to(torch.int32).contiguous()
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (*inputs, initial)):
        y, state = Scan.apply(*inputs, orders, initial)
    else:
        y, state, _ = scan_forward(*inputs, orders, initial, False)
    y = y.to(x.dtype)
    return (y, state) if return_state else y


def _op(name: str) -> Callable[[Callable], OpOverload]:
    """Makes a function of CPU tensors an op of torch. One by torch.library.custom_op costs twice as much to call."""

    def register(function: Callable) -> OpOverload:
        torch.library.define(name, torch.library.infer_schema(function, mutates_args=()))
        torch.library.impl(name, "cpu", function)
        namespace, op = name.split("::")
        return getattr(getattr(torch.ops, namespace), op).default

    return register


class Scan(torch.autograd.Function):
    """The scan with its gradients. (Gradients registered with the op itself cost as much as 120 tokens.)"""

    @staticmethod
    def forward(ctx, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        *tensors, initial = inputs
        y, state, kept = scan_forward(*inputs, True)
        ctx.save_for_backward(*tensors, kept)
        ctx.has_initial = initial is not None
        ctx.set_materialize_grads(False)
        return y, state

    @staticmethod
    def backward(ctx, dy: Tensor | None, dstate: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives("scan")
        x, dt, B, C, *others = ctx.saved_tensors  # which hooks may have laid out otherwise
        tensors = (_plain(x), *map(_rows, (dt, B, C)), *(t.contiguous() for t in others))
        dy = torch.zeros_like(tensors[0]) if dy is None else dy.contiguous()
        dstate = None if dstate is None else dstate.contiguous()
        *grads, dinitial = scan_backward(*tensors, dy, dstate)
        return *grads, None, dinitial if ctx.has_initial else None


@_op("lgrnet::scan_forward")
def scan_forward(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    skip: Tensor,
    order: Tensor,
    initial: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, L, D], the last state [B, G, D, N], and what the backward pass starts from (empty unless `keep`)."""
    _check(order, A, dt)
    y, state, kept = torch.empty_like(x), _state(x, A), _checkpoints(x, A, keep)
    inputs = map(address, (x, dt, B, C, dt_weight, dt_bias, A, skip, order))
    others = map(address, (initial, y, state, kept if keep else None))
    kernel("lgrnet_scan_forward", 14, 7, c_int)(*inputs, _strides(dt, B, C), *others, *_sizes(x, dt, A))
    return y, state, kept


@_op("lgrnet::scan_backward")
def scan_backward(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    skip: Tensor,
    order: Tensor,
    kept: Tensor,
    dy: Tensor,
    dstate: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, dt, B, C, dt_weight, dt_bias, A, skip and the initial state."""
    inputs = (x, dt, B, C, dt_weight, dt_bias, A, skip)
    gradients = [*(t.new_empty(t.shape) for t in inputs), _state(x, A)]
    others = map(address, (kept, dy, dstate, *gradients))
    scan = kernel("lgrnet_scan_backward", 22, 7, c_int)
    scan(*map(address, (*inputs, order)), _strides(dt, B, C), *others, *_sizes(x, dt, A))
    return tuple(gradients)


@torch.library.register_fake("lgrnet::scan_forward")
def _(x, dt, B, C, dt_weight, dt_bias, A, skip, order, initial, keep):
    return torch.empty_like(x), _state(x, A), _checkpoints(x, A, keep)


@torch.library.register_fake("lgrnet::scan_backward")
def _(x, dt, B, C, dt_weight, dt_bias, A, skip, order, kept, dy, dstate):
    return *(t.new_empty(t.shape) for t in (x, dt, B, C, dt_weight, dt_bias, A, skip)), _state(x, A)


def _plain(t: Tensor) -> Tensor:
    """In float32, one after the other. Both questions together cost less than either answer."""
    return t if t.dtype == torch.float32 and t.is_contiguous() else t.float().contiguous()


def _state(x: Tensor, A: Tensor) -> Tensor:
    return x.new_empty(len(x), *A.shape)


def _checkpoints(x: Tensor, A: Tensor, keep: bool) -> Tensor:
    """[B, G, chunks, N, D padded to whole vectors]"""
    if not keep:
        return x.new_empty(0)
    lanes, (directions, channels, states) = library().lgrnet_lanes(), A.shape
    chunks, padded = -(-x.shape[1] // INTERVAL), -(-channels // lanes) * lanes
    return x.new_empty(len(x), directions, chunks, padded * states)


def _sizes(x: Tensor, dt: Tensor, A: Tensor) -> tuple[int, ...]:
    """B, L, D, G, R, N, the interval and the number of threads."""
    return *x.shape, A.shape[0], dt.shape[-1], A.shape[-1], INTERVAL, torch.get_num_threads()


def _rows(t: Tensor) -> Tensor:
    """dt, B or C as the kernel reads them: with any stride of tokens and directions, as parts of a projection have."""
    readable = t.stride(3) == 1 and t.stride(0) == t.shape[1] * row_step(t)
    return t if readable else t.contiguous()


def _strides(dt: Tensor, B: Tensor, C: Tensor) -> Array:
    return (c_int64 * 6)(*(step for t in (dt, B, C) for step in (row_step(t), t.stride(2))))


def _check(order: Tensor, A: Tensor, dt: Tensor) -> None:
    if not kernel("lgrnet_scan_is_order", 1, 2)(order.data_ptr(), *order.shape):
        raise ValueError(f"order is no permutation of 0..{order.shape[1] - 1} in every row; expected each token once")
    if A.shape[-1] > MOST_STATES or dt.shape[-1] > MOST_STATES:
        raise ValueError(f"{A.shape[-1]} states and rank {dt.shape[-1]}; the kernel does up to {MOST_STATES} of both")
