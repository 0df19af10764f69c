"""The MLP of PVTv2 and SegFormer: its middle is one op, and its hidden channels need not all be there at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgrnet.layers.parts import in_parts, recorded
from lgrnet.ops import depthwise_gelu

PART = 2**19
"""Hidden numbers at a time in inference on a CPU: 2 MB, which stay in its caches and in pages already mapped."""
MOST = 2**23
"""Hidden numbers of whole images at a time in training on a CPU: 32 MB."""
LEAST = 64
"""Hidden channels at a time, at least: narrower matrices are multiplied more slowly."""


class DepthwiseMlp(nn.Module):
    """Linear, depthwise 3x3 convolution, GELU, linear over tokens, with the layers of timm's or SegFormer's own MLP.

    mlp  one that `fits`; its layers are taken over with their names, so that no state dict changes

    Where a layer was exchanged since, or has a hook that wants its output, the forward of the library runs.
    """

    def __init__(self, mlp: nn.Module):
        super().__init__()
        for name, layer in mlp.named_children():
            self.add_module(name, layer)
        self.forward_of_library = type(mlp).forward
        self.train(mlp.training)

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether the module is such an MLP, layer for layer; that of another release of its library may not be."""
        layers = dict(module.named_children())
        if type(layers.get("relu")) is nn.Identity:
            del layers["relu"]
        kinds = {"fc1": nn.Linear, "act": nn.GELU, "fc2": nn.Linear, "drop": nn.Dropout}
        if layers.keys() != {*kinds, "dwconv"} or any(type(layers[name]) is not kind for name, kind in kinds.items()):
            return False
        biases = layers["fc1"].bias is not None and layers["fc2"].bias is not None
        return biases and layers["act"].approximate == "none" and _convolution(layers["dwconv"]) is not None

    def forward(self, x: Tensor, *size: int | tuple[int, int]) -> Tensor:
        """Tokens [B, H * W, C] -> the same shape; `size` is (H, W), or H and W."""
        if not self.fits(self) or any(_hooked(layer) for layer in self.modules() if layer is not self):
            return self.forward_of_library(self, x, *size)
        shape = size if len(size) == 2 else tuple(size[0])
        if self._can_save_memory(x):
            return torch.stack([self._by_channels(tokens, shape) for tokens in x])
        # Random draws stay in their order.
        most = MOST if self.drop.p == 0 else x.numel() * self.fc1.out_features
        return in_parts(lambda images: self._whole(images, shape), x, x.shape[1] * self.fc1.out_features, most)

    def _whole(self, x: Tensor, shape: tuple[int, int]) -> Tensor:
        conv = _convolution(self.dwconv)
        hidden = depthwise_gelu(self.fc1(x), conv.weight, conv.bias, shape)
        return self.drop(self.fc2(self.drop(hidden)))

    def _can_save_memory(self, x: Tensor) -> bool:
        """Where nothing is kept for a backward pass, no graph is recorded, and sums are those of float32."""
        busy = self.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
        return not (busy or recorded()) and x.device.type == "cpu" and x.dtype == torch.float32 and len(x) > 0

    def _by_channels(self, tokens: Tensor, shape: tuple[int, int]) -> Tensor:
        """The tokens [H * W, C] of one image, some hidden channels after the others; each adds its share."""
        conv = _convolution(self.dwconv)
        width = max(LEAST, PART // max(1, len(tokens)) // LEAST * LEAST)
        hidden_first = (self.fc1.weight, self.fc1.bias, conv.weight, conv.bias, self.fc2.weight.t())
        out = self.fc2.bias.repeat(len(tokens), 1)
        for inward, shift, weight, bias, outward in zip(*(t.split(width) for t in hidden_first), strict=True):
            hidden = depthwise_gelu(F.linear(tokens, inward)[None], weight, bias, shape, shift=shift)
            out.addmm_(hidden[0], outward)
        return out


def with_depthwise_mlps(net: nn.Module) -> nn.Module:
    """The same net; every MLP that is such a one became a `DepthwiseMlp`, the others stay."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if DepthwiseMlp.fits(child):
                setattr(parent, name, DepthwiseMlp(child))
    return net


def _hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


def _convolution(layer: nn.Module) -> nn.Conv2d | None:
    """The 3x3 convolution of each channel by itself: the layer, or what it wraps; None for any other."""
    children = dict(layer.named_children())
    conv = children["dwconv"] if children.keys() == {"dwconv"} else layer
    if type(conv) is not nn.Conv2d or conv.bias is None or conv.padding_mode != "zeros":
        return None
    channels = conv.in_channels
    plain = (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
    return conv if plain and conv.groups == channels == conv.out_channels else None
