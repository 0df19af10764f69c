"""The selective scan of mamba-ssm (github.com/state-spaces/mamba), for comparison: taken by name only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lgrnet.ops.backends import BackendError, importing

_TRIED = "mamba_ssm.ops.selective_scan_interface"
_INSTALL = "pip install --no-build-isolation mamba-ssm, where nvcc is"


def selective_scan_mamba_ssm(
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
    """See `lgrnet.ops.selective_scan`: mamba-ssm's CUDA kernel for CUDA tensors, its slow reference for others.

    The directions become groups of channels: mamba-ssm scans [B, G * D, L] with one B and C for each group. All is
    given in float32, in which the reference computes too.

    Raises BackendError where mamba-ssm cannot be imported, and for what it cannot do: an initial state, float64, a
    gradient through the last state.
    """
    scan = _load(x.is_cuda)
    inputs = (x, dt, B, C, dt_weight, dt_bias, A, skip)
    if initial_state is not None:
        raise _cannot("start from an initial_state")
    if any(t.dtype == torch.float64 for t in inputs):
        raise _cannot("compute in float64; it has float32")
    if return_state and torch.is_grad_enabled() and any(t.requires_grad for t in inputs):
        raise _cannot("pass a gradient through the last state; call it under torch.no_grad() for return_state")
    with torch.autocast(x.device.type, enabled=False):
        y, state = _scan(scan, *(t.float() for t in inputs), order.long())
    return (y.to(x.dtype), state) if return_state else y.to(x.dtype)


def _scan(scan: Callable, x, dt, B, C, dt_weight, dt_bias, A, skip, order) -> tuple[Tensor, Tensor]:
    """y [B, L, D] in grid order and the last state [B, G, D, N], all in float32."""
    directions, dim, _ = A.shape
    rows = torch.arange(directions, device=order.device)[:, None]
    channels = x[:, order].transpose(2, 3).flatten(1, 2)  # [B, G * D, L]
    step, weights_in, weights_out = (t[:, order, rows].transpose(2, 3) for t in (dt, B, C))  # [B, G, R | N | N, L]
    delta = torch.einsum("bgrl,gdr->bgdl", step, dt_weight).flatten(1, 2)  # [B, G * D, L]
    y, state = scan(
        channels,
        delta,
        A.flatten(0, 1),
        weights_in,
        weights_out,
        D=skip.flatten(),
        delta_bias=dt_bias.flatten(),
        delta_softplus=True,
        return_last_state=True,
    )
    y = y.unflatten(1, (directions, dim)).transpose(2, 3)  # [B, G, L, D]
    # Place p of the grid was visited as number inverse[g, p].
    inverse = order.argsort(dim=1)
    return y[:, rows, inverse].sum(1), state.unflatten(1, (directions, dim))


def _load(cuda: bool) -> Callable:
    with importing("mamba_ssm", _TRIED, _INSTALL):
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn, selective_scan_ref
    return selective_scan_fn if cuda else selective_scan_ref


def _cannot(what: str) -> BackendError:
    return BackendError(f"backend 'mamba_ssm' cannot {what}; choose auto or reference, which are lgrnet's own")
