"""The blocks of PVTv2 and SegFormer: in inference on a CPU, both halves add to one tensor."""

from __future__ import annotations

from torch import Tensor, nn

from lgrnet.layers.depthwise_mlp import DepthwiseMlp
from lgrnet.layers.library_block import LibraryBlock
from lgrnet.layers.norm import normalised
from lgrnet.layers.spatial_reduction import SpatialReductionAttention


class ResidualBlock(LibraryBlock):
    """x + attention(norm(x)), and to that its MLP(norm), with the layers of timm's PVTv2 or SegFormer's own block.

    block  one that `fits`: its attention and MLP are ours already
    """

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """See `LibraryBlock`."""
        layers = dict(module.named_children())
        paths = {name for name in layers if name in ("drop_path", "drop_path1", "drop_path2")}
        if layers.keys() - paths != {"norm1", "attn", "norm2", "mlp"}:
            return False
        parts = type(layers["attn"]) is SpatialReductionAttention and type(layers["mlp"]) is DepthwiseMlp
        return parts and all(type(layers[name]).fits(layers[name]) for name in ("attn", "mlp"))

    def forward(self, x: Tensor, *size: tuple[int, int]) -> Tensor:
        """Tokens [B, H * W, C] and (H, W), or a map [B, C, H, W] -> the same shape"""
        if not self.may_add_in_place(x) or not self.is_ours():
            return self.forward_of_library(self, x, *size)
        if x.ndim == 3:
            return self._tokens(x, *size)
        tokens = self._tokens(x.flatten(2).transpose(1, 2), x.shape[2:])
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])

    def _tokens(self, x: Tensor, shape: tuple[int, int]) -> Tensor:
        x = x.contiguous()
        sums = self.attn.added_to(x, normalised(self.norm1, x), shape)
        self.mlp.add_to(sums, normalised(self.norm2, sums), shape)
        return sums
