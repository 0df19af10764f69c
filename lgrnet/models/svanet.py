"""SvANet (Dai et al., IEEE TNNLS 2025): small medical objects in still images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from lgrnet.draws import keyed_seed
from lgrnet.layers.assemble_former import AssembleFormer
from lgrnet.layers.atrous_pyramid import AtrousPyramid
from lgrnet.layers.monte_carlo import MonteCarloBottleneck, channel_attention
from lgrnet.layers.scale_variant import GuidancePath
from lgrnet.models.deeplabv3 import enlarged
from lgrnet.models.link_decoder import LinkDecoder

STAGES = 5
"""Maps of the encoder, at strides 2 .. 32."""
MIN_GRID = 4
GRID_DIVISOR = 4
DROP_GUIDANCE = 0.05
"""Probability that what the second branch says is dropped; every further branch adds as much."""


class SvANet(nn.Module):
    """Refined branches of every stage, guidance from fine to coarse, a link decoder; goes into PerFrame.

    The published model is `PerFrame(SvANet(ResNetBackbone()), decision="softmax")`, with frames in 0..1 that no mean
    and deviation normalise: pixel_mean (0, 0, 0), pixel_std (1, 1, 1).

    backbone              maps frames to res1 .. res5 at strides 2 .. 32, and knows their `channels`
    num_classes           channels of the logits, background included
    image_size            side of the frames that the model is made for (release: resize_shape); the grids of
                          scale-variant attention follow from it, not from the frames that come
    output_size           side of the square logits (published: image_size); None: the size of the frames, which is the
                          same for frames of image_size. A prediction resizes the square to the frames
    first_stage           the first stage (1 .. 4) with a branch; the output is fused at its stride
    last_stage            the last stage (4 or 5) with a branch. With 5 (release: fg_for_head) the decoder starts from
                          the deepest branch, not from the stage as it is, and that branch takes the place of the
                          atrous pyramid in what is fused. The pyramid (`context`) then computes nothing. Its weights
                          are in the model all the same, as in the release's: counted, in the state dict, never trained
    bottleneck            False: branches are the stages as they are, without bottleneck and AssembleFormer
    bottleneck_attention  "monte_carlo", "squeeze" or "none", in each bottleneck
    branch_depths         attention blocks of the AssembleFormer behind the bottleneck of each stage from 1 to
                          last_stage; None at a stage: none there
    branch_attention      channel attention in these: "monte_carlo", "squeeze" or "none"
    guidance              False: no branch speaks to another
    gate                  of the guidance: "scale_variant", "source", "average", "max" or "none"
    link                  of the decoder: "concatenate", "add"; "none": no decoder, branches are its output
    link_depth            attention blocks in each step of the decoder; None: no AssembleFormer there
    link_attention        channel attention in these, as branch_attention
    pool_sizes, shuffle   of Monte Carlo attention
    mask_seed             of what the release draws once per run: which cells belong to which scale. Only training reads
                          it; repeats of a training have their own (configs/svanet: train.seed)

    Raises ValueError for words that are not in these lists, for depths that do not fit, and for a stage out of range.
    """

    mask_stride = 1
    stride = 32

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int = 2,
        image_size: int = 512,
        output_size: int | None = None,
        first_stage: int = 1,
        last_stage: int = STAGES - 1,
        bottleneck: bool = True,
        bottleneck_attention: str = "monte_carlo",
        branch_depths: Sequence[int | None] = (2, 2, 2, 2),
        branch_attention: str = "none",
        guidance: bool = True,
        gate: str = "scale_variant",
        link: str = "concatenate",
        link_depth: int | None = 2,
        link_attention: str = "none",
        pool_sizes: Sequence[int] = (1, 2, 3),
        shuffle: bool = True,
        mask_seed: int = 0,
    ):
        super().__init__()
        _check_stages(backbone.channels, first_stage, last_stage, branch_depths)
        channels = list(backbone.channels.values())[first_stage - 1 :]
        widths = channels[: last_stage - first_stage + 1]
        inner, former, linked = (
            channel_attention(kind, pool_sizes, shuffle)
            for kind in (bottleneck_attention, branch_attention, link_attention)
        )
        self.backbone, self.first_stage, self.output_size = backbone, first_stage, output_size
        self.context = AtrousPyramid(channels[-1])
        self.deepest_branch = last_stage == STAGES
        self.context.requires_grad_(not self.deepest_branch)
        refined = zip(widths, branch_depths[first_stage - 1 :], strict=True)
        self.branches = nn.ModuleList(Branch(c, inner, d, former) if bottleneck else nn.Identity() for c, d in refined)
        grids = [attention_grid(image_size, stage) for stage in range(first_stage, last_stage + 1)]
        self.guidance = CrossScaleGuidance(widths, grids, gate, mask_seed) if guidance else None
        self.decoder = None if link == "none" else LinkDecoder(channels, link, link_depth, linked)
        fused = sum(channels) if self.deepest_branch else sum(widths) + self.context.channels
        self.classifier = nn.Conv2d(fused, num_classes, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised frames [batch, 3, H, W] -> logits [batch, num_classes, H, W], or output_size on both sides"""
        *stages, deepest = list(self.backbone(frames).values())[self.first_stage - 1 :]
        if self.deepest_branch:
            *maps, deepest = self._refined([*stages, deepest])
            head = deepest
        else:
            head = self.context(deepest)
            maps = self._refined(stages)
        if self.decoder is not None:
            maps = self.decoder(maps, deepest)
        return enlarged(self.classifier(_fused([*maps, head])), frames, self.output_size)

    def _refined(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Stages [batch, C_i, h_i, w_i] -> their branches after guidance, in the same shapes"""
        maps = [branch(stage) for branch, stage in zip(self.branches, stages, strict=True)]
        return maps if self.guidance is None else self.guidance(maps)


class Branch(nn.Module):
    """What refines one stage: a bottleneck and an AssembleFormer (release: FGBottleneck).

    inner, former  make the channel attention of the two for a number of channels
    depth          attention blocks of the AssembleFormer; None: no AssembleFormer
    """

    def __init__(
        self,
        channels: int,
        inner: Callable[[int], nn.Module],
        depth: int | None = 2,
        former: Callable[[int], nn.Module] = nn.Identity,
    ):
        super().__init__()
        self.bottleneck = MonteCarloBottleneck(channels, inner)
        self.former = nn.Identity() if depth is None else AssembleFormer(channels, depth, former(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, C, h, w] -> the same shape"""
        return self.former(self.bottleneck(x))


class CrossScaleGuidance(nn.Module):
    """Every branch is added to every coarser one, through a `GuidancePath`.

    The sums are made in order, so what a branch passes on contains what it got from finer ones. In training a path is
    dropped for single frames (stochastic depth): with probability 0, 0.05, 0.1 from the first, second, third branch.
    From the fourth, which speaks only where there is a fifth, it is 0.15 by the same rule; no published number shows
    that.

    channels  of the branches, finest first, each at half the size of the one before
    grids     of scale-variant attention towards each branch
    gate      of every path
    seed      of what paths draw once
    """

    def __init__(self, channels: Sequence[int], grids: Sequence[int], gate: str = "scale_variant", seed: int = 0):
        super().__init__()
        self.paths, self.drops = nn.ModuleDict(), nn.ModuleDict()
        for source, target in _pairs(len(channels)):
            name = f"{source}_to_{target}"
            own_seed = keyed_seed(seed, "scales of cells", source, target)
            ends = channels[source], channels[target], target - source
            self.paths[name] = GuidancePath(*ends, gate, grids[target], own_seed)
            self.drops[name] = StochasticDepth(DROP_GUIDANCE * source, "row")

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        """branches, finest first, each [batch, C_i, h_i, w_i] -> the same shapes"""
        maps = list(branches)
        for source, target in _pairs(len(maps)):
            name = f"{source}_to_{target}"
            maps[target] = maps[target] + self.drops[name](self.paths[name](maps[source]))
        return maps


def attention_grid(image_size: int, stage: int) -> int:
    """Cells on a side of the grid towards the branch of a stage (1 .. 5): a quarter of its map, at least 4."""
    return max(image_size // 2**stage // GRID_DIVISOR, MIN_GRID)


def _check_stages(levels: Iterable[str], first: int, last: int, depths: Sequence[int | None]) -> None:
    levels = list(levels)
    if len(levels) != STAGES:
        raise ValueError(f"the backbone has {', '.join(levels)}; SvANet needs res1..res{STAGES}")
    if not 1 <= first < STAGES or last not in (STAGES - 1, STAGES) or len(depths) != last:
        raise ValueError(
            f"first_stage is {first}, last_stage is {last} and branch_depths {tuple(depths)}; expected a first stage "
            f"from 1 to {STAGES - 1}, a last stage of {STAGES - 1} or {STAGES}, and a depth or None for each of the "
            "stages 1 to last_stage"
        )


def _pairs(count: int) -> Iterator[tuple[int, int]]:
    return ((source, target) for source in range(count) for target in range(source + 1, count))


def _fused(maps: Sequence[Tensor]) -> Tensor:
    """Maps [batch, C_i, h_i, w_i], finest first -> [batch, sum of C_i, h, w] at the size of the first"""
    first, *rest = maps
    options = {"size": first.shape[-2:], "mode": "bilinear", "align_corners": True}
    return torch.cat([first, *(F.interpolate(x, **options) for x in rest)], dim=1)
