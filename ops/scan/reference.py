"""The selective scan in plain torch: the truth that every kernel is tested against."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 512
"""Tokens whose states are held at once: bounds the memory without gradients, changes no value."""


def selective_scan_reference(
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
    """See `lgrnet.ops.selective_scan`."""
    known = torch.amp.is_autocast_available(x.device.type)  # not of the meta device
    with torch.autocast(x.device.type, enabled=False) if known else nullcontext():
        return _scan(x, dt, B, C, dt_weight, dt_bias, A, skip, order, initial_state, return_state)


def _scan(x, dt, B, C, dt_weight, dt_bias, A, skip, order, initial_state, return_state):
    dtype = torch.promote_types(x.dtype, torch.float32)
    order = order.long()
    rows = torch.arange(order.shape[0], device=order.device)[:, None].expand_as(order)
    u = x.to(dtype)[:, order]  # [B, G, L, D]
    step, weights_in, weights_out = (t.to(dtype)[:, order, rows] for t in (dt, B, C))  # [B, G, L, R | N | N]
    delta = torch.einsum("bglr,gdr->bgld", step, dt_weight.to(dtype)) + dt_bias.to(dtype)[:, None]
    delta = F.softplus(delta)
    state = A.new_zeros(x.shape[0], *A.shape, dtype=dtype) if initial_state is None else initial_state.to(dtype)

    outputs = []
    for start in range(0, x.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        decay = torch.exp(delta[:, :, part, :, None] * A.to(dtype)[:, None])  # [B, G, l, D, N]
        drive = (delta * u)[:, :, part, :, None] * weights_in[:, :, part, None]
        states = []
        for decay_i, drive_i in zip(decay.unbind(2), drive.unbind(2), strict=True):
            state = torch.addcmul(drive_i, decay_i, state)
            states.append(state)
        outputs.append(torch.einsum("bgldn,bgln->bgld", torch.stack(states, 2), weights_out[:, :, part]))
    y = (torch.cat(outputs, 2) if outputs else torch.zeros_like(u)) + skip.to(dtype)[:, None] * u

    merged = torch.zeros_like(x, dtype=dtype)
    for g in range(order.shape[0]):
        merged = merged.index_add(1, order[g], y[:, g])
    merged = merged.to(x.dtype)
    return (merged, state) if return_state else merged
