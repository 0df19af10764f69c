"""The annotation of a video, checked as a whole: what is wrong is found before a model has spent its time."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lgrnet.records import (
    DataError,
    LabelMap,
    VideoRecord,
    check_sizes,
    check_values,
    count_and_name,
    frame_size,
    raw_mask,
)
from lgrnet.records.pictures import is_lossy


def read_annotation(record: VideoRecord) -> list[np.ndarray | None]:
    """The raw masks of a video, one uint8 [H, W] per frame, None where a frame is not annotated, see `raw_mask`.

    Of the frames only the headers are read. Raises DataError, naming the files, for a mask that cannot be read or
    holds values that do not fit the label map, and for frames or masks of different sizes.
    """
    raw_masks = [raw_mask(record, index) for index in range(record.num_frames)]
    shapes = [None if raw is None else raw.shape for raw in raw_masks]
    check_sizes(record, {i: (frame_size(record.frames[i]), shape) for i, shape in enumerate(shapes)})
    for path, raw in zip(record.masks, raw_masks, strict=True):
        if raw is not None:
            check_values(raw, record.label_map, path)
    return raw_masks


def holds_ones(raw_masks: Iterable[np.ndarray | None], paths: Iterable[Path | None] = ()) -> bool:
    """Whether the masks of a video are of 0 and 1 in place of 0 and 255: none of them has a value above 1.

    raw_masks  uint8 [H, W] each, None: not annotated; looked at up to the first one that has
    paths      of the masks. Those stored with loss hold no ones: the noise of an empty mask is as small

    It is asked of a video and not of a mask, which may be empty but for a stray pixel of 1; nor of a set, which may
    hold videos of both kinds, and whose masks would all be read before the first is scored. A video without an object
    whose masks of 0 and 255 have such a pixel, and a still image like it, are taken to be of ones.
    """
    if any(path is not None and is_lossy(path) for path in paths):
        return False
    return all(raw is None or raw.max(initial=0) <= 1 for raw in raw_masks)


def raw_bytes(raw: np.ndarray, label_map: LabelMap, source: str) -> np.ndarray:
    """Raw mask values uint8 [H, W] of an array: of bool, which is the lesion, or class 1, or of integers.

    Raises DataError, naming `source`, for anything else and for integers beyond 0..255.
    """
    raw = np.asarray(raw)
    if raw.ndim != 2 or not raw.size:
        raise DataError(f"{source}: the mask on disk has shape {raw.shape}, expected [H, W]")
    if raw.dtype == bool:
        return raw.astype(np.uint8) * np.uint8(255 if isinstance(label_map, str) else 1)
    if raw.dtype.kind not in "iu" or raw.min() < 0 or raw.max() > 255:
        raise DataError(f"{source}: its mask is of {raw.dtype}, expected uint8, or bool, or integers of 0..255")
    return raw.astype(np.uint8, copy=False)


def frames_hash(frames: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 of the frames of some videos by their names, see `Evaluator.split_hash`."""
    names = (f"{video}/{frame}".encode("utf-8", "surrogateescape") for video in frames for frame in frames[video])
    return hashlib.sha256(b"".join(name + b"\0" for name in sorted(names))).hexdigest()


def warn_of_grey(set_name: str, pixels: Mapping[str, int], protocols: Sequence[str], instances: bool) -> None:
    """Warns where masks have grey edges that something takes for the lesion.

    pixels     video -> how many such pixels its masks have
    protocols  ids of those that do so whatever a label map says
    instances  whether objects were counted by the label map, of which a binary one does so
    """
    if videos := sorted(video for video, count in pixels.items() if count):
        rules = [f"protocol {', '.join(protocols)} takes all above 0 for the lesion, whatever the label map says"]
        rules = rules * bool(protocols) + ["average precision does so with a binary label map"] * instances
        warnings.warn(
            f"set {set_name!r}: masks of {count_and_name(videos, 'video')} have grey edges, {sum(pixels.values())} "
            f"pixels; {'; '.join(rules)}, as published: save the masks as 0 and 255, or take protocol plain "
            "(truth > 127)",
            stacklevel=4,
        )
