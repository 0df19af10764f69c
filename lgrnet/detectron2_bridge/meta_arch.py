"""Our models as detectron2's: dicts in, losses or predictions in detectron2's terms out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from lgrnet import distributed
from lgrnet.config import ConfigError
from lgrnet.data.loader import collate
from lgrnet.data.transforms import draw_size
from lgrnet.detectron2_bridge.backbones import build_levels, describe_levels
from lgrnet.detectron2_bridge.config import arguments, seed_of, statistic, statistics
from lgrnet.detectron2_bridge.inputs import FORMATS, read_clip, read_targets
from lgrnet.detectron2_bridge.loading import use_model_names
from lgrnet.detectron2_bridge.outputs import class_maps, frame_instances
from lgrnet.draws import KeyedDraws, keyed_seed, python_generator
from lgrnet.engine.trainer import in_fp32, resized
from lgrnet.inference.predictor import pad_to_stride
from lgrnet.losses.dense_criterion import DenseCriterion
from lgrnet.losses.matcher import HungarianMatcher
from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.models import lgrnet, plain_head
from lgrnet.models.lgr_encoder import LGREncoder
from lgrnet.models.segmenter import PerFrame, Segmenter
from lgrnet.models.video_decoder import VideoDecoder
from lgrnet.structures import Clip, ClipBatch

Make = Callable[..., Any]
"""make(Class, zen_partial=False, **arguments): `construct` gives the module, `lgrnet.config.builds` its config node."""


class ClipMetaArch(nn.Module):
    """One of our models with its loss, in detectron2's contract; a lazy config names this class with its parts.

    model          frames [B, T, 3, H, W] in 0..1 -> SegOutput, with `stride` and `predict(output, info)`
    criterion      criterion(output, targets, draws) -> unweighted terms, with `weights`; None: the model only predicts
    seed           of every draw in training, with the step and the clip's position as in lgrnet's own trainer
    sizes          square training sizes of which each step draws one, multiples of the model's stride; empty: frames
                   stay as they come
    input_format   "RGB" or "BGR", the order of the channels that come in; the model always sees RGB
    pixel_mean, pixel_std  3 numbers in 0..255 in the order of input_format; None: as the model has them (ImageNet)
    max_instances  objects of a frame that are kept, those with the highest scores
    semantic_on, instance_on  whether predictions have "sem_seg" and "instances"; both take memory for long videos

    The names in its state dict are those of the model (see `loading`). A new still model takes a `describe`, and a
    criterion in `from_config`, as `PlainHead` has them. Raises ValueError for an argument that is none of these.
    """

    @configurable
    def __init__(
        self,
        *,
        model: Segmenter,
        criterion: Callable[..., dict[str, Tensor]] | None = None,
        seed: int = 2024,
        sizes: Sequence[int] = (),
        input_format: str = "RGB",
        pixel_mean: Sequence[float] | None = None,
        pixel_std: Sequence[float] | None = None,
        max_instances: int = 100,
        semantic_on: bool = True,
        instance_on: bool = True,
    ):
        super().__init__()
        if input_format not in FORMATS:
            raise ValueError(f"input_format is {input_format!r}; expected one of {', '.join(FORMATS)} (INPUT.FORMAT)")
        if max_instances < 1:
            raise ValueError(f"max_instances is {max_instances}; expected at least 1 (TEST.DETECTIONS_PER_IMAGE)")
        self.model, self.criterion = model, criterion
        if wrong := [s for s in sizes if not isinstance(s, int) or s <= 0 or s % model.stride]:
            multiples = f"whole multiples of {model.stride}, above 0"
            raise ValueError(f"sizes has {wrong[0]!r}; expected {multiples} (INPUT.CLIP.SIZES)")
        self.seed, self.sizes, self.input_format = seed, tuple(sizes), input_format
        self.max_instances, self.semantic_on, self.instance_on = max_instances, semantic_on, instance_on
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            if values is not None:
                self._set_statistics(name, values)
        self._predict_options = {}
        if instance_on and "candidates" in inspect.signature(model.predict).parameters:
            self._predict_options["candidates"] = True
        self._calls = 0
        use_model_names(self)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The arguments that do not depend on the model; SEED below 0 draws one for all processes.

        A subclass adds `criterion`.
        """
        return {
            "model": cls.describe(cfg, cls.levels(cfg), construct),
            "seed": seed_of(cfg),
            "sizes": cfg.INPUT.CLIP.SIZES,
            "input_format": cfg.INPUT.FORMAT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
            "semantic_on": cfg.TEST.SEMANTIC_ON,
            "instance_on": cfg.TEST.INSTANCE_ON,
        }

    @classmethod
    def levels(cls, cfg: CfgNode) -> nn.Module:
        """The backbone of a config."""
        return build_levels(cfg)

    @classmethod
    def describe_levels(cls, cfg: CfgNode, make: Make) -> Any | None:
        """What stands for that backbone outside detectron2, made by `make`; None: nothing does."""
        return describe_levels(cfg, make)

    @classmethod
    def describe(cls, cfg: CfgNode, backbone: Any, make: Make) -> Any:
        """The model of a config round a backbone, put together by `make`."""
        raise NotImplementedError(f"{cls.__name__} is no model of its own; use a registered one, or give `model`")

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.pixel_mean.device

    def __getattr__(self, name: str) -> Any:
        """Parts of the model by their own names too: detectron2's checkpointer looks up names of the state dict."""
        model = self.__dict__.get("_modules", {}).get("model")
        if model is not None and name != "model" and name in model._modules:
            return model._modules[name]
        return super().__getattr__(name)

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Weighted loss terms in training, whose sum is the total; else one dict of predictions for each clip.

        batched_inputs  dicts as `inputs.read_clip` reads them, in training with objects as `inputs.read_targets`.
                        "position" is the place in the sample stream; without it, the place that lgrnet's own loader
                        gives to this clip of this rank in the step of detectron2's EventStorage

        A prediction has "prediction" (lgrnet.records.Prediction), "instances" and "sem_seg", for each frame, at the
        size of "height" and "width": T Instances and [T, K + 1, H, W], or one Instances and [K + 1, H, W] for an
        "image". Videos are never batched, as published. Raises ValueError for what `inputs` refuses.
        """
        if not isinstance(batched_inputs, list | tuple) or not batched_inputs:
            given = type(batched_inputs).__name__ if batched_inputs else "nothing"
            raise ValueError(f"the model was given {given}; expected a list of dicts, one for each clip")
        return self._losses(batched_inputs) if self.training else [self._predicted(item) for item in batched_inputs]

    def _losses(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        if self.criterion is None:
            raise ValueError(f"{type(self).__name__} has no criterion, so it cannot be trained; give one")
        step = self._step()
        batch = self._batch(items, step)
        # The loader's step where it says one: PreciseBN's storage stays at 0.
        step = batch.positions[0] // (len(items) * distributed.world_size())
        size = draw_size(self.sizes, python_generator(self.seed, step, "size")) if self.sizes else None
        frames = resized(batch.frames, size)
        with self._keyed_dropout(batch.positions[0]):
            output = self.model(frames)
        # The loss is never in half precision, as in lgrnet's own trainer.
        if torch.is_autocast_enabled(self.device.type):
            output = in_fp32(output)
        with torch.autocast(self.device.type, enabled=False):
            terms = self.criterion(output, batch.targets, KeyedDraws(self.seed, batch.positions))
        return {f"loss_{name}": self.criterion.weights[name] * term for name, term in terms.items()}

    def _batch(self, items: Sequence[Mapping[str, Any]], step: int) -> ClipBatch:
        rank, world = distributed.rank(), distributed.world_size()
        clips = []
        for offset, item in enumerate(items):
            clip = read_clip(item, self.input_format)
            position = (step * len(items) + offset) * world + rank
            info = clip.info if "position" in item else replace(clip.info, position=position)
            clips.append(Clip(clip.frames, read_targets(item, clip), info))
        return collate(clips, self.model.stride).to(self.device, non_blocking=True)

    @torch.no_grad()
    def _predicted(self, item: Mapping[str, Any]) -> dict[str, Any]:
        clip = read_clip(item, self.input_format)
        frames = pad_to_stride(clip.frames.to(self.device), self.model.stride)
        prediction = self.model.predict(self.model.infer(frames[None]), clip.info, **self._predict_options)
        found: dict[str, Any] = {"prediction": prediction}
        if self.instance_on:
            found["instances"] = frame_instances(prediction, self.max_instances)
        if self.semantic_on:
            found["sem_seg"] = class_maps(prediction, getattr(self.model, "decision", None) == "softmax")
        if item.get("frames") is None:  # a still image
            found.update({name: value[0] for name, value in found.items() if name != "prediction"})
        return found

    def _step(self) -> int:
        """Steps that were done before this one; without detectron2's storage, calls of this object."""
        self._calls += 1
        return get_event_storage().iter if has_event_storage() else self._calls - 1

    @contextmanager
    def _keyed_dropout(self, position: int) -> Iterator[None]:
        """Drop path draws from the global generator: keyed here as in lgrnet's own trainer, and left as it was."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(keyed_seed(self.seed, position, "dropout"))
            yield

    def _set_statistics(self, name: str, values: Sequence[float]) -> None:
        buffer = getattr(self.model, name)
        buffer.copy_(torch.tensor(statistic(name, values, self.input_format)).view_as(buffer))


@META_ARCH_REGISTRY.register()
class LGRNet(ClipMetaArch):
    """LGRNet (Xu et al., MICCAI 2024) from MODEL.LGRNET and MODEL.CRITERION."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """As in `ClipMetaArch`, with the loss over sets of masks."""
        section = cfg.MODEL.CRITERION
        matcher = HungarianMatcher(**arguments(section.MATCHER))
        return {**super().from_config(cfg), "criterion": SetCriterion(**arguments(section), matcher=matcher)}

    @classmethod
    def describe(cls, cfg: CfgNode, backbone: Any, make: Make) -> Any:
        """LGRNet round a backbone."""
        section = cfg.MODEL.LGRNET
        return make(
            lgrnet.LGRNet,
            backbone=backbone,
            encoder=make(LGREncoder, **arguments(section.ENCODER), zen_partial=True),
            decoder=make(VideoDecoder, num_classes=cfg.MODEL.NUM_CLASSES, **arguments(section.DECODER)),
            frame_chunk=cfg.MODEL.FRAME_CHUNK or None,
        )


@META_ARCH_REGISTRY.register()
class PlainHead(ClipMetaArch):
    """The plainest head on a backbone, frame by frame, from MODEL.PLAIN_HEAD and MODEL.DENSE_CRITERION."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """As in `ClipMetaArch`, with the loss of maps of classes."""
        return {**super().from_config(cfg), "criterion": DenseCriterion(**arguments(cfg.MODEL.DENSE_CRITERION))}

    @classmethod
    def describe(cls, cfg: CfgNode, backbone: Any, make: Make) -> Any:
        """The head round a backbone, for every frame."""
        section = arguments(cfg.MODEL.PLAIN_HEAD)
        head = make(plain_head.PlainHead, backbone=backbone, num_classes=cfg.MODEL.NUM_CLASSES, **section)
        return per_frame(cfg, head, make)


def per_frame(cfg: CfgNode, net: Any, make: Make, decision: str = "logit") -> Any:
    """A still-image network for every frame of a clip; its pixel statistics are part of what a weights file says."""
    return make(PerFrame, net=net, chunk=cfg.MODEL.FRAME_CHUNK or None, decision=decision, **statistics(cfg))


def construct(kind: Callable[..., Any], zen_partial: bool = False, **given: Any) -> Any:
    """`kind(**given)`, or with zen_partial that call with arguments still to come."""
    return partial(kind, **given) if zen_partial else kind(**given)


def encoder_of(**given: Any) -> Callable[..., LGREncoder]:
    """LGREncoder with its arguments but the channels, which LGRNet gives it: for lazy configs."""
    return partial(LGREncoder, **given)


def model_class(cfg: CfgNode) -> type[ClipMetaArch]:
    """The registered class of MODEL.META_ARCHITECTURE. Raises ConfigError, with those there are, for none of ours."""
    ours = {k: kind for k, kind in META_ARCH_REGISTRY if isinstance(kind, type) and issubclass(kind, ClipMetaArch)}
    if cfg.MODEL.META_ARCHITECTURE not in ours:
        raise ConfigError(f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}; lgrnet has {', '.join(ours)}")
    return ours[cfg.MODEL.META_ARCHITECTURE]


def describe_model(cfg: CfgNode, make: Make) -> Any | None:
    """The model of a config, put together by `make` with our own backbones; None for a backbone that is not ours."""
    kind = model_class(cfg)
    backbone = kind.describe_levels(cfg, make)
    return None if backbone is None else kind.describe(cfg, backbone, make)
