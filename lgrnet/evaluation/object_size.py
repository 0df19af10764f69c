"""How large the objects of an image are, as SvANet's size classes have it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

PUBLISHED_LIMITS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 100.0)
NO_OBJECT = "no object"


def largest_object(masks: np.ndarray) -> float:
    """The area of the largest object of any class, in percent of the image; 0 for no object.

    masks  bool [K, H, W], at the size of the annotation

    Each class is closed (2 x 2, twice), and the area is that of the polygon through the centres of the outer border's
    pixels, as published: 81 for a square of 10 x 10 pixels, 0 for a line one pixel wide; holes count as object.
    """
    kernel, largest = np.ones((2, 2), np.uint8), 0.0
    for mask in masks:
        closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel, iterations=2)
        contours = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
        largest = max([largest, *map(cv2.contourArea, contours)])
    return 100 * largest / (masks.shape[-2] * masks.shape[-1])


def size_classes(sizes: Sequence[float], objects: Sequence[bool], limits: Sequence[float]) -> dict[str, list[int]]:
    """Places in `sizes` of the images of each size class, first cumulative ones, then disjoint ones.

    sizes    percent of each image, see `largest_object`
    objects  whether an image has any
    limits   ascending, in percent

    "< 1 %" holds every image whose size is below 1 %, images without an object, too, as published. "no object" and
    "0.5 - 1 %" (0.5 and more, less than 1) are disjoint; an object without area is in the first of these. A class
    without images is an empty list.
    """
    images = range(len(sizes))
    classes = {f"< {limit:g} %": [i for i in images if sizes[i] < limit] for limit in limits}
    classes[NO_OBJECT] = [i for i in images if not objects[i]]
    for low, high in zip((0.0, *limits[:-1]), limits, strict=True):
        classes[f"{low:g} - {high:g} %"] = [i for i in images if objects[i] and low <= sizes[i] < high]
    return classes
