"""A small package in the place of detectron2, so that the bridge is tested where detectron2 is not installed.

Only what the bridge uses, with the same names, arguments and meaning; `test_standin.py` compares it with the real
package where that is there. `MODULES` lists what stands in which module: add a name there when the bridge needs it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from yacs.config import CfgNode as YacsNode

from tests.detectron2_bridge import standin_data


class CfgNode(YacsNode):
    """yacs's node, with `_BASE_` in files."""

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict:
        loaded = yaml.safe_load(Path(filename).read_text())
        if "_BASE_" not in loaded:
            return loaded
        base = cls(cls.load_yaml_with_base(str(Path(filename).parent / loaded.pop("_BASE_"))))
        base.set_new_allowed(True)
        base.merge_from_other_cfg(cls(loaded))
        return base

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        self.merge_from_other_cfg(type(self)(self.load_yaml_with_base(cfg_filename)))


def get_cfg() -> CfgNode:
    """The keys of detectron2's defaults that the bridge uses or changes."""
    return CfgNode(
        {
            "VERSION": 2,
            "MODEL": {
                "DEVICE": "cuda",
                "META_ARCHITECTURE": "GeneralizedRCNN",
                "WEIGHTS": "",
                "PIXEL_MEAN": [103.53, 116.28, 123.675],
                "PIXEL_STD": [1.0, 1.0, 1.0],
                "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 2},
            },
            "INPUT": {"FORMAT": "BGR", "MIN_SIZE_TEST": 800},
            "DATASETS": {"TRAIN": (), "TEST": ()},
            "DATALOADER": {"NUM_WORKERS": 4, "ASPECT_RATIO_GROUPING": True},
            "SOLVER": {
                "BASE_LR": 0.001,
                "WEIGHT_DECAY": 0.0001,
                "STEPS": (30000,),
                "GAMMA": 0.1,
                "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
                "WARMUP_ITERS": 1000,
                "WARMUP_FACTOR": 0.001,
                "MAX_ITER": 40000,
                "CHECKPOINT_PERIOD": 5000,
                "IMS_PER_BATCH": 16,
                "CLIP_GRADIENTS": {"ENABLED": False, "CLIP_TYPE": "value", "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0},
            },
            "TEST": {"EVAL_PERIOD": 0, "DETECTIONS_PER_IMAGE": 100, "EXPECTED_RESULTS": []},
            "OUTPUT_DIR": "./output",
            "SEED": -1,
        }
    )


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None) -> Callable:
    """On `__init__`: the class may be called with a config; with from_config=f: a function may."""
    if init_func is None:
        return functools.partial(_configurable_function, from_config) if from_config else configurable

    @functools.wraps(init_func)
    def wrapped(self, *args, **kwargs):
        init_func(self, **_explicit(type(self).from_config, args, kwargs)) if _has_cfg(args, kwargs) else init_func(
            self, *args, **kwargs
        )

    return wrapped


def _configurable_function(from_config: Callable, function: Callable) -> Callable:
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        return function(**_explicit(from_config, args, kwargs)) if _has_cfg(args, kwargs) else function(*args, **kwargs)

    return wrapped


def _has_cfg(args: tuple, kwargs: dict) -> bool:
    return isinstance(args[0] if args else kwargs.get("cfg"), YacsNode)


def _explicit(from_config: Callable, args: tuple, kwargs: dict) -> dict:
    known = inspect.signature(from_config).parameters
    passed = {k: v for k, v in kwargs.items() if k in known}
    return {**from_config(*args, **passed), **{k: v for k, v in kwargs.items() if k not in known}}


class Registry:
    """Classes and functions by name."""

    def __init__(self, name: str):
        self._name, self._found = name, {}

    def register(self, obj: Any = None) -> Any:
        if obj is None:
            return self.register
        if obj.__name__ in self._found:
            raise AssertionError(f"{obj.__name__} is already registered in {self._name}")
        self._found[obj.__name__] = obj
        return obj

    def get(self, name: str) -> Any:
        if name not in self._found:
            raise KeyError(f"No object named '{name}' found in '{self._name}' registry!")
        return self._found[name]

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._found.items())


