"""The keys of the bridge in a detectron2 config, and files merged into one with errors that help."""

from __future__ import annotations

import difflib
import inspect
import warnings
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm
from yaml import YAMLError

from lgrnet.config import ConfigError
from lgrnet.losses.dense_criterion import DenseCriterion
from lgrnet.losses.matcher import HungarianMatcher
from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.losses.softmax_criterion import SoftmaxCriterion
from lgrnet.models.backbones import LEVELS, MixTransformer, TimmBackbone
from lgrnet.models.lgr_encoder import LGREncoder
from lgrnet.models.plain_head import PlainHead
from lgrnet.models.segmenter import PIXEL_MEAN, PIXEL_STD
from lgrnet.models.svanet import SvANet
from lgrnet.models.video_decoder import VideoDecoder

_EPOCH = 823  # steps: 3292 clips (every 6th frame of the 112 training videos of SUN-SEG) / 4 clips per step
_IN_RGB = [round(255 * x, 3) for x in PIXEL_MEAN]
_PLAIN = (bool, int, float, str, list, tuple)
_KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number with a point",
    str: "text",
    list: "a list",
    tuple: "a list",
}


def add_lgrnet_config(cfg: CfgNode) -> CfgNode:
    """Adds our keys to a config of detectron2 and gives it, too; both get the published settings of SUN-SEG.

    Ours are MODEL.NUM_CLASSES (background not counted), MODEL.FRAME_CHUNK, MODEL.LGRNET, MODEL.PLAIN_HEAD,
    MODEL.SSFORMER, MODEL.SVANET, MODEL.CRITERION, MODEL.DENSE_CRITERION, MODEL.SOFTMAX_CRITERION, MODEL.PVTV2,
    MODEL.MIT, INPUT.CLIP, DATASETS.ROOT, SOLVER.BACKBONE_MULTIPLIER, TEST.SEMANTIC_ON and TEST.INSTANCE_ON. The keys
    of a class are the names of its arguments in capitals, with their defaults; but MODEL.SVANET.MASK_SEED follows SEED.

    Of detectron2's own keys these change, so that they mean what they mean there: MODEL.META_ARCHITECTURE,
    MODEL.BACKBONE, MODEL.PIXEL_MEAN and PIXEL_STD (0..255, in the order of INPUT.FORMAT, which is RGB), SOLVER,
    INPUT.MIN_SIZE_TEST (to which detectron2's own predictor and mapper bring an image, keeping its aspect ratio),
    MODEL.MASK_ON and INPUT.MASK_FORMAT (with which its mapper reads the masks of `register_frames`, and polygons),
    TEST.EVAL_PERIOD, SEED, and DATALOADER.ASPECT_RATIO_GROUPING. MODEL.WEIGHTS stays empty: random weights.
    """
    _add_model(cfg.MODEL)
    cfg.INPUT.FORMAT, cfg.INPUT.MASK_FORMAT = "RGB", "bitmask"
    cfg.INPUT.MIN_SIZE_TEST = 352  # of detectron2's own; for another INPUT.CLIP.SIZE set it, too
    cfg.INPUT.CLIP = CfgNode(
        {
            "SIZE": [352, 352],  # height, width
            "SAMPLER": "LocalGlobal",
            "NUM_FRAMES": 6,
            "ANCHOR_STEP": 6,
            "AUGMENTATION": ["Resize", "RandomFlip", "RandomRotate90"],
            "REQUIRE_FOREGROUND": True,
            "RESIZE": "bilinear",  # in evaluation
            "SIZES": [256, 288, 320, 352, 384, 416, 448],  # of which each step draws one; empty: INPUT.CLIP.SIZE
        }
    )
    cfg.DATASETS.ROOT = "data"
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    _add_solver(cfg.SOLVER)
    cfg.TEST.EVAL_PERIOD = 8 * _EPOCH
    cfg.TEST.SEMANTIC_ON = True
    cfg.TEST.INSTANCE_ON = True
    cfg.SEED = 2024
    return cfg


def arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a section as arguments: in small letters, without sections below it."""
    return {key.lower(): value for key, value in node.items() if not isinstance(value, Mapping)}


def statistic(name: str, values: Sequence[float], input_format: str) -> tuple[float, ...]:
    """Statistics of pixels in 0..255, in the order of `input_format`, as our models have them: in 0..1, RGB.

    name  "pixel_mean" or "pixel_std". Raises ValueError for anything but 3 numbers, and a deviation not above 0.
    """
    values = [float(value) for value in values]
    if len(values) != 3 or (name == "pixel_std" and min(values) <= 0):
        raise ValueError(f"{name} is {values}; expected 3 numbers in 0..255, and a pixel_std above 0")
    return tuple(value / 255 for value in (values[::-1] if input_format == "BGR" else values))


def statistics(cfg: CfgNode) -> dict[str, tuple[float, ...]]:
    """MODEL.PIXEL_MEAN and PIXEL_STD, which are in the order of INPUT.FORMAT, as the arguments of our models."""
    if cfg.INPUT.FORMAT == "BGR" and list(cfg.MODEL.PIXEL_MEAN) == _IN_RGB:
        warnings.warn(
            f"INPUT.FORMAT is BGR, and MODEL.PIXEL_MEAN {_IN_RGB} is ImageNet's in the order RGB; turn it and "
            "PIXEL_STD round",
            stacklevel=2,
        )
    return {name: statistic(name, cfg.MODEL[name.upper()], cfg.INPUT.FORMAT) for name in ("pixel_mean", "pixel_std")}


def seed_of(cfg: CfgNode) -> int:
    """SEED; one below 0 draws a seed that is the same in all processes, which all have to ask for it."""
    return cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()


def merge_config(cfg: CfgNode, file: str | Path | None = None, opts: Sequence[str] = ()) -> CfgNode:
    """Merges a yaml file (and those that its _BASE_ names), then KEY VALUE pairs, into `cfg`, and gives it.

    The same as cfg.merge_from_file and cfg.merge_from_list, but yaml tags that run code are refused, and what is
    wrong raises ConfigError before anything is merged: a file that is missing or no yaml, an unknown key (with the
    nearest known ones), a value of the wrong type (with the one that is expected).
    """
    if file is not None:
        loaded = _read(type(cfg), Path(file))
        for key, value in _leaves(loaded):
            _check(cfg, key, value, f"config file {file}")
        cfg.merge_from_file(str(file), allow_unsafe=False)
    if len(opts) % 2:
        raise ConfigError(
            f"options are KEY VALUE pairs, but there are {len(opts)} words: {' '.join(map(str, opts))}; "
            "write for example SOLVER.MAX_ITER 100"
        )
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        _check(cfg, key, value, "option")
    cfg.merge_from_list(list(opts))
    return cfg


def _add_model(model: CfgNode) -> None:
    model.META_ARCHITECTURE, model.MASK_ON = "LGRNet", True  # detectron2's own mapper drops masks without the latter
    model.BACKBONE.NAME, model.BACKBONE.FREEZE_AT = "PVTv2", 0
    model.PIXEL_MEAN, model.PIXEL_STD = list(_IN_RGB), [round(255 * x, 3) for x in PIXEL_STD]
    model.NUM_CLASSES = 1
    model.FRAME_CHUNK = 0  # frames that go through a model at once outside training; 0: as many as it says
    model.LGRNET = CfgNode({"ENCODER": _section(LGREncoder), "DECODER": _section(VideoDecoder, "num_classes")})
    model.PLAIN_HEAD = _section(PlainHead, "num_classes")
    model.CRITERION = _section(SetCriterion)
    model.CRITERION.MATCHER = _section(HungarianMatcher)
    model.DENSE_CRITERION = _section(DenseCriterion)
    model.SOFTMAX_CRITERION = _section(SoftmaxCriterion)
    # SQUARE: ProgressiveUpsamplingDecoder's, False for the others
    model.SSFORMER = CfgNode({"DECODER": "ProgressiveLocalityDecoder", "ENLARGE": "corners", "SQUARE": False})
    model.SVANET = _section(SvANet, "num_classes")
    model.SVANET.RESNET, model.SVANET.MASK_SEED = "resnet50", -1  # below 0: SEED, or 0 where that is below 0
    for name, kind in (("PVTV2", TimmBackbone), ("MIT", MixTransformer)):
        model[name] = _section(kind)
        model[name].OUT_FEATURES = list(LEVELS)


def _add_solver(solver: CfgNode) -> None:
    solver.BASE_LR, solver.BACKBONE_MULTIPLIER, solver.WEIGHT_DECAY = 1e-3, 0.1, 1e-4
    solver.DECAY_BIASES, solver.DECAY_NORMS = True, False
    solver.STEPS, solver.GAMMA, solver.WARMUP_ITERS = tuple(_EPOCH * k for k in (3, 6, 9, 12)), 0.5, 0
    solver.MAX_ITER, solver.CHECKPOINT_PERIOD, solver.IMS_PER_BATCH = 15 * _EPOCH, 8 * _EPOCH, 4
    clip = solver.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE = True, "full_model", 0.01


def _section(kind: Callable, *elsewhere: str) -> CfgNode:
    """The plain arguments of a class with their defaults; those that stand `elsewhere` are left out."""
    known = inspect.signature(kind).parameters.items()
    found = {name: parameter.default for name, parameter in known if name not in elsewhere}
    return CfgNode({name.upper(): value for name, value in found.items() if isinstance(value, _PLAIN)})


def _read(kind: type[CfgNode], file: Path) -> Mapping[str, Any]:
    """What a yaml file and its bases say."""
    if not file.is_file():
        near = sorted(str(path) for path in file.parent.glob("*.yaml")) if file.parent.is_dir() else []
        raise ConfigError(
            f"config file {file} does not exist{'; that folder holds ' + ', '.join(near) if near else ''}"
        )
    try:
        loaded = kind.load_yaml_with_base(str(file), allow_unsafe=False)
    except YAMLError as error:
        raise ConfigError(f"config file {file} is no plain yaml: {' '.join(str(error).split())}") from error
    except (OSError, AssertionError, TypeError) as error:
        raise ConfigError(f"config file {file} or its _BASE_ cannot be read: {error}") from error
    if not isinstance(loaded, Mapping):
        raise ConfigError(f"config file {file} holds {type(loaded).__name__}; expected sections such as MODEL:")
    return loaded


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a tree, dotted, with its value; sections are not values unless they are empty."""
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _check(cfg: CfgNode, key: str, value: Any, source: str) -> None:
    """Raises ConfigError unless `cfg` knows the key and the value has its type."""
    node: Any = cfg
    for name in key.split("."):
        if isinstance(node, CfgNode) and name not in node and node.is_new_allowed():
            return
        if not isinstance(node, CfgNode) or name not in node:
            if cfg.key_is_deprecated(key) or cfg.key_is_renamed(key):
                return  # detectron2 has words of its own for these
            near = difflib.get_close_matches(key, [known for known, _ in _leaves(cfg)], n=3, cutoff=0.0)
            raise ConfigError(f"{source}: there is no key {key!r}; the nearest are {', '.join(near)}")
        node = node[name]
    given = _decoded(value)
    if not _same_kind(node, given):
        wanted = "a section of keys" if isinstance(node, CfgNode) else f"{_KINDS[type(node)]}, for example {node!r}"
        raise ConfigError(f"{source}: {key} is {value!r}; expected {wanted}")


def _decoded(value: Any) -> Any:
    """A value as yacs reads it: text that is a Python literal counts as that."""
    if not isinstance(value, str):
        return value
    try:
        return literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _same_kind(old: Any, new: Any) -> bool:
    """Whether yacs takes `new` for `old`."""
    if isinstance(old, CfgNode):
        return isinstance(new, Mapping)
    both_lists = isinstance(old, list | tuple) and isinstance(new, list | tuple)
    return old is None or new is None or type(old) is type(new) or both_lists
