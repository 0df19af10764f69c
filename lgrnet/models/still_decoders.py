"""Decoders of still images: from the feature maps of a backbone to one map of logits for each class.

SSFormer's own (Wang et al., MICCAI 2022), the ones that its ablation compares with, and the head that the
reproduction study measured. All take `channels`, the backbone's channels for each level from the finest (res2) to the
deepest, and `outputs`, the number of logits: K, or K + 1 with background first for a softmax. All but
ProgressiveUpsamplingDecoder end at the size of the finest level, stride 4.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Channels = Mapping[str, int]
Maps = Mapping[str, Tensor]


class ConvNormReLU(nn.Module):
    """Convolution without bias, batch norm, ReLU; starts with Kaiming's normal values for the outputs."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, h, w] -> [batch, outputs, h, w]"""
        return F.relu(self.norm(self.conv(x)))


class ProgressiveLocalityDecoder(nn.Module):
    """SSFormer's decoder: local emphasis (equation 1), then stepwise aggregation from deep to fine (equation 2).

    Every level is emphasised by two convolutions, enlarged to the finest level at once, and merged with what came
    from deeper levels, one level at a time.

    fusion   "concat": maps side by side (SSFormer-S and -L); "add": their sum (the ablation)
    dropout  of single values before the last convolution

    Raises ValueError for another fusion.
    """

    stride, mask_stride = 1, 4

    def __init__(
        self, channels: Channels, dim: int = 256, outputs: int = 1, fusion: str = "concat", dropout: float = 0.1
    ):
        super().__init__()
        _check_levels(channels, self)
        if fusion not in ("concat", "add"):
            raise ValueError(f'fusion is {fusion!r}, expected "concat" or "add"')
        self.fusion = fusion
        self.emphasis = nn.ModuleDict({level: _local_emphasis(count, dim) for level, count in channels.items()})
        inputs = 2 * dim if fusion == "concat" else dim
        self.steps = nn.ModuleDict({level: ConvNormReLU(inputs, dim) for level in list(channels)[-2::-1]})
        self.dropout = nn.Dropout(dropout)
        self.classes = nn.Conv2d(dim, outputs, 1)

    def forward(self, maps: Maps) -> Tensor:
        """maps, each [batch, C_level, h, w] -> logits [batch, outputs, H / 4, W / 4]"""
        local = _at_finest({level: emphasis(maps[level]) for level, emphasis in self.emphasis.items()})
        x = next(reversed(local.values()))
        for level, step in self.steps.items():
            x = step(torch.cat([x, local[level]], dim=1) if self.fusion == "concat" else x + local[level])
        return self.classes(self.dropout(x))


class SegFormerDecoder(nn.Module):
    """All levels projected, enlarged to the finest and fused at once (Xie et al., NeurIPS 2021); "SeD" in the ablation.

    dim              768 in SSFormer's ablation; in the study 256 for the backbones B0 and B1, 768 for the others
    dropout          before the last convolution
    channel_dropout  True: drops whole channels (the study), False: single values (SSFormer's ablation)
    """

    stride, mask_stride = 1, 4

    def __init__(
        self,
        channels: Channels,
        dim: int = 768,
        outputs: int = 1,
        dropout: float = 0.1,
        channel_dropout: bool = False,
    ):
        super().__init__()
        _check_levels(channels, self)
        self.projections = nn.ModuleDict({level: nn.Linear(count, dim) for level, count in channels.items()})
        self.fusion = ConvNormReLU(len(channels) * dim, dim)
        self.dropout = nn.Dropout2d(dropout) if channel_dropout else nn.Dropout(dropout)
        self.classes = nn.Conv2d(dim, outputs, 1)

    def forward(self, maps: Maps) -> Tensor:
        """maps, each [batch, C_level, h, w] -> logits [batch, outputs, H / 4, W / 4]"""
        projected = {}
        for level, projection in self.projections.items():
            tokens = projection(maps[level].flatten(2).transpose(1, 2))  # [batch, h * w, dim]
            projected[level] = tokens.transpose(1, 2).unflatten(2, maps[level].shape[-2:])
        enlarged = _at_finest(projected)
        return self.classes(self.dropout(self.fusion(torch.cat(_deep_first(enlarged), dim=1))))


class MultiLevelAggregationDecoder(nn.Module):
    """Two convolutions for each level, all maps side by side, one convolution (MLA of Zheng et al., CVPR 2021).

    The maps are enlarged with their corners aligned.
    """

    stride, mask_stride = 1, 4

    def __init__(self, channels: Channels, dim: int = 128, outputs: int = 1):
        super().__init__()
        _check_levels(channels, self)
        self.branches = nn.ModuleDict(
            {level: nn.Sequential(_conv3(count, dim), _conv3(dim, dim)) for level, count in channels.items()}
        )
        self.classes = nn.Conv2d(len(channels) * dim, outputs, 3, padding=1)

    def forward(self, maps: Maps) -> Tensor:
        """maps, each [batch, C_level, h, w] -> logits [batch, outputs, H / 4, W / 4]"""
        enlarged = _at_finest({level: f(maps[level]) for level, f in self.branches.items()}, align_corners=True)
        return self.classes(torch.cat(_deep_first(enlarged), dim=1))


