"""The MLP of PVTv2 and SegFormer: its middle is one op, and its hidden channels need not all be there at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lgrnet.layers.library_block import LibraryBlock, layers_are
from lgrnet.layers.parts import in_parts
from lgrnet.ops import depthwise_gelu, linear

PART = 2**19
"""Hidden numbers at a time in inference on a CPU: 2 MB, which stay in its caches and in pages already mapped."""
MOST = 2**23
"""Hidden numbers of whole images at a time in training on a CPU: 32 MB."""
ROUNDED = 2**22
"""The same of bfloat16, all of an image's: a sum of their shares would be rounded with each of them."""
LEAST = 64
"""Hidden channels at a time, at least: narrower matrices are multiplied more slowly."""


class DepthwiseMlp(LibraryBlock):
    """Linear, depthwise 3x3 convolution, GELU, linear over tokens, with the layers of timm's or SegFormer's own MLP.

    mlp  one that `fits`
    """

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """See `LibraryBlock`."""
        kinds = {"fc1": nn.Linear, "act": nn.GELU, "fc2": nn.Linear, "drop": nn.Dropout}
        if not layers_are(module, kinds | {"dwconv": type(getattr(module, "dwconv", None))}):
            return False
        biases = module.fc1.bias is not None and module.fc2.bias is not None
        return biases and module.act.approximate == "none" and _convolution(module.dwconv) is not None

    def forward(self, x: Tensor, *size: int | tuple[int, int]) -> Tensor:
        """Tokens [B, H * W, C] -> the same shape; `size` is (H, W), or H and W."""
        if not self.is_ours():
            return self.forward_of_library(self, x, *size)
        shape = size if len(size) == 2 else tuple(size[0])
        if self.may_add_in_place(x):
            sums = torch.zeros_like(x, memory_format=torch.contiguous_format)
            self.add_to(sums, x, shape)
            return sums
        # Random draws stay in their order.
        most = MOST if self.drop.p == 0 else x.numel() * self.fc1.out_features
        return in_parts(lambda images: self._whole(images, shape), x, x.shape[1] * self.fc1.out_features, most)

    def _whole(self, x: Tensor, shape: tuple[int, int]) -> Tensor:
        conv = _convolution(self.dwconv)
        hidden = depthwise_gelu(linear(x, self.fc1.weight, self.fc1.bias), conv.weight, conv.bias, shape)
        return self.drop(linear(self.drop(hidden), self.fc2.weight, self.fc2.bias))

    def add_to(self, sums: Tensor, x: Tensor, shape: tuple[int, int]) -> None:
        """Adds what `forward` returns to `sums` [B, H * W, C], in place; only where `may_add_in_place`.

        Of a few images some hidden channels come after the others, and each adds its share.
        """
        conv = _convolution(self.dwconv)
        images, width = self._parts(x)
        inner = [t.split(width) for t in (self.fc1.weight, self.fc1.bias, conv.weight, conv.bias)]
        biases = [self.fc2.bias, *[None] * (len(inner[0]) - 1)]
        parts = list(zip(*inner, self.fc2.weight.split(width, dim=1), biases, strict=True))
        for out, some in zip(sums.split(images), x.split(images), strict=True):
            for inward, shift, weight, bias, outward, last_bias in parts:
                hidden = depthwise_gelu(linear(some, inward), weight, bias, shape, shift=shift)
                linear(hidden, outward, last_bias, residual=out, out=out)

    def _parts(self, x: Tensor) -> tuple[int, int]:
        """Images and hidden channels at a time."""
        tokens, hidden = max(1, x.shape[1]), self.fc1.out_features
        if x.dtype != torch.float32:
            return max(1, ROUNDED // (tokens * hidden)), hidden
        images = max(1, PART // (tokens * LEAST))
        return images, max(LEAST, PART // (tokens * min(images, len(x))) // LEAST * LEAST)


def _convolution(layer: nn.Module) -> nn.Conv2d | None:
    """The 3x3 convolution of each channel by itself: the layer, or what it wraps; None for any other."""
    children = dict(layer.named_children())
    conv = children["dwconv"] if children.keys() == {"dwconv"} else layer
    if type(conv) is not nn.Conv2d or conv.bias is None or conv.padding_mode != "zeros":
        return None
    channels = conv.in_channels
    plain = (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
    return conv if plain and conv.groups == channels == conv.out_channels else None
