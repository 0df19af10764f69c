"""detectron2's dicts as clips: frames, and the objects that they should be segmented into."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks
from torch import Tensor

from lgrnet.structures import Clip, ClipInfo, Targets

FORMATS = ("RGB", "BGR")
IGNORED = 255
"""The value of a pixel of "sem_seg" that takes part in no loss."""


def read_clip(item: Mapping[str, Any], input_format: str = "RGB") -> Clip:
    """The frames of a dict, without objects.

    item["frames"]  [T, 3, H, W] uint8 or float in 0..255, or T tensors [3, H, W] of one size; or
    item["image"]   [3, H, W], a clip of one frame
    "height", "width", "video_name" (or "file_name"), "frame_names", "position" are optional

    Returns frames [T, 3, H, W] float32 in 0..1 in the order RGB; info.position is -1 where none is given. Raises
    ValueError, naming the video, for frames that are not there, not of one size, or of another kind.
    """
    video = str(item.get("video_name") or Path(str(item.get("file_name", "video"))).stem)
    frames = _frames(item, f"video {video!r}").float().div(255)
    if input_format == "BGR":
        frames = frames.flip(1)
    count, _, height, width = frames.shape
    given = item.get("frame_names")
    names = tuple(map(str, given if given is not None else (f"{index:06d}" for index in range(count))))
    if len(names) != count:
        raise ValueError(f"video {video!r} has {count} frames but {len(names)} frame_names; give one each")
    disk_size = (int(item.get("height", height)), int(item.get("width", width)))
    if min(disk_size) < 1:
        raise ValueError(f"video {video!r} asks for an output of (height, width) {disk_size}; expected at least 1 x 1")
    size = (count, height, width)
    info = ClipInfo(video, names, disk_size, size, int(item.get("position", -1)))
    return Clip(frames, _targets({}, size, torch.ones(count, dtype=torch.bool)), info)


def read_targets(item: Mapping[str, Any], clip: Clip) -> Targets:
    """What the dict of a clip says about its objects.

    item["instances"]  T Instances (one for an image) with gt_classes [N], gt_masks (BitMasks, PolygonMasks or a
                       tensor [N, H, W] in 0..1, soft masks allowed; not needed where N is 0) and, where an object
                       has an identity over the clip, gt_ids [N]; without gt_ids all of a class is one object in a
                       list, as published, and each is an object of its own in the Instances of an image; or
    item["sem_seg"]    [T, H, W], or [H, W] for an image, integers: 0 background, k class k - 1, 255 is ignored
    item["annotated"]  [T] bool, optional: a frame that is False takes part in no loss
    item["valid"]      [T, H, W] bool, optional beside "instances": a pixel that is False takes part in no loss; without
                       it, where there is a "sem_seg" beside them, those of 255 do not

    Objects are in order of their identity; one without a pixel is left out, as lgrnet.data leaves it out. Raises
    ValueError, naming the video, for what does not fit the clip.
    """
    video, size = f"video {clip.info.video!r}", tuple(clip.info.valid_size)
    annotated = torch.as_tensor(item.get("annotated", [True] * size[0]), dtype=torch.bool)
    if tuple(annotated.shape) != size[:1]:
        raise ValueError(f"{video} has {size[0]} frames but annotated {tuple(annotated.shape)}; expected one each")
    if item.get("instances") is not None:
        beside = None if item.get("sem_seg") is None else _class_maps(item["sem_seg"], size, video) != IGNORED
        valid = torch.as_tensor(item.get("valid", torch.ones(size) if beside is None else beside), dtype=torch.bool)
        if tuple(valid.shape) != size:
            raise ValueError(f"{video} has pixels {size} but valid {tuple(valid.shape)}; expected one each")
        return _targets(_objects(item["instances"], size, video), size, annotated, valid)
    if item.get("sem_seg") is not None:
        return _from_classes(_class_maps(item["sem_seg"], size, video), size, annotated, video)
    raise ValueError(f'{video} has neither "instances" nor "sem_seg"; training needs one of them')


def _frames(item: Mapping[str, Any], video: str) -> Tensor:
    """[T, 3, H, W], uint8 or float."""
    if item.get("frames") is not None:
        frames = item["frames"]
        if isinstance(frames, list | tuple):
            frames = _stacked(frames, video)
    elif item.get("image") is not None:
        frames = item["image"]
        if isinstance(frames, Tensor) and frames.ndim != 3:
            raise ValueError(f'"image" of {video} is {tuple(frames.shape)}; expected [3, H, W], or give "frames"')
        frames = frames[None] if isinstance(frames, Tensor) else frames
    else:
        raise ValueError(f'{video} has neither "frames" [T, 3, H, W] nor "image" [3, H, W]; keys: {", ".join(item)}')
    if not isinstance(frames, Tensor):
        raise ValueError(f"frames of {video} are a {type(frames).__name__}; expected a tensor [T, 3, H, W]")
    if frames.ndim != 4 or frames.shape[1] != 3:
        shape = tuple(frames.shape)
        raise ValueError(f'frames of {video} have shape {shape}; expected [T, 3, H, W], or "image" [3, H, W]')
    if 0 in frames.shape:
        raise ValueError(f"{video} has frames {tuple(frames.shape)}; expected at least one frame and one pixel")
    if frames.dtype != torch.uint8 and not frames.is_floating_point():
        raise ValueError(f"frames of {video} are {frames.dtype}; expected uint8, or float in 0..255")
    return frames


def _stacked(frames: Sequence[Any], video: str) -> Tensor:
    if not frames:
        raise ValueError(f"{video} has no frames; expected at least one")
    kinds = {tuple(frame.shape) if isinstance(frame, Tensor) else type(frame).__name__ for frame in frames}
    if len(kinds) > 1 or not all(isinstance(frame, Tensor) for frame in frames):
        found = ", ".join(sorted(map(str, kinds)))
        raise ValueError(f"frames of {video} are {found}; expected tensors [3, H, W] of one size: resize them alike")
    return torch.stack(tuple(frames))


def _objects(instances: Any, size: tuple[int, ...], video: str) -> dict[int, tuple[int, Tensor]]:
    """Identity -> (class, masks [T, H, W])."""
    is_image = not isinstance(instances, list | tuple)
    per_frame = [instances] if is_image else list(instances)
    if len(per_frame) != size[0] or not all(isinstance(one, Instances) for one in per_frame):
        found = f"{len(per_frame)} of {type(per_frame[0]).__name__}" if per_frame else "none"
        raise ValueError(f'{video} has {size[0]} frames, but "instances" holds {found}; expected Instances, one each')
    objects: dict[int, tuple[int, Tensor]] = {}
    for index, one in enumerate(per_frame):
        where = f"frame {index} of {video}"
        labels, masks, ids = _fields(one, size[1:], where)
        if ids is None:
            # Over a clip only the class says what belongs together, as published; in an image each object stands alone.
            ids = range(len(labels)) if is_image else labels
        for label, mask, identity in zip(labels, masks, ids, strict=True):
            known, whole = objects.setdefault(identity, (label, torch.zeros(size, device=mask.device)))
            if known != label:
                raise ValueError(f"object {identity} of {video} has class {known}, in {where} class {label}")
            torch.maximum(whole[index], mask, out=whole[index])
    return objects


def _fields(one: Instances, size: tuple[int, ...], where: str) -> tuple[list[int], Tensor, list[int] | None]:
    """Classes, masks [N, H, W] float and identities (None: not given) of the objects of a frame."""
    # A mapper of detectron2 gives no gt_masks to an image without objects.
    none = one.has("gt_classes") and not len(one.gt_classes)
    missing = [name for name in ("gt_classes", "gt_masks") if not one.has(name)]
    if missing and not none:
        raise ValueError(f"instances in {where} have no {' and no '.join(missing)}; expected both")
    labels = [int(label) for label in one.gt_classes]
    masks = torch.zeros(0, *size) if none else one.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *size)
    masks = (masks.tensor if isinstance(masks, BitMasks) else torch.as_tensor(masks)).float()
    if tuple(masks.shape) != (len(labels), *size):
        raise ValueError(f"gt_masks in {where} are {tuple(masks.shape)}; expected {(len(labels), *size)}, as the frame")
    if masks.numel() and not 0 <= masks.min() <= masks.max() <= 1:
        low, high = masks.min().item(), masks.max().item()
        raise ValueError(f"gt_masks in {where} have values {low:g} to {high:g}; expected 0 to 1")
    return labels, masks, [int(i) for i in one.gt_ids] if one.has("gt_ids") else None


def _class_maps(given: Any, size: tuple[int, ...], video: str) -> Tensor:
    """The maps of classes of a dict, int64 [T, H, W]."""
    maps = torch.as_tensor(given)
    maps = maps[None] if maps.ndim == 2 else maps
    if tuple(maps.shape) != size or maps.is_floating_point():
        raise ValueError(f"sem_seg of {video} is {maps.dtype} {tuple(maps.shape)}; expected integers {size}, or [H, W]")
    return maps.long()


def _from_classes(maps: Tensor, size: tuple[int, ...], annotated: Tensor, video: str) -> Targets:
    """Targets of integer maps of classes."""
    if maps.min() < 0:
        raise ValueError(f"sem_seg of {video} holds {maps.min()}; expected 0 and more, and {IGNORED} where ignored")
    values = torch.unique(maps).tolist()
    if IGNORED in values and not set(values) - {0, IGNORED}:
        warnings.warn(
            f"sem_seg of {video} holds only 0 and {IGNORED}, which is ignored: nothing is foreground. Give masks "
            "of 0 and 255 as 0 and 1",
            stacklevel=2,
        )
    present = [value for value in values if value not in (0, IGNORED)]
    objects = {value - 1: (value - 1, (maps == value).float()) for value in present}
    return _targets(objects, size, annotated, maps != IGNORED)


def _targets(
    objects: Mapping[int, tuple[int, Tensor]],
    size: tuple[int, ...],
    annotated: Tensor,
    valid: Tensor | None = None,
) -> Targets:
    """Targets of identity -> (class, masks [T, H, W])."""
    kept = {}
    for identity in sorted(objects):
        label, masks = objects[identity]
        masks = masks * annotated.to(masks.device)[:, None, None]
        if masks.any():
            kept[identity] = (label, masks)
    return Targets(
        labels=torch.tensor([label for label, _ in kept.values()], dtype=torch.int64),
        masks=torch.stack([masks for _, masks in kept.values()]) if kept else torch.zeros(0, *size),
        valid=torch.ones(size, dtype=torch.bool) if valid is None else valid,
        annotated=annotated,
    )