class ProgressiveUpsamplingDecoder(nn.Module):
    """The deepest level alone, enlarged in four steps of two (PUP of Zheng et al., CVPR 2021).

    Ends at half the input's size, as in the release.

    square  True: every step makes its map a square with sides of twice the width, as published, so that logits of a
            frame that is not square are [W / 2, W / 2] and cover it squeezed; False: both sides are doubled. Square
            frames, as the published ones, have the same logits with both

    Raises ValueError for a backbone without res5.
    """

    stride, mask_stride = 32, 2

    def __init__(self, channels: Channels, dim: int = 256, outputs: int = 1, square: bool = False):
        super().__init__()
        _check_levels(channels, self, "res5")
        self.square = square
        widths = (channels["res5"], dim, dim, dim)
        self.convs = nn.ModuleList(nn.Conv2d(width, dim, 3, padding=1) for width in widths)
        self.norms = nn.ModuleList(nn.BatchNorm2d(dim) for _ in widths)
        self.classes = nn.Conv2d(dim, outputs, 1)

    def forward(self, maps: Maps) -> Tensor:
        """maps, of which res5 [batch, C, h, w] is used -> logits [batch, outputs, H / 2 (square: W / 2), W / 2]"""
        x = maps["res5"]
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = self._enlarged(x) if i else x
            x = F.relu(norm(conv(x)))
        return self._enlarged(self.classes(x))

    def _enlarged(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        size = (2 * (width if self.square else height), 2 * width)
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class ParallelFusionHead(nn.Module):
    """Two fusions side by side, of the two fine levels and of all four, and a convolution over both.

    The reproduction study calls it PLD, but it has neither local emphasis nor stepwise aggregation: it is the head of
    an older model ("sct") of SSFormer's authors. Maps are enlarged by repeating values, so that H and W must be
    multiples of 32.

    dim  256 for the backbones B0 and B1, 768 for the others

    Raises ValueError for a backbone without res5, and in forward for maps of other sizes.
    """

    stride, mask_stride = 32, 4

    def __init__(self, channels: Channels, dim: int = 256, outputs: int = 2):
        super().__init__()
        _check_levels(channels, self, "res5")
        self.projections = nn.ModuleDict({level: nn.Conv2d(count, dim, 1) for level, count in channels.items()})
        self.fine = nn.Sequential(ConvNormReLU(2 * dim, dim), ConvNormReLU(dim, outputs))
        self.all = nn.Sequential(ConvNormReLU(4 * dim, dim), ConvNormReLU(dim, outputs))
        self.classes = nn.Conv2d(2 * outputs, outputs, 1)

    def forward(self, maps: Maps) -> Tensor:
        """maps, each [batch, C_level, h, w] -> logits [batch, outputs, H / 4, W / 4]"""
        sizes = [tuple(maps[level].shape[-2:]) for level in self.projections]
        if any(sizes[0] != (h * 2**i, w * 2**i) for i, (h, w) in enumerate(sizes)):
            raise ValueError(f"feature maps have sizes {sizes}, expected halves; give frames of multiples of 32")
        levels = [
            F.interpolate(projection(maps[level]), scale_factor=2.0**i, mode="nearest")
            for i, (level, projection) in enumerate(self.projections.items())
        ]
        both = [self.all(torch.cat(levels, dim=1)), self.fine(torch.cat(levels[:2], dim=1))]
        return self.classes(torch.cat(both, dim=1))


def _local_emphasis(inputs: int, dim: int) -> nn.Sequential:
    """Equation 1: two convolutions with ReLU, without norm and bias."""
    first, second = nn.Conv2d(inputs, dim, 3, padding=1, bias=False), nn.Conv2d(dim, dim, 3, padding=1, bias=False)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


def _conv3(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU, with PyTorch's own initial values."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _at_finest(maps: Maps, align_corners: bool = False) -> dict[str, Tensor]:
    """All maps at the size of the first one."""
    size = next(iter(maps.values())).shape[-2:]
    return {
        level: x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
        for level, x in maps.items()
    }


def _deep_first(maps: Maps) -> list[Tensor]:
    return list(maps.values())[::-1]


def _check_levels(channels: Channels, decoder: nn.Module, *needed: str) -> None:
    """Masks are at stride 4, that of res2: a level before it would be taken for it."""
    name = type(decoder).__name__
    if next(iter(channels)) != "res2" or not set(needed).issubset(channels):
        raise ValueError(f"{name} needs a backbone with levels res2..res5, this one has {', '.join(channels)}")
