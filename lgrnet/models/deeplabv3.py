"""DeepLabV3 (Chen et al., 2017) in the form that SvANet is compared with and grows out of."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lgrnet.layers.atrous_pyramid import AtrousPyramid


class DeepLabV3(nn.Module):
    """A backbone at stride 32, an atrous pyramid, one 1x1 convolution, enlarged logits; goes into PerFrame.

    SvANet's release builds it where its feature guide is off (`seg_feature_guide` 0).

    backbone     maps frames to res1 .. res5 and knows their `channels`
    num_classes  channels of the logits, background included
    output_size  side of the square logits, as published; None: the size of the frames
    """

    mask_stride = 1
    stride = 32

    def __init__(
        self, backbone: nn.Module, num_classes: int = 2, output_size: int | None = None, context_channels: int = 512
    ):
        super().__init__()
        self.backbone = backbone
        self.context = AtrousPyramid(backbone.channels["res5"], context_channels)
        self.classifier = nn.Conv2d(context_channels, num_classes, 1)
        self.output_size = output_size

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised frames [batch, 3, H, W] -> logits [batch, num_classes, H, W], or output_size on both sides"""
        logits = self.classifier(self.context(self.backbone(frames)["res5"]))
        return enlarged(logits, frames, self.output_size)


def enlarged(logits: Tensor, frames: Tensor, output_size: int | None) -> Tensor:
    """Logits [batch, K, h, w] at output_size on both sides, or at the size of the frames [batch, 3, H, W].

    Bilinear with aligned corners, as published.
    """
    size = tuple(frames.shape[-2:]) if output_size is None else (output_size, output_size)
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)
