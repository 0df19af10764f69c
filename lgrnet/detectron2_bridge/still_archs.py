"""The still-image models in detectron2's terms: an "image" is a clip of one frame, a video is read frame by frame."""

from __future__ import annotations

import warnings
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from lgrnet.config import ConfigError
from lgrnet.detectron2_bridge.config import arguments
from lgrnet.detectron2_bridge.meta_arch import ClipMetaArch, Make, per_frame
from lgrnet.losses.dense_criterion import DenseCriterion
from lgrnet.losses.softmax_criterion import SoftmaxCriterion
from lgrnet.models import ssformer, still_decoders, svanet
from lgrnet.models.resnet import ResNetBackbone

_PUP = "ProgressiveUpsamplingDecoder"
_DECODERS = ("ProgressiveLocalityDecoder", "SegFormerDecoder", "MultiLevelAggregationDecoder", _PUP)


@META_ARCH_REGISTRY.register()
class SSFormer(ClipMetaArch):
    """SSFormer (Wang et al., MICCAI 2022) and its ablation, from MODEL.SSFORMER and MODEL.DENSE_CRITERION.

    MODEL.SSFORMER.DECODER names a decoder of `lgrnet.models.still_decoders`, which has its own default width, and
    MODEL.SSFORMER.SQUARE is the `square` of ProgressiveUpsamplingDecoder; with another it raises ConfigError.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """As in `ClipMetaArch`, with binary cross-entropy and soft Dice."""
        return {**super().from_config(cfg), "criterion": DenseCriterion(**arguments(cfg.MODEL.DENSE_CRITERION))}

    @classmethod
    def describe(cls, cfg: CfgNode, backbone: Any, make: Make) -> Any:
        """A decoder on a backbone, for every frame."""
        section = cfg.MODEL.SSFORMER
        if section.DECODER not in _DECODERS:
            raise ConfigError(f"MODEL.SSFORMER.DECODER is {section.DECODER!r}; expected one of {', '.join(_DECODERS)}")
        square = {"square": True} if section.SQUARE else {}
        if square and section.DECODER != _PUP:
            raise ConfigError(f"MODEL.SSFORMER.SQUARE is True, but {section.DECODER} has none; expected DECODER {_PUP}")
        kind, outputs = getattr(still_decoders, section.DECODER), cfg.MODEL.NUM_CLASSES
        decoder = make(kind, outputs=outputs, **square, zen_partial=True)
        net = make(ssformer.SSFormer, backbone=backbone, decoder=decoder, enlarge=section.ENLARGE)
        return per_frame(cfg, net, make, "sigmoid")


@META_ARCH_REGISTRY.register()
class SvANet(ClipMetaArch):
    """SvANet (Dai et al., IEEE TNNLS 2025), from MODEL.SVANET and MODEL.SOFTMAX_CRITERION.

    It has a ResNet with maps at strides 2 .. 32 of its own, MODEL.SVANET.RESNET; MODEL.BACKBONE is not used. Its frames
    are not normalised as published: MODEL.PIXEL_MEAN [0, 0, 0] and PIXEL_STD [255, 255, 255]. A MODEL.SVANET.MASK_SEED
    below 0 follows SEED, so that repeats have their own; where SEED is below 0, too, it is 0, and a run can be resumed.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """As in `ClipMetaArch`, with the cross-entropy over background and classes."""
        if any(cfg.MODEL.PIXEL_MEAN):
            warnings.warn(
                f"MODEL.PIXEL_MEAN is {list(cfg.MODEL.PIXEL_MEAN)}; SvANet is published without normalisation: "
                "MODEL.PIXEL_MEAN [0, 0, 0], PIXEL_STD [255, 255, 255]",
                stacklevel=2,
            )
        return {**super().from_config(cfg), "criterion": SoftmaxCriterion(**arguments(cfg.MODEL.SOFTMAX_CRITERION))}

    @classmethod
    def levels(cls, cfg: CfgNode) -> nn.Module:
        """SvANet's own ResNet."""
        return ResNetBackbone(cfg.MODEL.SVANET.RESNET)

    @classmethod
    def describe_levels(cls, cfg: CfgNode, make: Make) -> Any:
        """SvANet's own ResNet."""
        return make(ResNetBackbone, name=cfg.MODEL.SVANET.RESNET)

    @classmethod
    def describe(cls, cfg: CfgNode, backbone: Any, make: Make) -> Any:
        """SvANet on a ResNet, for every frame; background is a channel of its own."""
        section = {name: value for name, value in arguments(cfg.MODEL.SVANET).items() if name != "resnet"}
        if section["mask_seed"] < 0:
            section["mask_seed"] = max(cfg.SEED, 0)
        net = make(svanet.SvANet, backbone=backbone, num_classes=cfg.MODEL.NUM_CLASSES + 1, **section)
        return per_frame(cfg, net, make, "softmax")
