"""Where the pixels of a frame were in the frame before, by dense optical flow."""

from __future__ import annotations

import cv2
import numpy as np

SIDE = 256
"""Longer side in pixels at which motion is followed."""
LEAST = 32
"""Shortest side: OpenCV's search ends the process where a picture is lower than this and wide."""


class FrameMotion:
    """The motion from one frame to the next (dense inverse search, Kroeger et al., ECCV 2016), as a map of places.

    before, after  uint8 [H, W, 3] or [H, W]; both are brought to the same size of at most SIDE pixels
    """

    def __init__(self, before: np.ndarray, after: np.ndarray):
        height, width = after.shape[:2]
        scale = min(1.0, SIDE / max(height, width))
        self.size = max(LEAST, round(height * scale)), max(LEAST, round(width * scale))
        old, new = (self._grey(image) for image in (before, after))
        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(new, old, None)
        y, x = np.mgrid[: self.size[0], : self.size[1]].astype(np.float32)
        self._x, self._y = x + flow[..., 0], y + flow[..., 1]

    def follow(self, mask: np.ndarray) -> np.ndarray:
        """A mask bool [H0, W0] of the frame before, moved to where its pixels are now, bool of `size`; what came into
        the picture was not in it."""
        return cv2.remap(self._small(mask), self._x, self._y, cv2.INTER_NEAREST, borderValue=0) > 0

    def resized(self, mask: np.ndarray) -> np.ndarray:
        """A mask bool [H0, W0] of the frame after, bool of `size`, to be compared with `follow`."""
        return self._small(mask) > 0

    def _small(self, mask: np.ndarray) -> np.ndarray:
        return cv2.resize(mask.astype(np.uint8), self.size[::-1], interpolation=cv2.INTER_NEAREST)

    def _grey(self, image: np.ndarray) -> np.ndarray:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
        return cv2.resize(grey, self.size[::-1], interpolation=cv2.INTER_AREA)
