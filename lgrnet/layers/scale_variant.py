"""Cross-scale guidance of SvANet: a finer branch speaks to a coarser one, gated by all scales on the way.

Dai et al., TNNLS 2025: scale-variant attention (SvAttn).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgrnet.layers.conv_unit import ConvPair

GATES = ("scale_variant", "source", "average", "max", "none")
"""Kinds of gates of a `GuidancePath`."""


class ScaleDraw(NamedTuple):
    """One draw of scale-variant attention.

    cells   [grid * grid] the shuffled order of the cells
    scales  scale j reads the cells that belong to number scales[j]
    """

    cells: Tensor
    scales: Sequence[int]


class ScaleVariantAttention(nn.Module):
    """A gate for each channel, from maps of several scales pooled to one grid (paper: SvAttn).

    In evaluation it is the sigmoid of the mean over scales and cells of the projected maps. In training every cell of
    the grid is read at one scale only, and the mean is over cells. Which cells belong together is fixed when the module
    is made; each call shuffles the cells and the scales, for the whole batch.

    The release keeps the fixed assignment in no state dict, so a resumed run draws it anew. Here it follows from
    `seed` alone and is a buffer that is not saved: released weights load strictly, and a resumed run has it again.
    The shuffles come from PyTorch's global CPU generator. `draw` makes them; an instance's `draw` may be replaced to
    force them.

    inputs   channels of the maps, finest first
    outputs  channels of the gate
    grid     maps are pooled to grid x grid cells, by overlapping windows where the grid does not divide the map
    seed     of the assignment of cells to scales
    """

    def __init__(self, inputs: Sequence[int], outputs: int, grid: int, seed: int = 0):
        super().__init__()
        self.grid = grid
        self.squeezes = nn.ModuleList(nn.Conv2d(channels, outputs, 1) for channels in inputs)
        generator = torch.Generator("cpu").manual_seed(seed)
        scale_of_cell = torch.randint(len(inputs), (grid * grid,), generator=generator, device="cpu")
        self.register_buffer("scale_of_cell", scale_of_cell, persistent=False)

    def draw(self) -> ScaleDraw:
        """The random choices of one call."""
        cells = torch.randperm(self.grid * self.grid, device="cpu")
        return ScaleDraw(cells, torch.randperm(len(self.squeezes), device="cpu").tolist())

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps, each [batch, C_scale, h, w] of its own size -> gate [batch, outputs, 1, 1] in 0..1"""
        pooled = [F.adaptive_avg_pool2d(x, self.grid) for x in maps]  # [batch, C_scale, grid, grid]
        projected = [squeeze(x) for squeeze, x in zip(self.squeezes, pooled, strict=True)]
        if self.training:
            draw = self.draw()
            scale = self.scale_of_cell[draw.cells.to(self.scale_of_cell.device)].view(self.grid, self.grid)
            mixture = sum(x * (scale == number) for x, number in zip(projected, draw.scales, strict=True))
        else:
            mixture = sum(projected) / len(projected)
        return mixture.mean((2, 3), keepdim=True).sigmoid()


class PooledGate(nn.Module):
    """A gate for each channel from the global pools of maps: what the release has besides scale-variant attention.

    As published the projections are averaged in evaluation and summed in training.

    inputs    channels of the maps that are read; further maps are not
    outputs   channels of the gate
    greatest  True: the greatest value of a map describes it, False: its mean
    """

    def __init__(self, inputs: Sequence[int], outputs: int, greatest: bool = False):
        super().__init__()
        self.squeezes = nn.ModuleList(nn.Conv2d(channels, outputs, 1) for channels in inputs)
        self.greatest = greatest

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps, each [batch, C_scale, h, w] of its own size -> gate [batch, outputs, 1, 1] in 0..1"""
        pool = Tensor.amax if self.greatest else Tensor.mean
        read = zip(self.squeezes, maps[: len(self.squeezes)], strict=True)
        parts = [squeeze(pool(x, (2, 3), keepdim=True)) for squeeze, x in read]
        return (sum(parts) if self.training else sum(parts) / len(parts)).sigmoid()


class GuidancePath(nn.Module):
    """From a branch to a coarser one: halvings of the map, then a gate that has seen every scale (release: CSLayer).

    source, target  channels of the two branches
    halvings        how many times smaller the target's map is, as a power of two; at least 1
    gate            "scale_variant"; "average" or "max" (of all scales, globally pooled); "source" (of the source map
                    alone, averaged); "none"
    grid, seed      of scale-variant attention

    Raises ValueError for another gate.
    """

    def __init__(
        self, source: int, target: int, halvings: int, gate: str = "scale_variant", grid: int = 4, seed: int = 0
    ):
        super().__init__()
        if gate not in GATES:
            raise ValueError(f"gate is {gate!r}, expected one of {', '.join(GATES)}")
        widths = [source] * halvings + [target]
        self.steps = nn.ModuleList(ConvPair(a, b, stride=2) for a, b in pairwise(widths))
        self.gate = None
        if gate == "scale_variant":
            self.gate = ScaleVariantAttention(widths, target, grid, seed)
        elif gate != "none":
            self.gate = PooledGate(widths[:1] if gate == "source" else widths, target, greatest=gate == "max")

    def forward(self, x: Tensor) -> Tensor:
        """[batch, source, h, w] -> [batch, target, h / 2^halvings, w / 2^halvings]"""
        maps = [x]
        for step in self.steps:
            maps.append(step(maps[-1]))
        return maps[-1] if self.gate is None else maps[-1] * self.gate(maps)
