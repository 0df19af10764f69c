"""The annotation of a video, checked as a whole: what is wrong is found before a model has spent its time."""

from __future__ import annotations

import numpy as np

from lgrnet.records import VideoRecord, check_sizes, class_masks, frame_size, read_mask, warn_of_grey


def read_annotation(record: VideoRecord) -> list[np.ndarray | None]:
    """The raw masks of a video, one uint8 [H, W] per frame, None where a frame is not annotated.

    Of the frames only the headers are read. Warns of grey pixels that a binary label map makes foreground. Raises
    DataError, naming the files, for a mask that cannot be read or holds values that the label map does not know, and
    for frames or masks of different sizes.
    """
    raw_masks = [None if path is None else read_mask(path) for path in record.masks]
    shapes = [None if raw is None else raw.shape for raw in raw_masks]
    check_sizes(record, {i: (frame_size(record.frames[i]), shape) for i, shape in enumerate(shapes)})
    if not isinstance(record.label_map, str):
        for path, raw in zip(record.masks, raw_masks, strict=True):
            if raw is not None:
                class_masks(raw, record.label_map, path)
    warn_of_grey(record, raw_masks)
    return raw_masks
