"""The annotation of a video, checked as a whole: what is wrong is found before a model has spent its time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lgrnet.records import VideoRecord, check_sizes, check_values, frame_size, raw_mask, warn_of_grey
from lgrnet.records.pictures import is_lossy


def read_annotation(record: VideoRecord) -> list[np.ndarray | None]:
    """The raw masks of a video, one uint8 [H, W] per frame, None where a frame is not annotated, see `raw_mask`.

    Of the frames only the headers are read. Warns of grey pixels that a binary label map makes foreground. Raises
    DataError, naming the files, for a mask that cannot be read or holds values that do not fit the label map, and
    for frames or masks of different sizes.
    """
    raw_masks = [raw_mask(record, index) for index in range(record.num_frames)]
    shapes = [None if raw is None else raw.shape for raw in raw_masks]
    check_sizes(record, {i: (frame_size(record.frames[i]), shape) for i, shape in enumerate(shapes)})
    for path, raw in zip(record.masks, raw_masks, strict=True):
        if raw is not None:
            check_values(raw, record.label_map, path)
    warn_of_grey(record, raw_masks)
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
