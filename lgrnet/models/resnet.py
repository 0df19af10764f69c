"""ResNets with a feature map at every stride, as SvANet and DeepLabV3 read them."""

from __future__ import annotations

import difflib

import timm
from timm.models.resnet import ResNet
from torch import Tensor, nn

from lgrnet.layers.conv_unit import NORM_EPS

MAPS = ("res1", "res2", "res3", "res4", "res5")
STRIDES = (2, 4, 8, 16, 32)


class ResNetBackbone(nn.Module):
    """A ResNet or ResNeXt by its timm name, with its five feature maps and no dilation.

    name      "resnet18", "resnet50", "resnext50_32x4d", ...; `net` keeps timm's names, which are torchvision's
    norm_eps  epsilon of every batch norm: 1e-3 in SvANet, also with ImageNet weights that were trained with 1e-5

    The initial values are PyTorch's defaults, as in SvANet: kaiming uniform, norms 1 and 0. Raises ValueError for a
    name that timm does not know as a ResNet.
    """

    def __init__(self, name: str = "resnet50", norm_eps: float = NORM_EPS):
        super().__init__()
        net = timm.create_model(name, num_classes=0) if timm.is_model(name) else None
        if not isinstance(net, ResNet) or tuple(info["reduction"] for info in net.feature_info) != STRIDES:
            known = timm.list_models(["resnet*", "resnext*"])
            near = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.0))
            raise ValueError(f"timm {timm.__version__} has no ResNet {name!r}; the nearest names are {near}")
        self.net = net
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = norm_eps
            if isinstance(module, nn.BatchNorm2d | nn.Conv2d):
                module.reset_parameters()
        self.channels = {k: info["num_chs"] for k, info in zip(MAPS, net.feature_info, strict=True)}

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Normalised frames [batch, 3, H, W] -> res1..res5, each [batch, C_level, H / stride, W / stride].

        res1 is the stem after its ReLU, before the max-pool.
        """
        maps = self.net.forward_intermediates(frames, norm=False, intermediates_only=True)
        return dict(zip(MAPS, maps, strict=True))
