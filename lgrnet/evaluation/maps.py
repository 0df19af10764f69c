"""Maps of other programs: 16 bits and floats as the 8-bit grey values that the published evaluations read."""

from __future__ import annotations

import cv2
import numpy as np

from lgrnet.records import DataError


def at_size(grey: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map uint8 [H, W] at `size` (height, width), bilinear as OpenCV does it; the same map where it has this size."""
    return grey if grey.shape == tuple(size) else cv2.resize(grey, size[::-1], interpolation=cv2.INTER_LINEAR)


def eight_bits(values: np.ndarray, source: str = "map") -> np.ndarray:
    """A map [...] as uint8 of the same shape, 255 is certain.

    uint8 and bool keep their meaning. Of uint16 the upper byte is taken, as OpenCV does when it reads a 16-bit PNG as
    grey, which is what the published toolboxes see; floats in 0..1 are rounded to the nearest of 256 levels. In all of
    them a value above 127 is one above half of the range.

    Raises DataError, naming `source`, for NaN, infinite values, floats outside 0..1 and other types.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    if values.dtype.kind != "f":
        raise DataError(f"{source} has type {values.dtype}; expected uint8, uint16, bool, or floats in 0..1")
    if bad := np.count_nonzero(~np.isfinite(values)):
        raise DataError(f"{source} holds {bad} values that are NaN or infinite, of {values.size}; write numbers")
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise DataError(
            f"{source} holds values {values.min():g}..{values.max():g}; expected probabilities in 0..1 (of logits take "
            "the sigmoid)"
        )
    levels = np.rint(values * 255).astype(np.uint8)
    return np.where(values <= 0.5, np.minimum(levels, np.uint8(127)), levels)  # one half is not above it
