"""The stages of timm's PVTv2: in inference on a CPU, the channels of a token lie together from stage to stage."""

from __future__ import annotations

import torch
from timm.models.pvt_v2 import OverlapPatchEmbed
from torch import Tensor, nn

from lgrnet.layers.library_block import LibraryBlock, layers_are
from lgrnet.layers.norm import normalised
from lgrnet.layers.residual_block import ResidualBlock


class PatchEmbedding(LibraryBlock):
    """A convolution with a stride, and a layer norm, with the layers of timm's own.

    embedding  one that `fits`
    """

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """See `LibraryBlock`."""
        ours = type(module) in (OverlapPatchEmbed, PatchEmbedding)  # those of Twins, CoaT and others go other ways
        return ours and layers_are(module, {"proj": nn.Conv2d, "norm": nn.LayerNorm})

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, H', W', D]"""
        if not self.may_add_in_place(x):
            return self.forward_of_library(self, x)
        return normalised(self.norm, self.proj(x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1))


class PyramidStage(LibraryBlock):
    """A stage whose result is not copied into another layout; the next one reads it as it lies.

    stage  one that `fits`
    """

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """See `LibraryBlock`."""
        layers = dict(module.named_children())
        if layers.keys() - {"downsample"} != {"blocks", "norm"} or not hasattr(module, "grad_checkpointing"):
            return False
        return isinstance(layers["blocks"], nn.ModuleList) and all(type(b) is ResidualBlock for b in layers["blocks"])

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W], for the first stage [B, H, W, C] -> [B, D, H', W']"""
        if not self.may_add_in_place(x):
            return self.forward_of_library(self, x)
        x = x if self.downsample is None else self.downsample(x)
        shape, tokens = tuple(x.shape[1:3]), x.flatten(1, 2)
        for block in self.blocks:
            tokens = block(tokens, shape)
        return normalised(self.norm, tokens).transpose(1, 2).unflatten(2, shape)
