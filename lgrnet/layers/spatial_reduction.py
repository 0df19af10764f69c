"""The attention of PVTv2 and SegFormer, to a map of tokens that is smaller than that of the queries."""

from __future__ import annotations

from torch import Tensor, nn

from lgrnet.layers.library_block import LibraryBlock, layers_are
from lgrnet.layers.norm import normalised
from lgrnet.ops import linear, multi_head_attention


class SpatialReductionAttention(LibraryBlock):
    """Attention of all tokens to those that a convolution leaves (Wang et al., PVT, ICCV 2021, section 3.3), with the
    layers of timm's or SegFormer's own attention.

    attention  one that `fits`
    """

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """See `LibraryBlock`."""
        kinds = {"q": nn.Linear, "kv": nn.Linear, "attn_drop": nn.Dropout, "proj": nn.Linear, "proj_drop": nn.Dropout}
        reduction = getattr(module, "sr", None)
        if isinstance(reduction, nn.Conv2d):
            kinds |= {"sr": nn.Conv2d, "norm": type(getattr(module, "norm", None))}
        if not layers_are(module, kinds):
            return False
        heads, width = getattr(module, "num_heads", 0), module.q.out_features
        scaled = heads > 0 and getattr(module, "scale", None) == (width // heads) ** -0.5
        return scaled and isinstance(getattr(module, "norm", None), nn.LayerNorm | nn.Identity | None)

    def forward(self, x: Tensor, *size: int | tuple[int, int]) -> Tensor:
        """Tokens [B, H * W, C] -> the same shape; `size` is (H, W), or H and W."""
        if not self.is_ours() or (self.training and self.attn_drop.p > 0):
            return self.forward_of_library(self, x, *size)
        shape = size if len(size) == 2 else tuple(size[0])
        return self.proj_drop(_linear(self.proj, self._attended(x, shape)))

    def added_to(self, tokens: Tensor, x: Tensor, shape: tuple[int, int]) -> Tensor:
        """`tokens` [B, H * W, C] + what `forward` returns of x, a new tensor; only where `may_add_in_place`."""
        return linear(self._attended(x, shape), self.proj.weight, self.proj.bias, residual=tokens)

    def _attended(self, x: Tensor, shape: tuple[int, int]) -> Tensor:
        """[B, H * W, C]"""
        k, v = _linear(self.kv, self._reduced(x, shape)).chunk(2, -1)
        return multi_head_attention(_linear(self.q, x), k, v, self.num_heads)

    def _reduced(self, x: Tensor, shape: tuple[int, int]) -> Tensor:
        """[B, M, C]"""
        if not isinstance(self.sr, nn.Conv2d):
            return x
        if any(side < kernel for side, kernel in zip(shape, self.sr.kernel_size, strict=True)):
            raise ValueError(
                f"a map of {shape[0]} x {shape[1]} is smaller than what its attention reduces to one token, "
                f"{self.sr.kernel_size[0]} x {self.sr.kernel_size[1]}; give frames of at least 32 x 32"
            )
        maps = x.transpose(1, 2).unflatten(2, shape)
        return normalised(self.norm, self.sr(maps).flatten(2).transpose(1, 2))


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias)
