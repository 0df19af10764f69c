"""Image backbones from timm, as maps from frames to four feature maps."""

from __future__ import annotations

import difflib

import timm
from torch import Tensor, nn

LEVELS = ("res2", "res3", "res4", "res5")
STRIDES = (4, 8, 16, 32)


class TimmBackbone(nn.Module):
    """Any timm model with feature maps at strides 4, 8, 16 and 32, by its timm name.

    name       e.g. "pvt_v2_b2" or "res2net50d"; `net` keeps timm's own parameter names
    drop_path  the largest drop-path rate (it rises linearly over the blocks); 0 for models without

    Raises ValueError for a name that timm does not know, and for a model without such feature maps.
    """

    def __init__(self, name: str = "pvt_v2_b2", drop_path: float = 0.1):
        super().__init__()
        # Also keeps names such as "hf-hub:..." from downloading what somebody else chose.
        if not timm.is_model(name):
            near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.0))
            raise ValueError(f"timm {timm.__version__} has no model {name!r}; the nearest names are {near}")
        options = {"drop_path_rate": drop_path} if drop_path else {}
        self.net = timm.create_model(name, num_classes=0, **options)
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
        self.channels = {k: self.net.feature_info[i]["num_chs"] for k, i in zip(LEVELS, self.indices, strict=True)}

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Normalised frames [batch, 3, H, W] -> res2..res5, each [batch, C_level, H / stride, W / stride]."""
        maps = self.net.forward_intermediates(frames, indices=self.indices, norm=False, intermediates_only=True)
        return dict(zip(LEVELS, maps, strict=True))
