"""Selective scan over a grid of tokens, in any number of orders at once.

Legend: B clips, L tokens, D channels, G directions, R rank of the time step, N states per channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lgrnet.ops import gpu
from lgrnet.ops.backends import Backend, check_device, check_tensors, choose
from lgrnet.ops.cpu import cannot_run
from lgrnet.ops.scan.cpu import MOST_STATES, selective_scan_cpu
from lgrnet.ops.scan.peers import selective_scan_mamba_ssm
from lgrnet.ops.scan.reference import selective_scan_reference

__all__ = ["selective_scan"]

BACKENDS = {
    "cpu": Backend(selective_scan_cpu, cannot_run),
    "triton": Backend(gpu.lazily("scan", "selective_scan_triton"), gpu.cannot_run),
    "reference": Backend(selective_scan_reference),
}
PEERS = {"mamba_ssm": selective_scan_mamba_ssm}


def selective_scan(
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
    *,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Scans the tokens in each of G orders, and returns the sum of the results in grid order.

    For direction g and i = 0..L-1, with p = order[g, i] (Gu and Dao, "Mamba", arXiv 2312.00752, Algorithm 2):

        delta_i = softplus(dt_weight[g] dt[p, g] + dt_bias[g])
        h_i     = exp(delta_i A[g]) h_{i-1} + delta_i x[p] B[p, g]
        y[p]   += <C[p, g], h_i> + skip[g] x[p]

    x              [B, L, D] in grid order
    dt             [B, L, G, R] in grid order
    B, C           [B, L, G, N] in grid order
    dt_weight      [G, D, R]
    dt_bias, skip  [G, D]
    A              [G, D, N], negative
    order          [G, L] integer, each row a permutation of 0..L-1
    initial_state  [B, G, D, N], the state before the first token; zeros if None
    return_state   return (y, state) with state [B, G, D, N] after the last token
    backend        "auto" takes the fastest of ours that can; a name forces it: "cpu" (compiled, float32 inside),
                   "triton" (CUDA, float32 inside, does not check that order is a permutation), "reference", or
                   "mamba_ssm": mamba-ssm, without initial_state and float64

    Returns y [B, L, D] in the type of x; the state is kept in float32 (float64 for float64 input).
    Raises ValueError for shapes, types or devices that do not fit, and BackendError (a ValueError) for a backend that
    is unknown, not installed, or cannot do this.
    """
    _check(x, dt, B, C, dt_weight, dt_bias, A, skip, order, initial_state)
    if backend == "auto" and max(A.shape[-1], dt.shape[-1]) > MOST_STATES:
        backend = "reference"  # more than kernels keep at hand
    scan = choose(BACKENDS, backend, x, PEERS)
    return scan(x, dt, B, C, dt_weight, dt_bias, A, skip, order, initial_state, return_state)


def _check(x, dt, B, C, dt_weight, dt_bias, A, skip, order, initial_state) -> None:
    if x.ndim != 3 or A.ndim != 3 or dt.ndim != 4:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, A {tuple(A.shape)}, dt {tuple(dt.shape)}; "
            "expected [B, L, D], [G, D, N] and [B, L, G, R]"
        )
    (batch, length, dim), (directions, _, states), rank = x.shape, A.shape, dt.shape[-1]
    expected = {
        "dt": (dt, (batch, length, directions, rank)),
        "B": (B, (batch, length, directions, states)),
        "C": (C, (batch, length, directions, states)),
        "dt_weight": (dt_weight, (directions, dim, rank)),
        "dt_bias": (dt_bias, (directions, dim)),
        "A": (A, (directions, dim, states)),
        "skip": (skip, (directions, dim)),
        "order": (order, (directions, length)),
    }
    if initial_state is not None:
        expected["initial_state"] = (initial_state, (batch, directions, dim, states))
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
    check_tensors(
        x=x, dt=dt, B=B, C=C, dt_weight=dt_weight, dt_bias=dt_bias, A=A, skip=skip, initial_state=initial_state
    )
    check_device("order", order, "x", x)
    if order.is_floating_point() or order.is_complex() or order.dtype == torch.bool:
        raise ValueError(f"order is {order.dtype}, expected an integer type")
