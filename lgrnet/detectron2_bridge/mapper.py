"""From the dict of a video to what a model of ours takes, by lgrnet's own samplers, transforms and rules."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.structures import BitMasks, Instances
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import get_worker_info

from lgrnet.data import samplers, transforms
from lgrnet.data.datasets import ClipDataset
from lgrnet.data.samplers import Sampler
from lgrnet.data.transforms import (
    Resize,
    Size,
    Transform,
    as_size,
    check_eval_rule,
    published_training,
    resize_for_eval,
)
from lgrnet.detectron2_bridge.catalog import record_of
from lgrnet.detectron2_bridge.config import seed_of
from lgrnet.draws import python_generator
from lgrnet.records import check_sizes, read_frame
from lgrnet.structures import Clip

SAMPLERS: dict[str, Callable[[int], Sampler]] = {
    "LocalGlobal": samplers.LocalGlobal,
    "Dense": samplers.Dense,
    "Window": samplers.Window,
    "Single": lambda num_frames: samplers.Single(),
}
"""INPUT.CLIP.SAMPLER -> the sampler of clips of INPUT.CLIP.NUM_FRAMES frames."""

AUGMENTATIONS: dict[str, Callable[[Size], Transform]] = {
    "published": published_training,
    "Resize": Resize,
    "RandomResizedCrop": transforms.RandomResizedCrop,
    "RandomFlip": lambda size: transforms.RandomFlip(),
    "RandomRotate90": lambda size: transforms.RandomRotate90(),
    "RandomAffine": lambda size: transforms.RandomAffine(),
    "ColorJitter": lambda size: transforms.ColorJitter(),
    "GaussianBlur": lambda size: transforms.GaussianBlur(),
}
"""A name in INPUT.CLIP.AUGMENTATION -> the transform, with its defaults, for clips of INPUT.CLIP.SIZE."""


class ClipMapper:
    """Maps a dict of `catalog.clip_dicts` or `catalog.anchors` to one of tensors.

    is_train            True: one clip round the frame "frame_index" (without it: round any frame); False: the video
    size                of the frames that the model sees, one number or (height, width)
    sampler             which frames make a clip; None: LGRNet's, six frames
    transforms          of training clips, in this order; None: the published ones for `size`
    seed                of the draws, which are keyed by the dict's "position" in the sample stream; without one, by
                        process, worker and a count of the calls
    require_foreground  draw again while a clip shows no foreground, see `lgrnet.data.datasets.ClipDataset`
    input_format        "RGB" or "BGR", the order of the channels that the model is told
    resize              how videos come to `size` in evaluation, see `lgrnet.data.transforms.resize_for_eval`
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        size: Size = 352,
        sampler: Sampler | None = None,
        transforms: Sequence[Transform] | None = None,
        seed: int = 2024,
        require_foreground: bool = True,
        input_format: str = "RGB",
        resize: str = "bilinear",
    ):
        if input_format not in ("RGB", "BGR"):
            raise ValueError(f'input_format is {input_format!r}; expected "RGB" or "BGR"')
        self.is_train, self.size, self.seed, self.input_format = is_train, as_size(size), seed, input_format
        self.sampler = samplers.LocalGlobal() if sampler is None else sampler
        self.transforms = published_training(self.size) if transforms is None else tuple(transforms)
        self.require_foreground, self.resize = require_foreground, check_eval_rule(resize)
        self._datasets: dict[tuple[str, str], ClipDataset] = {}
        self._calls = 0

    @classmethod
    def from_config(cls, cfg, is_train: bool = True) -> dict:
        """The arguments from INPUT.CLIP, INPUT.FORMAT and SEED."""
        clip = cfg.INPUT.CLIP
        size = as_size(tuple(clip.SIZE))
        sampler = _chosen("INPUT.CLIP.SAMPLER", clip.SAMPLER, SAMPLERS)
        return {
            "is_train": is_train,
            "size": size,
            "sampler": sampler(clip.NUM_FRAMES),
            "transforms": [_chosen("INPUT.CLIP.AUGMENTATION", name, AUGMENTATIONS)(size) for name in clip.AUGMENTATION],
            "seed": seed_of(cfg) if is_train else cfg.SEED,  # without draws the processes need not agree
            "require_foreground": clip.REQUIRE_FOREGROUND,
            "input_format": cfg.INPUT.FORMAT,
            "resize": clip.RESIZE,
        }

    def __call__(self, video: Mapping) -> dict:
        """The dict with "frames" uint8 [T, 3, H, W] and the names "frame_names"; "height" and "width" on disk.

        In training also "instances" (T of them: gt_classes [N], gt_masks, gt_ids [N], the same N objects in all),
        "annotated" bool [T], "valid" bool [T, H, W] (False: ignored), and "position" as it came. gt_masks are BitMasks,
        or a float tensor [N, H, W] in 0..1 where masks are soft. Raises DataError, naming the files, where these cannot
        be used.
        """
        return self._clip(video) if self.is_train else self._video(video)

    def _clip(self, video: Mapping) -> dict:
        position, rng = video.get("position"), self._generator(video)
        dataset = self._dataset(video)
        anchor = video["frame_index"] if "frame_index" in video else rng.randrange(video["num_frames"])
        clip = dataset.sample(anchor, rng, -1 if position is None else position)
        pixels = (clip.frames * 255).round().to(torch.uint8)  # [T, 3, H, W], exactly the pixels that they came from
        return {
            **_kept(video),
            "frames": self._ordered(pixels),
            "frame_names": clip.info.frame_names,
            "instances": _instances(clip),
            "annotated": clip.targets.annotated,
            "valid": clip.targets.valid,
        }

    def _video(self, video: Mapping) -> dict:
        record = record_of(video)
        small, sizes = [], {}
        for index, path in enumerate(record.frames):
            frame = read_frame(path)
            sizes[index] = frame.shape[:2], None
            small.append(resize_for_eval(frame, self.size, self.resize))
        check_sizes(record, sizes)
        pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).contiguous()  # [T, 3, H, W]
        return {**_kept(video), "frames": self._ordered(pixels), "frame_names": record.frame_names}

    def _dataset(self, video: Mapping) -> ClipDataset:
        """The data set of this one video; kept, so that it warns of grey masks once."""
        files = tuple(video["file_names"]), tuple(video["mask_file_names"])  # a part of a video may have its name
        key = video.get("dataset", ""), video["video_name"], files, str(video["label_map"]), video["no_lesion"]
        if key not in self._datasets:
            self._datasets[key] = ClipDataset(
                [record_of(video)], self.sampler, self.transforms, require_foreground=self.require_foreground
            )
        return self._datasets[key]

    def _generator(self, video: Mapping) -> random.Random:
        if "position" in video:
            return python_generator(self.seed, video["position"], "sample")
        worker = get_worker_info()
        self._calls += 1
        place = comm.get_rank(), -1 if worker is None else worker.id, self._calls
        return python_generator(self.seed, *place, "sample")

    def _ordered(self, pixels: Tensor) -> Tensor:
        return pixels if self.input_format == "RGB" else pixels.flip(1)


def _kept(video: Mapping) -> dict:
    """What is passed on: all but the lists of files, which are long."""
    return {key: value for key, value in video.items() if key not in ("file_names", "mask_file_names")}


def _instances(clip: Clip) -> list[Instances]:
    masks, labels = clip.targets.masks, clip.targets.labels
    soft = not bool(((masks == 0) | (masks == 1)).all())
    frames = []
    for shown in masks.unbind(1):  # [N, H, W]
        instances = Instances(tuple(shown.shape[-2:]))
        instances.gt_classes = labels
        instances.gt_masks = shown if soft else BitMasks(shown)
        instances.gt_ids = torch.arange(len(labels))
        frames.append(instances)
    return frames


def _chosen(key: str, name: str, known: Mapping[str, Callable]) -> Callable:
    if name not in known:
        raise ValueError(f"{key} names {name!r}; expected one of {', '.join(known)}")
    return known[name]
