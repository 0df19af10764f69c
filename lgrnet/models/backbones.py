"""Image backbones, as maps from frames to four feature maps (CvT: three).

Left out: the first PVT, SSA and SimViT, which SSFormer's code offers and its two released models do not have.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import timm
from torch import Tensor, nn

from lgrnet.layers.depthwise_mlp import DepthwiseMlp
from lgrnet.layers.library_block import with_own_blocks
from lgrnet.layers.pyramid_stage import PatchEmbedding, PyramidStage
from lgrnet.layers.residual_block import ResidualBlock
from lgrnet.layers.spatial_reduction import SpatialReductionAttention

# dims of the four stages, blocks in each (Xie et al., NeurIPS 2021, table 6)
_MIT = {
    "mit_b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "mit_b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
    "mit_b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
    "mit_b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
    "mit_b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}
LEVELS = ("res2", "res3", "res4", "res5")
STRIDES = (4, 8, 16, 32)
OWN_BLOCKS = (DepthwiseMlp, SpatialReductionAttention, ResidualBlock, PatchEmbedding, PyramidStage)
"""Blocks of PVTv2 and MiT with a faster forward pass here."""


class TimmBackbone(nn.Module):
    """Any timm model with feature maps at strides 4, 8, 16 and 32 that takes frames of any size, by its timm name.

    name        e.g. "pvt_v2_b2" or "res2net50d"; `net` keeps timm's own parameter names
    drop_path   the largest drop-path rate, in 0 <= rate < 1 (it rises linearly over the blocks); 0 for models without
    norm_eps    epsilon of every layer norm; None leaves timm's
    mlp_ratios  hidden width of the MLPs of each stage over its width, for models that have it (PVTv2); None leaves
                timm's. The PVTv2-B5 of SSFormer's reproduction study has (8, 8, 4, 4), the published one (4, 4, 4, 4)

    Raises ValueError for a name that timm does not know, a drop-path rate out of range, an option that the model does
    not take, and a model without such feature maps.
    """

    def __init__(
        self,
        name: str = "pvt_v2_b2",
        drop_path: float = 0.1,
        norm_eps: float | None = None,
        mlp_ratios: Sequence[float] | None = None,
    ):
        super().__init__()
        # Also keeps names such as "hf-hub:..." from downloading what somebody else chose.
        if not timm.is_model(name):
            near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.0))
            raise ValueError(f"timm {timm.__version__} has no model {name!r}; the nearest names are {near}")
        check_drop_path(drop_path)
        options = {"drop_path_rate": drop_path} if drop_path else {}
        if mlp_ratios is not None:
            options["mlp_ratios"] = tuple(mlp_ratios)
        self.net = _created(name, options)
        if not all(hasattr(self.net, method) for method in ("forward_intermediates", "prune_intermediate_layers")):
            raise ValueError(
                f"timm model {name!r} does not give its intermediate feature maps (it has no forward_intermediates or "
                'no prune_intermediate_layers); take another model, for example "pvt_v2_b2" or "res2net50d"'
            )
        by_stride = {info["reduction"]: i for i, info in enumerate(getattr(self.net, "feature_info", ()))}
        missing = [stride for stride in STRIDES if stride not in by_stride]
        if missing:
            raise ValueError(f"timm model {name!r} has no feature maps at strides {missing}; expected all of {STRIDES}")
        self.indices = [by_stride[stride] for stride in STRIDES]
        self.net.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
        with_own_blocks(self.net, OWN_BLOCKS)
        self.channels = {k: self.net.feature_info[i]["num_chs"] for k, i in zip(LEVELS, self.indices, strict=True)}
        set_norm_eps(self.net, norm_eps)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Normalised frames [batch, 3, H, W] -> res2..res5, each [batch, C_level, H / stride, W / stride]."""
        maps = self.net.forward_intermediates(frames, indices=self.indices, norm=False, intermediates_only=True)
        return dict(zip(LEVELS, maps, strict=True))


def _created(name: str, options: Mapping[str, Any]) -> nn.Module:
    """timm's model; its own word for an option that it does not take is a TypeError from deep inside."""
    try:
        return timm.create_model(name, num_classes=0, **options)
    except TypeError as error:
        refused = [option for option in options if f"'{option}'" in str(error)]
        if not refused:
            raise
        name_here = {"drop_path_rate": "drop_path=0"}.get(refused[0], f"{refused[0]}=None")
        raise ValueError(f"timm model {name!r} takes no {refused[0]}; give {name_here}") from error


