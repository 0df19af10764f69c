"""Monte Carlo attention of SvANet: squeeze and excitation of a random part of the map (Dai et al., TNNLS 2025).

Ordinary squeeze and excitation describes a map by its mean. In training this attention describes it by the mean of a
random set of positions: a ninth, a quarter or all of them. In evaluation it is squeeze and excitation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from lgrnet.layers.conv_unit import ConvUnit, make_divisible

CHANNEL_ATTENTIONS = ("monte_carlo", "squeeze", "none")
"""Kinds of `channel_attention`."""


class PoolDraw(NamedTuple):
    """One draw of Monte Carlo attention.

    size   the map is pooled to size x size cells
    cell   the cell that describes it, 0 .. size * size - 1 in row-major order
    order  [h * w] the positions of the map before pooling, in their shuffled order; None: as they are
    """

    size: int
    cell: int = 0
    order: Tensor | None = None


class MonteCarloAttention(nn.Module):
    """Scales the channels of a map by a gate from a pooled description of it (paper: MCAttn; release: MoCAttention).

    In training each call draws, for the whole batch: a pool size k, an order of the positions, and one of k x k cells;
    the description is the mean over that cell of the shuffled map. All draws come from PyTorch's global CPU generator,
    so they follow its seed on any device. `draw` makes them; an instance's `draw` may be replaced to force them.

    channels    of the map; max(channels / 4 in steps of 8, 32) in between
    pool_sizes  the k to draw from
    shuffle     False: cells are of neighbouring positions
    """

    def __init__(self, channels: int, pool_sizes: Sequence[int] = (1, 2, 3), shuffle: bool = True):
        super().__init__()
        if not pool_sizes or min(pool_sizes) < 1:
            raise ValueError(f"pool_sizes are {tuple(pool_sizes)}, expected at least one size, each 1 or more")
        hidden = attention_width(channels)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.pool_sizes, self.shuffle = tuple(pool_sizes), shuffle

    def draw(self, positions: int) -> PoolDraw:
        """The random choices of one call on maps of h * w = `positions`."""
        size = self.pool_sizes[int(torch.randint(len(self.pool_sizes), (), device="cpu"))]
        if size == 1:  # the mean over all positions knows no order
            return PoolDraw(size)
        order = torch.randperm(positions, device="cpu") if self.shuffle else None
        return PoolDraw(size, int(torch.randint(size * size, (), device="cpu")), order)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, C, h, w] -> the same shape"""
        description = self._sampled(x) if self.training else x.mean((2, 3), keepdim=True)  # [batch, C, 1, 1]
        return x * self.expand(self.reduce(description).relu()).sigmoid()

    def _sampled(self, x: Tensor) -> Tensor:
        draw = self.draw(x.shape[2] * x.shape[3])
        if draw.order is not None:
            x = x.flatten(2).index_select(2, draw.order.to(x.device)).view_as(x)
        row, column = divmod(draw.cell, draw.size)
        return F.adaptive_avg_pool2d(x, draw.size)[..., row, None, column, None]


class MonteCarloBottleneck(nn.Module):
    """Residual bottleneck that widens: 1x1, 3x3, channel attention, 1x1; no ReLU after the sum.

    Paper: MCBottleneck; release: FGBottleneck, without its transformer.

    attention  makes the attention for a number of channels
    expansion  how many times wider the inside is
    """

    def __init__(
        self, channels: int, attention: Callable[[int], nn.Module] = MonteCarloAttention, expansion: float = 2.0
    ):
        super().__init__()
        hidden = make_divisible(channels * expansion, 8)
        self.expand = ConvUnit(channels, hidden)
        self.spatial = ConvUnit(hidden, hidden, 3)
        self.attention = attention(hidden)
        self.project = ConvUnit(hidden, channels, activation="none")

    def forward(self, x: Tensor) -> Tensor:
        """[batch, C, h, w] -> the same shape"""
        return x + self.project(self.attention(self.spatial(self.expand(x))))


def attention_width(channels: int) -> int:
    """Channels between the two convolutions of a channel attention."""
    return max(make_divisible(channels // 4, 8), 32)


def channel_attention(
    kind: str, pool_sizes: Sequence[int] = (1, 2, 3), shuffle: bool = True
) -> Callable[[int], nn.Module]:
    """What makes a channel attention for a number of channels.

    kind  "monte_carlo", "squeeze" (squeeze and excitation, no draws) or "none"; the other arguments are of the first

    Raises ValueError for another kind.
    """
    if kind not in CHANNEL_ATTENTIONS:
        raise ValueError(f"channel attention is {kind!r}, expected one of {', '.join(CHANNEL_ATTENTIONS)}")
    if kind == "monte_carlo":
        return partial(MonteCarloAttention, pool_sizes=pool_sizes, shuffle=shuffle)
    return _squeeze if kind == "squeeze" else nn.Identity


def _squeeze(channels: int) -> SqueezeExcitation:
    return SqueezeExcitation(channels, attention_width(channels))
