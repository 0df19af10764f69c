"""LGRNet and its relatives as a detectron2 project: importing this package registers its models and backbones.

Needs detectron2 0.6, from its own repository (INSTALL.md). Nothing else in lgrnet imports it, or this package.
"""

import importlib
import warnings

_KNOWN = "0.6"
_HOW = (
    "lgrnet.detectron2_bridge needs detectron2 0.6, whose source is enough: git clone "
    "https://github.com/facebookresearch/detectron2, its folder on PYTHONPATH (INSTALL.md, detectron2)"
)
_NEEDED = ("config", "structures", "modeling", "data", "evaluation", "checkpoint", "solver", "utils.events")


def _check_detectron2() -> None:
    """Raises ImportError with advice where detectron2 is missing or cannot be used; warns of an unknown version."""
    try:
        detectron2 = importlib.import_module("detectron2")
    except ModuleNotFoundError as error:
        if error.name != "detectron2":
            raise ImportError(f"detectron2 is there but does not import: {error}. {_HOW}", name=error.name) from error
        raise ModuleNotFoundError(f"detectron2 is not installed. {_HOW}", name="detectron2") from None
    version = getattr(detectron2, "__version__", "of an unknown version")
    try:
        for name in _NEEDED:
            importlib.import_module(f"detectron2.{name}")
    except ImportError as error:
        raise ImportError(
            f"detectron2 {version} is there but cannot be used: {error}. {_HOW}", name="detectron2"
        ) from error
    if version != _KNOWN and not version.startswith(f"{_KNOWN}."):
        warnings.warn(
            f"detectron2 is {version}; the bridge is tested with {_KNOWN}, numbers and names may differ", stacklevel=3
        )


_check_detectron2()

# ruff: noqa: E402  (what follows imports detectron2)
from lgrnet.detectron2_bridge import paths
from lgrnet.detectron2_bridge.backbones import FeatureLevels, MiT, PVTv2
from lgrnet.detectron2_bridge.catalog import clip_dicts, register_folder, register_layouts, register_records
from lgrnet.detectron2_bridge.config import add_lgrnet_config, merge_config
from lgrnet.detectron2_bridge.evaluator import ClipEvaluator
from lgrnet.detectron2_bridge.frames import FrameEvaluator, register_frames
from lgrnet.detectron2_bridge.loaders import build_test_loader, build_train_loader
from lgrnet.detectron2_bridge.mapper import ClipMapper
from lgrnet.detectron2_bridge.meta_arch import ClipMetaArch, LGRNet, PlainHead, encoder_of
from lgrnet.detectron2_bridge.solver import build_optimizer
from lgrnet.detectron2_bridge.still_archs import SSFormer, SvANet

__all__ = [
    "ClipEvaluator",
    "ClipMapper",
    "ClipMetaArch",
    "FeatureLevels",
    "FrameEvaluator",
    "LGRNet",
    "MiT",
    "PVTv2",
    "PlainHead",
    "SSFormer",
    "SvANet",
    "add_lgrnet_config",
    "build_optimizer",
    "build_test_loader",
    "build_train_loader",
    "clip_dicts",
    "encoder_of",
    "merge_config",
    "paths",
    "register_folder",
    "register_frames",
    "register_layouts",
    "register_records",
]