class MixTransformer(nn.Module):
    """The encoder of SegFormer (MiT-B0..B5, Xie et al., NeurIPS 2021), as segmentation-models-pytorch has it.

    name       "mit_b0" .. "mit_b5"; `net` keeps the official parameter names (block1.0.attn.q.weight, ...)
    drop_path  the largest drop-path rate, in 0 <= rate < 1; it rises linearly over the blocks, from 0 for the first
    norm_eps   epsilon of every layer norm; None: the official ones, 1e-6 in blocks and after stages, 1e-5 after patch
               embeddings and in attention

    Raises ValueError for another name and for a drop-path rate out of range.
    """

    def __init__(self, name: str = "mit_b0", drop_path: float = 0.1, norm_eps: float | None = None):
        super().__init__()
        if name not in _MIT:
            near = ", ".join(difflib.get_close_matches(str(name), _MIT, n=3, cutoff=0.0))
            raise ValueError(f"there is no mix transformer {name!r}; the nearest names are {near}")
        check_drop_path(drop_path)
        # Here and not above: the other backbones work where it is not installed.
        from segmentation_models_pytorch.encoders import mix_transformer

        dims, depths = _MIT[name]
        self.net = mix_transformer.MixVisionTransformer(
            embed_dims=dims,
            num_heads=(1, 2, 5, 8),
            mlp_ratios=(4, 4, 4, 4),
            qkv_bias=True,
            drop_path_rate=drop_path,
            norm_layer=partial(mix_transformer.LayerNorm, eps=1e-6),
            depths=depths,
            sr_ratios=(8, 4, 2, 1),
        )
        self.net.pretrained_cfg = {"architecture": name}  # where timm says it, too
        for stage in range(1, 5):
            # The official initial values are PyTorch's own, and the library draws these convolutions like the others.
            getattr(self.net, f"patch_embed{stage}").proj.reset_parameters()
        with_own_blocks(self.net, OWN_BLOCKS)
        set_norm_eps(self.net, norm_eps)
        self.channels = dict(zip(LEVELS, dims, strict=True))

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Normalised frames [batch, 3, H, W] -> res2..res5, [batch, C_level, H / stride, W / stride], rounded up"""
        return dict(zip(LEVELS, self.net(frames), strict=True))


CVT_STAGES = {"cvt_13": (1, 2, 10), "cvt_21": (1, 4, 16)}


class ConvolutionalTransformer(nn.Module):
    """CvT-13 and CvT-21 (Wu et al., ICCV 2021), through transformers: `pip install "lgrnet[cvt]"`.

    Three stages only: maps at strides 4, 8 and 16, for decoders that take as many levels as there are.

    name  "cvt_13" or "cvt_21"; `net` keeps the parameter names of transformers

    Drop path is off: that of transformers is applied after the residual sum and so drops a frame, not a branch.
    Raises ValueError for another name, ImportError with the command to install transformers.
    """

    def __init__(self, name: str = "cvt_21"):
        super().__init__()
        if name not in CVT_STAGES:
            near = ", ".join(difflib.get_close_matches(str(name), CVT_STAGES, n=3, cutoff=0.0))
            raise ValueError(f"there is no convolutional transformer {name!r}; the nearest names are {near}")
        try:
            from transformers import CvtConfig, CvtModel
        except ImportError as error:
            raise ImportError(f'{name} needs transformers; install it with pip install "lgrnet[cvt]"') from error
        self.net = CvtModel(CvtConfig(depth=list(CVT_STAGES[name]), drop_path_rate=[0.0, 0.0, 0.0]))
        self.channels = dict(zip(LEVELS[:3], self.net.config.embed_dim, strict=True))

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Normalised frames [batch, 3, H, W] -> res2..res4, each [batch, C_level, H / stride, W / stride]"""
        maps = self.net(frames, output_hidden_states=True).hidden_states
        return dict(zip(LEVELS[:3], maps, strict=True))


def check_drop_path(rate: float) -> None:
    """Raises ValueError for a rate that no block can have: the libraries find that out only in training, or never."""
    if not 0 <= rate < 1:
        raise ValueError(f"drop_path is {rate}; expected a rate in 0 <= rate < 1, for example 0.1 (0: none)")


def set_norm_eps(net: nn.Module, eps: float | None) -> None:
    """Sets the epsilon of every layer norm, in place; None leaves them."""
    if eps is not None:
        for module in net.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = eps
