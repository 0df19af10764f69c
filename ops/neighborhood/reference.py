"""Neighborhood attention in plain torch: the truth that every kernel is tested against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 16
"""Frames whose keys are gathered at once where no gradient is wanted: bounds the memory, changes no value."""


def window_starts(length: int, window: int, dilation: int, device: torch.device | None = None) -> Tensor:
    """The first key of each query along an axis of `length` >= window * dilation positions: [length] int64."""
    i = torch.arange(length, device=device)
    group, place = i % dilation, i // dilation
    members = (length - group + dilation - 1) // dilation
    return group + (place - window // 2).clamp(min=0).minimum(members - window) * dilation


def window_indices(
    height: int, width: int, window: int, dilation: int, device: torch.device | None = None
) -> tuple[Tensor, int, int]:
    """The keys of each query of a (height, width) map.

    Returns indices [height * width, window ** 2] into the row-major map of (padded height, padded width), and
    these two sizes: a side shorter than window * dilation is padded to it at its end.
    """
    padded = [max(side, window * dilation) for side in (height, width)]
    steps = torch.arange(window, device=device) * dilation
    rows, columns = (
        window_starts(full, window, dilation, device)[:side, None] + steps
        for full, side in zip(padded, (height, width), strict=True)
    )
    keys = rows[:, None, :, None] * padded[1] + columns[None, :, None, :]  # [h, w, window, window]
    return keys.reshape(height * width, window * window), padded[0], padded[1]


def neighborhood_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    shapes: tuple[tuple[int, int], ...],
    window: int,
    dilation: int,
    frame_shift: int,
) -> Tensor:
    """See `lgrnet.ops.neighborhood_attention`."""
    if q.numel() == 0:
        return q.clone()
    kind, exact = q.dtype, torch.promote_types(q.dtype, torch.promote_types(k.dtype, v.dtype))
    q, k, v = (t.to(exact) for t in (q, k, v))
    if frame_shift % q.shape[1]:
        k, v = (t.roll(frame_shift, dims=1) for t in (k, v))
    sizes = [h * w for h, w in shapes]
    levels = zip(shapes, *(t.split(sizes, dim=2) for t in (q, k, v)), strict=True)
    return torch.cat([_level(*level, window, dilation) for level in levels], dim=2).to(kind)


def _level(shape: tuple[int, int], q: Tensor, k: Tensor, v: Tensor, window: int, dilation: int) -> Tensor:
    """One level: q, k, v [B, T, h * w, heads, d] -> [B, T, h * w, heads, d]."""
    height, width = shape
    keys, padded_height, padded_width = window_indices(height, width, window, dilation, q.device)
    if torch.is_grad_enabled() or q.shape[1] <= CHUNK:
        return _attend(q, k, v, shape, keys, padded_height, padded_width)
    chunks = zip(*(t.split(CHUNK, dim=1) for t in (q, k, v)), strict=True)
    return torch.cat([_attend(*chunk, shape, keys, padded_height, padded_width) for chunk in chunks], dim=1)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, shape: tuple[int, int], keys: Tensor, padded_height: int, padded_width: int
) -> Tensor:
    if (padded_height, padded_width) != shape:
        k, v = (_pad(t, shape, padded_height, padded_width) for t in (k, v))
    near_k, near_v = (
        t.transpose(2, 3).index_select(3, keys.flatten()).unflatten(3, keys.shape)  # [B, T, heads, h * w, keys, d]
        for t in (k, v)
    )
    weights = (q.transpose(2, 3).unsqueeze(-2) @ near_k.transpose(-1, -2)).softmax(-1)
    return (weights @ near_v).squeeze(-2).transpose(2, 3)


def _pad(tokens: Tensor, shape: tuple[int, int], height: int, width: int) -> Tensor:
    """Zero tokens at the bottom and right: [B, T, h * w, heads, d] -> [B, T, height * width, heads, d]."""
    grid = tokens.unflatten(2, shape)
    return F.pad(grid, (0, 0, 0, 0, 0, width - shape[1], 0, height - shape[0])).flatten(2, 3)
