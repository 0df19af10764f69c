"""Blocks of timm's and segmentation-models-pytorch's nets that have a faster forward pass here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lgrnet.layers.parts import recorded
from lgrnet.ops.cpu import is_faster


class LibraryBlock(nn.Module):
    """A block of a library under a forward pass of ours: its layers keep their names, so that no state dict changes.

    block  one that `fits`

    Where a layer was exchanged since, or has a hook that wants its output, `is_ours` is False, and `forward_of_library`
    must run.
    """

    def __init__(self, block: nn.Module):
        super().__init__()
        self.__dict__.update(vars(block))
        self.forward_of_library = type(block).forward

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether the module is such a block, layer for layer; that of another release of its library may not be."""
        raise NotImplementedError

    def is_ours(self) -> bool:
        """Whether our forward pass does what that of the library would."""
        return self.fits(self) and not any(hooked(layer) for layer in self.modules() if layer is not self)

    def may_add_in_place(self, x: Tensor) -> bool:
        """Whether shares may be added to a tensor of our own: on a CPU where nothing is kept for a backward pass, no
        graph is recorded, and sums are made in float32."""
        busy = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
        if busy or recorded() or x.device.type != "cpu" or len(x) == 0:
            return False
        if x.dtype != torch.float32 and not (x.dtype == torch.bfloat16 and is_faster(x.dtype)):
            return False
        # Last, since it takes longest. Of all layers: a dropout may draw in evaluation, too.
        return not any(layer.training for layer in self.modules())


def with_own_blocks(net: nn.Module, kinds: Sequence[type[LibraryBlock]]) -> nn.Module:
    """The same net; every block that fits one of the `kinds` became one, from the inside out; the others stay."""
    for parent in reversed(list(net.modules())):
        for name, child in list(parent.named_children()):
            for kind in kinds:
                if kind.fits(child):
                    setattr(parent, name, kind(child))
    return net


def layers_are(module: nn.Module, kinds: dict[str, type[nn.Module]]) -> bool:
    """Whether the module has these layers and no others but identities."""
    layers = {name: layer for name, layer in module.named_children() if type(layer) is not nn.Identity}
    return layers.keys() == kinds.keys() and all(type(layers[name]) is kind for name, kind in kinds.items())


def hooked(layer: nn.Module) -> bool:
    """Whether someone waits for what this layer itself is given or makes."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