META_ARCH_REGISTRY, BACKBONE_REGISTRY = Registry("META_ARCH"), Registry("BACKBONE")


@dataclass
class ShapeSpec:
    """Shape of a feature map."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None


class Backbone(nn.Module, ABC):
    """What BACKBONE_REGISTRY gives."""

    @abstractmethod
    def forward(self): ...

    @property
    def size_divisibility(self) -> int:
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        channels, strides = self._out_feature_channels, self._out_feature_strides
        return {name: ShapeSpec(channels=channels[name], stride=strides[name]) for name in self._out_features}


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape or ShapeSpec(channels=3))
    if not isinstance(backbone, Backbone):
        raise AssertionError(type(backbone))
    return backbone


def build_model(cfg: CfgNode) -> nn.Module:
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).to(cfg.MODEL.DEVICE)


class Boxes:
    """[N, 4] x0 y0 x1 y1."""

    def __init__(self, tensor: Tensor):
        self.tensor = torch.as_tensor(tensor, dtype=torch.float32).reshape(-1, 4)

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, item) -> Boxes:
        return Boxes(self.tensor[item])

    def to(self, device) -> Boxes:
        return Boxes(self.tensor.to(device))


class BoxMode(IntEnum):
    """How a box is written."""

    XYXY_ABS = 0
    XYWH_ABS = 1


class BitMasks:
    """[N, H, W] bool."""

    def __init__(self, tensor: Tensor):
        self.tensor = torch.as_tensor(tensor).to(torch.bool)
        if self.tensor.dim() != 3:
            raise AssertionError(self.tensor.shape)
        self.image_size = self.tensor.shape[1:]

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, item) -> BitMasks:
        return BitMasks(self.tensor[item].reshape(-1, *self.image_size))

    def to(self, *args, **kwargs) -> BitMasks:
        return BitMasks(self.tensor.to(*args, **kwargs))

    def get_bounding_boxes(self) -> Boxes:
        boxes = torch.zeros(len(self), 4)
        for box, mask in zip(boxes, self.tensor, strict=True):
            y, x = mask.nonzero(as_tuple=True)
            if len(y):
                box[:] = torch.stack((x.min(), y.min(), x.max() + 1, y.max() + 1))
        return Boxes(boxes)

    @staticmethod
    def from_polygon_masks(polygon_masks: Any, height: int, width: int) -> BitMasks:
        raise NotImplementedError("the stand-in draws no polygons")


class PolygonMasks:
    """For each object a list of polygons; only held."""

    def __init__(self, polygons: list):
        self.polygons = polygons

    def __len__(self) -> int:
        return len(self.polygons)


class Instances:
    """Fields of equal length about an image of a size."""

    def __init__(self, image_size: tuple[int, int], **fields: Any):
        self.__dict__.update(_image_size=image_size, _fields={})
        for name, value in fields.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        return self._image_size

    def set(self, name: str, value: Any) -> None:
        if self._fields and len(value) != len(self):
            raise AssertionError(f"{name} has length {len(value)}, the others {len(self)}")
        self._fields[name] = value

    __setattr__ = set

    def __getattr__(self, name: str) -> Any:
        if name == "_fields" or name not in self._fields:
            raise AttributeError(name)
        return self._fields[name]

    def has(self, name: str) -> bool:
        return name in self._fields

    def get(self, name: str) -> Any:
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        return self._fields

    def __len__(self) -> int:
        return len(next(iter(self._fields.values())))

    def __getitem__(self, item) -> Instances:
        item = slice(item, item + 1) if isinstance(item, int) else item
        return Instances(self.image_size, **{name: value[item] for name, value in self._fields.items()})

    def to(self, *args, **kwargs) -> Instances:
        return Instances(
            self.image_size,
            **{k: v.to(*args, **kwargs) if hasattr(v, "to") else v for k, v in self._fields.items()},
        )


class EventStorage:
    """Knows the iteration of the training that is going on."""

    _stack: list[EventStorage] = []

    def __init__(self, start_iter: int = 0):
        self.iter = start_iter

    def __enter__(self) -> EventStorage:
        self._stack.append(self)
        return self

    def __exit__(self, *error) -> None:
        self._stack.pop()


def get_event_storage() -> EventStorage:
    return EventStorage._stack[-1]


def has_event_storage() -> bool:
    return bool(EventStorage._stack)


class PathHandler:
    """Subclasses give local files for paths with their prefixes."""


class PathManagerBase:
    """Asks the handler whose prefix a path has."""

    def __init__(self):
        self._handlers: dict[str, PathHandler] = {}

    def register_handler(self, handler: PathHandler, allow_override: bool = True) -> None:
        self._handlers.update({prefix: handler for prefix in handler._get_supported_prefixes()})

    def get_local_path(self, path: str) -> str:
        return next((h._get_local_path(path) for p, h in self._handlers.items() if path.startswith(p)), path)


class DetectionCheckpointer:
    """Reads and writes .pth files of {"model": state_dict}; names that do not fit are not looked at, as there."""

    def __init__(self, model: nn.Module, save_dir: str = "", **checkpointables: Any):
        self.model, self.save_dir = model, save_dir

    def save(self, name: str, **more: Any) -> None:
        torch.save({"model": self.model.state_dict(), **more}, Path(self.save_dir) / f"{name}.pth")

    def load(self, path: str) -> dict[str, Any]:
        if not path:
            return {}
        content = torch.load(PathManager.get_local_path(path), map_location="cpu", weights_only=True)
        state, own = content.pop("model", content), self.model.state_dict()
        fitting = {k: v for k, v in state.items() if k not in own or own[k].shape == v.shape}
        self.model.load_state_dict(fitting, strict=False)
        return content


PathManager = PathManagerBase()
comm = SimpleNamespace(
    get_rank=lambda: 0,
    get_world_size=lambda: 1,
    is_main_process=lambda: True,
    synchronize=lambda: None,
    shared_random_seed=lambda: 7,
    all_gather=lambda data: [data],
    gather=lambda data, dst=0: [data],
)
STRUCTURES = {"Instances": Instances, "Boxes": Boxes, "BitMasks": BitMasks, "PolygonMasks": PolygonMasks}
STRUCTURES["BoxMode"] = BoxMode
BUILDERS = {"build_backbone": build_backbone, "build_model": build_model}
REGISTRIES = {"META_ARCH_REGISTRY": META_ARCH_REGISTRY, "BACKBONE_REGISTRY": BACKBONE_REGISTRY}
STORAGE = {
    "EventStorage": EventStorage,
    "get_event_storage": get_event_storage,
    "has_event_storage": has_event_storage,
}
MODULES: dict[str, dict[str, Any]] = {
    "detectron2": {"__version__": "0.6"},
    "detectron2.config": {"CfgNode": CfgNode, "get_cfg": get_cfg, "configurable": configurable},
    "detectron2.layers": {"ShapeSpec": ShapeSpec},
    "detectron2.structures": STRUCTURES,
    "detectron2.modeling": {"Backbone": Backbone, **BUILDERS, **REGISTRIES},
    "detectron2.checkpoint": {"DetectionCheckpointer": DetectionCheckpointer},
    "detectron2.utils": {},
    "detectron2.utils.comm": vars(comm),
    "detectron2.utils.events": STORAGE,
    "detectron2.utils.file_io": {"PathHandler": PathHandler, "PathManager": PathManager},
    **standin_data.MODULES,
}
"""Module -> the names in it."""


def install() -> None:
    """Puts the stand-in in the place of `detectron2`."""
    for name, content in MODULES.items():
        module = ModuleType(name)
        vars(module).update(content)
        module.__path__, module.__spec__ = [], ModuleSpec(name, None)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
