"""The annotation of a video, checked as a whole: what is wrong is found before a model has spent its time."""

from __future__ import annotations

import numpy as np

from lgrnet.records import VideoRecord, check_sizes, check_values, frame_size, raw_mask, warn_of_grey


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
