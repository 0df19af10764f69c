"""The decoder of SvANet: from the coarsest map upwards, linked with the branch of each scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lgrnet.layers.assemble_former import AssembleFormer
from lgrnet.layers.conv_unit import ConvPair, ConvUnit

LINKS = ("concatenate", "add")


class UpLink(nn.Sequential):
    """A map twice as large: 1x1 to a quarter of the channels, transposed 3x3, 1x1 (release: UpLink)."""

    def __init__(self, inputs: int, outputs: int):
        hidden = inputs // 4
        super().__init__(
            ConvUnit(inputs, hidden),
            ConvUnit(hidden, hidden, 3, stride=2, transposed=True),
            ConvUnit(hidden, outputs),
        )


class Link(nn.Module):
    """One step upwards: enlarge, join with the branch, refine.

    link       "concatenate" (the enlarged map first, then two convolutions) or "add"
    depth      attention blocks of its AssembleFormer; None: no AssembleFormer
    attention  makes the channel attention of its AssembleFormer for a number of channels

    Raises ValueError for another link.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        link: str = "concatenate",
        depth: int | None = 2,
        attention: Callable[[int], nn.Module] = nn.Identity,
    ):
        super().__init__()
        if link not in LINKS:
            raise ValueError(f"link is {link!r}, expected one of {', '.join(LINKS)}")
        self.up = UpLink(inputs, outputs)
        self.join = ConvPair(2 * outputs, outputs) if link == "concatenate" else None
        self.former = nn.Identity() if depth is None else AssembleFormer(outputs, depth, attention(outputs))

    def forward(self, coarse: Tensor, branch: Tensor) -> Tensor:
        """coarse [batch, inputs, h, w], branch [batch, outputs, 2 h, 2 w] -> as branch"""
        up = self.up(coarse)
        return self.former(up + branch if self.join is None else self.join(torch.cat((up, branch), dim=1)))


class LinkDecoder(nn.Module):
    """Links from the deepest map of the encoder through all branches (release: FGLink).

    channels  of the branches, finest first, and of the deepest map
    link, depth, attention  of every `Link`
    """

    def __init__(
        self,
        channels: Sequence[int],
        link: str = "concatenate",
        depth: int | None = 2,
        attention: Callable[[int], nn.Module] = nn.Identity,
    ):
        super().__init__()
        upwards = pairwise(reversed(channels))
        self.links = nn.ModuleList(Link(coarse, fine, link, depth, attention) for coarse, fine in upwards)

    def forward(self, branches: Sequence[Tensor], deepest: Tensor) -> list[Tensor]:
        """branches, finest first, each [batch, C_i, h_i, w_i], deepest [batch, C, h, w] -> maps as the branches"""
        maps = [deepest]
        for link, branch in zip(self.links, reversed(branches), strict=True):
            maps.append(link(maps[-1], branch))
        return maps[:0:-1]
