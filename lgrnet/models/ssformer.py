"""SSFormer (Wang et al., MICCAI 2022): polyps in still images, and the models of its ablation and reproduction."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

ENLARGE = ("corners", "input", "none")


class SSFormer(nn.Module):
    """A backbone and a decoder; goes into PerFrame.

    SSFormer-S is `SSFormer(MixTransformer("mit_b2"), partial(ProgressiveLocalityDecoder))` inside
    `PerFrame(..., decision="sigmoid")`, SSFormer-L the same on "mit_b4". The reproduction study's models have
    `norm_eps=1e-5`, `enlarge="input"`, two outputs and `decision="softmax"`.

    backbone      maps frames to feature maps, finest first, and knows their `channels`
    decoder       makes the decoder from these channels: `partial(ProgressiveLocalityDecoder, dim=256)`
    enlarge       the last step: "corners": the decoder's logits times its stride, corners aligned, which for sides
                  that are no multiples of it is larger than the input (SSFormer); "input": to the input's size, corners
                  not aligned (MLA, and the reproduction study); "none" (PUP). `PerFrame` brings masks to the size on
                  disk
    reinitialise  True: the study's initial values in the whole model (see `initialise_as_study`)

    Raises ValueError for another `enlarge`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        decoder: Callable[..., nn.Module],
        enlarge: str = "corners",
        reinitialise: bool = False,
    ):
        super().__init__()
        if enlarge not in ENLARGE:
            raise ValueError(f"enlarge is {enlarge!r}, expected one of {', '.join(ENLARGE)}")
        self.backbone = backbone
        self.decoder = decoder(channels=backbone.channels)
        self.enlarge = enlarge
        self.stride = self.decoder.stride
        self.mask_stride = self.decoder.mask_stride if enlarge == "none" else 1
        if reinitialise:
            initialise_as_study(self)

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised frames [batch, 3, H, W] -> logits [batch, outputs, H, W] (enlarge="none": the decoder's size)"""
        logits = self.decoder(self.backbone(frames))
        if self.enlarge == "corners":
            scale = float(self.decoder.mask_stride)
            return F.interpolate(logits, scale_factor=scale, mode="bilinear", align_corners=True)
        if self.enlarge == "input":
            return F.interpolate(logits, size=frames.shape[-2:], mode="bilinear", align_corners=False)
        return logits


def initialise_as_study(model: nn.Module) -> None:
    """Initial values of the reproduction study, in place, for every layer.

    Linear layers: normal with deviation 0.02, cut at two; convolutions: normal with variance 2 / (k * k * outputs),
    where groups are not divided out, as published; norms 1 and 0; biases 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
