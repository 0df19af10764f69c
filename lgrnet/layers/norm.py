"""torch's layer norm, in inference on a CPU by a kernel of ours; parameters, names and hooks stay."""

from __future__ import annotations

from torch import Tensor, nn

from lgrnet.layers.library_block import hooked
from lgrnet.ops import layer_norm


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm of the last axis by `lgrnet.ops.layer_norm`."""

    def __init__(self, dim: int, eps: float = 1e-5):
        super().__init__(dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]"""
        return layer_norm(x, self.weight, self.bias, self.eps)


_LIBRARIES = ("torch", "timm", "segmentation_models_pytorch", "lgrnet")
"""Whose layer norms are the layer norm; one of another package, or of a program, has a forward pass of its own."""


def normalised(norm: nn.Module, x: Tensor) -> Tensor:
    """What `norm`, a layer norm of a library or nothing at all, makes of x [..., C]."""
    plain = isinstance(norm, nn.LayerNorm) and norm.weight is not None and norm.bias is not None and not hooked(norm)
    plain = plain and type(norm).__module__.partition(".")[0] in _LIBRARIES
    if not plain or norm.normalized_shape != x.shape[-1:]:
        return norm(x)
    return layer_norm(x, norm.weight, norm.bias, norm.eps)
