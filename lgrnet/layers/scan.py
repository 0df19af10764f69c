"""The selective scan block over the grid of frames and frame queries (LGRNet's global block)."""

from __future__ import annotations

import copy
import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgrnet.layers.attention import FeedForward
from lgrnet.layers.checks import at_least
from lgrnet.layers.hilbert import hilbert_order, zigzag_order
from lgrnet.layers.norm import LayerNorm
from lgrnet.layers.position import sine_time
from lgrnet.ops import selective_scan
from lgrnet.ops.backends import exporting, transformed

ORDERS = {"hilbert": hilbert_order, "zigzag": zigzag_order}


def _there_and_back(name: str, frames: int, queries: int, device: torch.device) -> Tensor:
    """The curve and its reverse, [2, frames * queries] int32."""
    # A tensor of inference mode could not be kept for a training step.
    with torch.inference_mode(False):
        curve = torch.from_numpy(ORDERS[name](frames, queries).copy())
        return torch.stack((curve, curve.flip(0))).to(device)


_kept = cache(_there_and_back)
"""For good, 8 bytes a place: layers and steps share one copy, and a CUDA graph goes on reading where it lay."""


class GridScan(nn.Module):
    """Selective scan of a (frames, queries) grid along a curve and back (after VMamba's SS2D, arXiv 2401.10166).

    dim     channels C; the scan runs on D = expand * C
    states  N, states per channel
    order   "hilbert" or "zigzag"
    backend of `lgrnet.ops.selective_scan`

    log_decay [2 D, N] holds log(-A), skip [2 D] the direct path; direction 0 is the curve, direction 1 its reverse.
    """

    def __init__(self, dim: int, states: int = 16, order: str = "hilbert", expand: int = 2, backend: str = "auto"):
        super().__init__()
        if order not in ORDERS:
            raise ValueError(f"scan order is {order!r}, expected one of {', '.join(ORDERS)}")
        at_least(1, states=states, expand=expand)
        inner, rank, directions = expand * dim, math.ceil(dim / 16), 2
        self.order, self.states, self.rank, self.backend = order, states, rank, backend
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.input_weight = nn.Parameter(torch.empty(directions, rank + 2 * states, inner))
        self.dt_weight = nn.Parameter(torch.empty(directions, inner, rank))
        self.dt_bias = nn.Parameter(torch.empty(directions, inner))
        self.log_decay = nn.Parameter(torch.empty(directions * inner, states))
        self.skip = nn.Parameter(torch.ones(directions * inner))
        self.out_norm = LayerNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Mamba's initialisation: states decay at rates 1..N, time steps are log-uniform in 0.001..0.1."""
        for weight in self.input_weight:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        nn.init.uniform_(self.dt_weight, -(self.rank**-0.5), self.rank**-0.5)
        steps = torch.exp(torch.empty_like(self.dt_bias).uniform_(math.log(1e-3), math.log(1e-1))).clamp(min=1e-4)
        self.dt_bias.copy_(steps + torch.log(-torch.expm1(-steps)))
        self.log_decay.copy_(torch.arange(1, self.states + 1).log().expand_as(self.log_decay))
        nn.init.ones_(self.skip)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, N, C] -> [B, T, N, C]"""
        batch, frames, queries, _ = x.shape
        x, gate = self.in_proj(x).chunk(2, dim=-1)  # [B, T, N, D]
        x = F.silu(self.conv(x.permute(0, 3, 1, 2))).flatten(2).transpose(1, 2)  # [B, L, D]
        directions, inner = self.dt_bias.shape
        mixed = F.linear(x, self.input_weight.flatten(0, 1)).unflatten(2, (directions, -1))
        dt, weights_in, weights_out = mixed.split((self.rank, self.states, self.states), dim=-1)
        decay = -torch.exp(self.log_decay.float()).unflatten(0, (directions, inner))
        # Under fake tensors, as in an export, one without numbers is made, which must not be kept.
        curves = _there_and_back if exporting() or transformed() else _kept
        orders = curves(self.order, int(frames), int(queries), x.device)
        skip = self.skip.unflatten(0, (directions, inner))
        weights = (self.dt_weight, self.dt_bias, decay, skip)
        y = selective_scan(x, dt, weights_in, weights_out, *weights, orders, backend=self.backend)
        y = self.out_norm(y.unflatten(1, (frames, queries))) * F.silu(gate)
        return self.out_proj(y)


class GridScanBlock(nn.Module):
    """LayerNorm(queries + scan(queries + positions))."""

    def __init__(self, dim: int, states: int, order: str, backend: str = "auto"):
        super().__init__()
        self.scan = GridScan(dim, states, order, backend=backend)
        self.norm = LayerNorm(dim)

    def forward(self, queries: Tensor, position: Tensor) -> Tensor:
        """queries [B, T, N, C], position broadcast to it -> [B, T, N, C]"""
        return self.norm(queries + self.scan(queries + position))


class FrameQueryMixer(nn.Module):
    """`depth` scan blocks and a feed-forward block: the frame queries of a whole clip exchange what they hold."""

    def __init__(
        self,
        dim: int,
        depth: int = 3,
        states: int = 16,
        order: str = "hilbert",
        hidden: int = 2048,
        backend: str = "auto",
    ):
        super().__init__()
        at_least(0, depth=depth)
        first = GridScanBlock(dim, states, order, backend)
        self.layers = nn.ModuleList(copy.deepcopy(first) for _ in range(depth))
        self.ffn = FeedForward(dim, hidden)

    def forward(self, queries: Tensor, position: Tensor) -> Tensor:
        """queries [B, T, N, C] of the whole clip, position [N, C] of the queries -> [B, T, N, C]"""
        time = sine_time(queries.shape[1], queries.shape[-1], queries.device)[:, None].to(position.dtype)
        for layer in self.layers:
            queries = layer(queries, position + time)
        return self.ffn(queries)
