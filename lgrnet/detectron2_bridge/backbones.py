"""Our backbones in detectron2's registry, and detectron2's backbones as parts of our models."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import timm
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone
from torch import Tensor, nn

from lgrnet.detectron2_bridge.config import arguments
from lgrnet.models.backbones import LEVELS, STRIDES, MixTransformer, TimmBackbone

_FREEZE_LIMIT = len(LEVELS) + 1


class _FourLevels(Backbone):
    """What PVTv2 and MiT have in common as backbones of detectron2; `channels` and forward come from ours."""

    @property
    def size_divisibility(self) -> int:
        """Height and width of the input are multiples of this."""
        return STRIDES[-1]

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of the feature maps that forward gives."""
        strides = dict(zip(LEVELS, STRIDES, strict=True))
        return {k: ShapeSpec(channels=self.channels[k], stride=strides[k]) for k in self.out_features}

    def _finish(self, out_features: Sequence[str], freeze_at: int, stem: nn.Module, stages: Sequence[list]) -> None:
        """Remembers what to give, and freezes the stem and the first stages."""
        unknown = sorted(set(out_features) - set(LEVELS))
        if unknown or not out_features:
            raise ValueError(f"out_features are {list(out_features)}; expected one or more of {', '.join(LEVELS)}")
        if not 0 <= freeze_at <= _FREEZE_LIMIT:
            raise ValueError(f"freeze_at is {freeze_at}; expected 0 (nothing is frozen) to {_FREEZE_LIMIT} (all)")
        self.out_features = tuple(k for k in LEVELS if k in out_features)
        frozen = [stem] * (freeze_at > 0) + [part for stage in stages[: max(freeze_at - 1, 0)] for part in stage]
        for part in frozen:
            part.requires_grad_(False)

    def _given(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {k: maps[k] for k in self.out_features}


@BACKBONE_REGISTRY.register()
class PVTv2(TimmBackbone, _FourLevels):
    """PVTv2 (Wang et al., 2022) with our parameter names.

    name          "pvt_v2_b0" .. "pvt_v2_b5" or "pvt_v2_b2_li"
    drop_path     the largest drop-path rate
    freeze_at     0: everything is trained; 1: not the first patch embedding; 2..5: nor res2 .. res5, as in
                  detectron2's MODEL.BACKBONE.FREEZE_AT
    out_features  which of res2, res3, res4, res5 forward gives

    Raises ValueError for an argument that is none of these.
    """

    @configurable
    def __init__(
        self,
        name: str = "pvt_v2_b2",
        drop_path: float = 0.1,
        freeze_at: int = 0,
        out_features: Sequence[str] = LEVELS,
    ):
        known = timm.list_models("pvt_v2_*")
        if name not in known:
            near = ", ".join(difflib.get_close_matches(str(name), known, n=3, cutoff=0.0))
            raise ValueError(f"there is no PVTv2 {name!r}; the nearest names are {near}")
        super().__init__(name=name, drop_path=drop_path)
        self._finish(out_features, freeze_at, self.net.patch_embed, [[stage] for stage in self.net.stages])

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
        """The arguments from MODEL.PVTV2 and MODEL.BACKBONE.FREEZE_AT."""
        return {**arguments(cfg.MODEL.PVTV2), "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT}

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Normalised frames [batch, 3, H, W] -> `out_features`, each [batch, C_level, H / stride, W / stride]"""
        return self._given(super().forward(frames))


@BACKBONE_REGISTRY.register()
class MiT(MixTransformer, _FourLevels):
    """The encoder of SegFormer (Xie et al., 2021) with our, the official, parameter names.

    name  "mit_b0" .. "mit_b5"; the other arguments and the errors are those of `PVTv2`
    """

    @configurable
    def __init__(
        self,
        name: str = "mit_b0",
        drop_path: float = 0.1,
        freeze_at: int = 0,
        out_features: Sequence[str] = LEVELS,
    ):
        super().__init__(name=name, drop_path=drop_path)
        net = self.net
        stages = [
            [getattr(net, f"{part}{i}") for part in ("patch_embed", "block", "norm")] for i, _ in enumerate(LEVELS, 1)
        ]
        self._finish(out_features, freeze_at, net.patch_embed1, stages)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
        """The arguments from MODEL.MIT and MODEL.BACKBONE.FREEZE_AT."""
        return {**arguments(cfg.MODEL.MIT), "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT}

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Normalised frames [batch, 3, H, W] -> `out_features`, each [batch, C_level, H / stride, W / stride]"""
        return self._given(super().forward(frames))


class FeatureLevels(nn.Module):
    """A backbone of detectron2 as our models want it: res2..res5 at strides 4, 8, 16 and 32, and their `channels`.

    net  its feature maps are called res2..res5, or there is exactly one for each of the strides (an FPN's p2..p5)

    Our models see RGB frames, so ImageNet weights should be those for RGB (torchvision's rather than MSRA's).
    Raises ValueError, saying what there is, for another backbone.
    """

    def __init__(self, net: Backbone):
        super().__init__()
        self.net = net
        shapes = net.output_shape()
        self.names = [self._name(shapes, level, stride) for level, stride in zip(LEVELS, STRIDES, strict=True)]
        self.channels = {k: shapes[name].channels for k, name in zip(LEVELS, self.names, strict=True)}
        if STRIDES[-1] % max(net.size_divisibility, 1):
            raise ValueError(
                f"{type(net).__name__} wants sizes that are multiples of {net.size_divisibility}; our models pad to "
                f"multiples of {STRIDES[-1]}, so expected a divisor of that"
            )

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Normalised frames [batch, 3, H, W] -> res2..res5, each [batch, C_level, H / stride, W / stride]"""
        maps = self.net(frames)
        return {k: maps[name] for k, name in zip(LEVELS, self.names, strict=True)}

    def _name(self, shapes: Mapping[str, ShapeSpec], level: str, stride: int) -> str:
        fitting = [name for name, shape in shapes.items() if shape.stride == stride]
        if level in fitting:
            return level
        if len(fitting) != 1:
            there = ", ".join(f"{name} at {shape.stride}" for name, shape in shapes.items())
            raise ValueError(
                f"{type(self.net).__name__} gives {there}; expected {level} at stride {stride}, or one map at that "
                "stride. A ResNet of detectron2 needs MODEL.RESNETS.OUT_FEATURES [res2, res3, res4, res5]"
            )
        return fitting[0]


def build_levels(cfg: CfgNode) -> nn.Module:
    """The backbone MODEL.BACKBONE.NAME of detectron2's registry as a part of our models.

    Raises ValueError, with those that there are, for a name that is not registered, and as the backbones do.
    """
    known = [name for name, _ in BACKBONE_REGISTRY]
    if cfg.MODEL.BACKBONE.NAME not in known:
        raise ValueError(f"MODEL.BACKBONE.NAME is {cfg.MODEL.BACKBONE.NAME!r}; registered are {', '.join(known)}")
    backbone = build_backbone(cfg)
    whole = isinstance(backbone, _FourLevels) and backbone.out_features == LEVELS
    return backbone if whole else FeatureLevels(backbone)


def describe_levels(cfg: CfgNode, make: Callable[..., Any]) -> Any | None:
    """What stands for the backbone of a config outside detectron2: `make(Class, **arguments)`; None: nothing does."""
    ours = {"PVTv2": (TimmBackbone, "PVTV2"), "MiT": (MixTransformer, "MIT")}
    if cfg.MODEL.BACKBONE.NAME not in ours:
        return None
    kind, section = ours[cfg.MODEL.BACKBONE.NAME]
    return make(kind, **{k: v for k, v in arguments(cfg.MODEL[section]).items() if k != "out_features"})
