"""The plainest head that a backbone can have: what LGRNet has to beat."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lgrnet.layers.conv import ConvNorm
from lgrnet.models.backbones import TimmBackbone


class PlainHead(nn.Module):
    """Projections of all levels, added at stride 4, one convolution, one logit for each class.

    backbone  maps frames to res2..res5 and knows their `channels`
    """

    mask_stride = 4

    def __init__(self, backbone: TimmBackbone, dim: int = 64, num_classes: int = 1):
        super().__init__()
        self.backbone = backbone
        self.projections = nn.ModuleDict({k: ConvNorm(c, dim, 1) for k, c in backbone.channels.items()})
        self.mix = ConvNorm(dim, dim, 3, relu=True)
        self.classes = nn.Conv2d(dim, num_classes, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised frames [batch, 3, H, W] -> logits [batch, K, H / 4, W / 4]"""
        maps = self.backbone(frames)
        size = maps["res2"].shape[-2:]
        levels = (F.interpolate(self.projections[k](m), size=size, mode="bilinear") for k, m in maps.items())
        return self.classes(self.mix(sum(levels)))
