"""SvANet with its golden weights, which follow from published names and shapes, and its forced draws."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lgrnet.checkpoint.official_svanet import ours_to_official, to_official, to_ours
from lgrnet.layers.monte_carlo import MonteCarloAttention, PoolDraw
from lgrnet.layers.scale_variant import ScaleDraw, ScaleVariantAttention
from lgrnet.models.deeplabv3 import DeepLabV3
from lgrnet.models.resnet import ResNetBackbone
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.svanet import SvANet, attention_grid

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "svanet"
IDENTITY = {"pixel_mean": (0.0, 0.0, 0.0), "pixel_std": (1.0, 1.0, 1.0)}
_NO_FORMERS = (None, None, None, None)
VARIANTS = {
    "main": {},
    "fg_link0": {"link": "none"},
    "fg_link1": {"link": "add"},
    "svattn0": {"gate": "none"},
    "svattn_n1": {"gate": "source"},
    "svattn_n2": {"gate": "average"},
    "svattn_n3": {"gate": "max"},
    "bottle0": {"bottleneck": False},
    "bottle_se0": {"bottleneck_attention": "none"},
    "bottle_se1": {"bottleneck_attention": "squeeze"},
    "vit0": {"branch_depths": _NO_FORMERS, "link_depth": 0},
    "link_vit0": {"link_depth": None},
    "vit0_link_vit0": {"branch_depths": _NO_FORMERS, "link_depth": None},
    "no_guide": {"guidance": False, "branch_depths": _NO_FORMERS, "link_depth": 0},
    "vit_se2_linkse2": {"branch_attention": "monte_carlo", "link_attention": "monte_carlo"},
    "start_stage2": {"first_stage": 2},
    "vit_all_off": {"branch_depths": (None, None, 2, 3), "link_depth": 3},
    "fg_for_head": {"last_stage": 5, "branch_depths": (2, 2, 2, 2, 2)},
    "resnet18": {"backbone": "resnet18"},
    "resnext50": {"backbone": "resnext50_32x4d"},
}
"""Configurations of the release, by the names of their golden cases, as our arguments."""


@cache
def seed_weights():
    """The module that makes the golden weights from names and shapes."""
    spec = importlib.util.spec_from_file_location("seed_weights_svanet", FOLDER / "seed_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class SeededWeights:
    """Golden tensors by published name and shape, each made once: variants of a model share what they have in common.

    Loaded models hold these very tensors; what trains must be a copy.
    """

    def __init__(self):
        self.made: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def state(self, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Golden tensors for the names and shapes of a published state_dict."""
        return {name: self._tensor(name, tuple(tensor.shape)) for name, tensor in published.items()}

    def load(self, model: nn.Module) -> nn.Module:
        """The model, which may be on the meta device, with its golden weights, in eval mode."""
        own = model.state_dict()
        state = to_ours(self.state(to_official(own)), own)
        if not state.complete:
            raise ValueError(f"names do not fit: {state.lines()[:5]}")
        model.load_state_dict(state.state, strict=True, assign=True)
        return model.eval()

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        key = name, shape
        if key not in self.made:
            value = np.ascontiguousarray(seed_weights().value_for(name, shape)).reshape(shape)
            self.made[key] = torch.from_numpy(value)
        return self.made[key]


def still(net: nn.Module) -> PerFrame:
    """The published use of a network: frames in 0..1 as they are, background in channel 0."""
    return PerFrame(net, decision="softmax", **IDENTITY)


def build(backbone: str = "resnet50", **options) -> PerFrame:
    """SvANet on the meta device but for what is not saved."""
    with torch.device("meta"):
        net = SvANet(ResNetBackbone(backbone), **options)
    return still(net)


def plain() -> PerFrame:
    """The DeepLabV3 that SvANet is compared with, on the meta device."""
    with torch.device("meta"):
        net = DeepLabV3(ResNetBackbone())
    return still(net)


def set_image_size(model: nn.Module, size: int, square_output: bool = False) -> None:
    """What `image_size` and `output_size` do, on a model that is there."""
    for name, path in model.net.guidance.paths.items():
        if isinstance(path.gate, ScaleVariantAttention):
            path.gate.grid = attention_grid(size, int(name[-1]) + model.net.first_stage)
    model.net.output_size = size if square_output else None


def load_module(module: nn.Module, place: str, published_place: str, case: str) -> nn.Module:
    """A part with the golden weights of a case, in eval mode.

    place            where the part stands in a whole model of ours, with a full stop at its end
    published_place  the same in the published model
    case             name of the case, which its weights are made of besides their published names
    """
    values = {}
    for name, tensor in module.state_dict().items():
        published = ours_to_official(place + name)
        if published is None or not published.startswith(published_place):
            raise ValueError(f"{place + name} is {published} in the published model, not in {published_place}")
        value = seed_weights().value_for(f"{case}.{published.removeprefix(published_place)}", tuple(tensor.shape))
        values[name] = torch.from_numpy(np.ascontiguousarray(value)).reshape(tensor.shape)
    module.load_state_dict(values, strict=True)
    return module.eval()


def frames_of(image_u8: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> frames [N, 1, 3, H, W] in 0..1"""
    return torch.from_numpy(image_u8).permute(0, 3, 1, 2)[:, None].float() / 255


def permutation(count: int) -> np.ndarray:
    """The forced order of `count` things."""
    return np.random.RandomState(count).permutation(count)


def force_draws(model: nn.Module, pool_size: int) -> None:
    """Replaces every random choice of training by the golden one; dropout and stochastic depth are off."""

    def pool(positions: int) -> PoolDraw:
        cell = int(permutation(pool_size**2)[0]) if pool_size > 1 else 0
        return PoolDraw(pool_size, cell, torch.from_numpy(permutation(positions)))

    for module in model.modules():
        if isinstance(module, MonteCarloAttention):
            module.draw = pool
        elif isinstance(module, ScaleVariantAttention):
            force_scales(module, torch.from_numpy(permutation(module.grid**2)), range(len(module.squeezes)))
        elif hasattr(module, "p") and isinstance(module.p, float):
            module.p = 0.0


def force_scales(gate: ScaleVariantAttention, cells: Tensor, scales) -> None:
    """Cell i belongs to scale i modulo the number of scales; `cells` and `scales` are the draw."""
    gate.scale_of_cell = torch.arange(gate.grid**2) % len(gate.squeezes)
    gate.draw = lambda: ScaleDraw(cells, list(scales))
