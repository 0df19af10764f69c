"""Sine position embeddings over space and time (Carion et al., DETR, arXiv 2005.12872, section A.4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPSILON = 1e-6


def sine_axis(length: int, channels: int, device: torch.device | None = None, part: slice = slice(None)) -> Tensor:
    """Sines and cosines, interleaved, of the places 1..length scaled to (0, 2 pi], or `part` of them: [n, channels]."""
    places = torch.arange(1, length + 1, dtype=torch.float32, device=device)[part] / (length + EPSILON) * (2 * math.pi)
    pairs = torch.arange(channels, dtype=torch.float32, device=device).div(2, rounding_mode="floor")
    angles = places[:, None] / 10000 ** (2 * pairs / channels)
    return torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), dim=-1).flatten(1)


def sine_time(
    num_frames: int, channels: int, device: torch.device | None = None, frames: slice = slice(None)
) -> Tensor:
    """Positions of the frames of a clip: [T, channels] of `frames`, or of all."""
    return sine_axis(num_frames, channels, device, frames)


def sine_space(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Positions in a map, first the channels of y, then those of x: [height, width, channels]."""
    y = sine_axis(height, channels // 2, device)[:, None].expand(-1, width, -1)
    x = sine_axis(width, channels // 2, device)[None].expand(height, -1, -1)
    return torch.cat((y, x), dim=-1)


def sine_space_time(
    num_frames: int,
    height: int,
    width: int,
    channels: int,
    device: torch.device | None = None,
    frames: slice = slice(None),
) -> Tensor:
    """Positions in a clip of `num_frames`, space plus time: [T, height, width, channels] of `frames`, or of all."""
    times = sine_time(num_frames, channels, device, frames)
    return sine_space(height, width, channels, device) + times[:, None, None]
