"""Atrous spatial pyramid pooling (Chen et al., DeepLabV3, 2017) as SvANet has it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from lgrnet.layers.conv_unit import NORM_EPS


class AtrousPyramid(ASPP):
    """torchvision's pyramid with the norms and the dropout of SvANet: whole channels are dropped.

    rates    dilation of the three 3x3 convolutions, beside a 1x1 convolution and the mean of the map
    dropout  share of the output's channels that are dropped in training
    """

    def __init__(self, inputs: int, outputs: int = 512, rates: Sequence[int] = (12, 24, 36), dropout: float = 0.1):
        super().__init__(inputs, rates, outputs)
        self.channels = outputs
        self.project[-1] = nn.Dropout2d(dropout)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = NORM_EPS

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, h, w] -> [batch, outputs, h, w]; raises ValueError for one map in training"""
        if self.training and len(x) == 1:
            raise ValueError(
                "a single frame in training: batch norm has no variance over the one mean of its map; train with at "
                "least two frames per forward pass (train.batch_size, train.accumulate, frames per clip)"
            )
        return super().forward(x)
