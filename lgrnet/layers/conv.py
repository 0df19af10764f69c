"""Convolution with group norm, per frame or with the statistics of a whole clip."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgrnet.layers.parts import at_least_float32


class GroupNorm(nn.GroupNorm):
    """torch's group norm, also of a single frame whose map is one pixel: its groups have several channels."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, C, h, w] -> the same shape"""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class ConvNorm(nn.Module):
    """Convolution without bias, group norm, and a ReLU on request; maps are [batch, C, h, w]."""

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int = 32, relu: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.norm = GroupNorm(groups, outputs)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, h, w] -> [batch, outputs, h, w]"""
        x = self.norm(self.conv(x))
        return F.relu(x, inplace=True) if self.relu else x


@dataclass(frozen=True)
class ClipStatistics:
    """Mean and variance of each group over the frames seen so far, both [B, groups], and the count behind them."""

    count: int
    mean: Tensor
    variance: Tensor

    def merge(self, other: ClipStatistics) -> ClipStatistics:
        """The statistics of both sets of frames together (Chan et al. 1983, the pairwise update)."""
        count = self.count + other.count
        share = other.count / count
        delta = other.mean - self.mean
        spread = self.variance * (1 - share) + other.variance * share
        return ClipStatistics(count, self.mean + delta * share, spread + delta.square() * share * (1 - share))


class ClipProjection(nn.Module):
    """1x1 convolution and a group norm whose mean and variance run over all frames of the clip.

    Two stages, so that a long video can be normalised in chunks: `project` each chunk and merge the `statistics`,
    then `normalise` each chunk with the statistics of the whole clip. `forward` does both for a clip in one piece.

    per_clip  True: the statistics run over all frames, as published, so that a frame's features depend on the others
              and on the clip's length; False: every frame has its own
    """

    def __init__(self, inputs: int, outputs: int, groups: int = 32, per_clip: bool = True):
        super().__init__()
        self.per_clip = per_clip
        if outputs % groups:
            raise ValueError(f"outputs is {outputs}, expected a multiple of groups = {groups}")
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm = GroupNorm(groups, outputs)

    def project(self, x: Tensor) -> Tensor:
        """[B, T, inputs, h, w] -> [B, T, outputs, h, w]"""
        return self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def statistics(self, projected: Tensor) -> ClipStatistics:
        """Of projected maps [B, T, outputs, h, w]."""
        # Half precision would round the statistics of a whole clip to three digits.
        grouped = at_least_float32(projected).unflatten(2, (self.norm.num_groups, -1)).transpose(1, 2).flatten(2)
        variance, mean = torch.var_mean(grouped, dim=-1, correction=0)
        return ClipStatistics(grouped.shape[-1], mean, variance)

    def normalise(self, projected: Tensor, statistics: ClipStatistics) -> Tensor:
        """Projected maps [B, T, outputs, h, w] -> the same shape."""
        per_group = projected.shape[2] // self.norm.num_groups
        inverse = torch.rsqrt(statistics.variance + self.norm.eps).repeat_interleave(per_group, dim=1)  # [B, outputs]
        scale = inverse * self.norm.weight  # [B, outputs]
        shift = self.norm.bias - statistics.mean.repeat_interleave(per_group, dim=1) * scale
        normalised = projected * scale[:, None, :, None, None] + shift[:, None, :, None, None]
        return normalised.to(self.norm.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, inputs, h, w] -> [B, T, outputs, h, w]"""
        projected = self.project(x)
        if not self.per_clip:
            return self.norm(projected.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.normalise(projected, self.statistics(projected))
