"""The weighted F-measure of Margolin et al. (How to evaluate foreground maps?, CVPR 2014)."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

_RADIUS, _SIGMA = 3, 5.0
_FAR = 300  # where the decay is below the last digit
_EPS = np.finfo(np.float64).eps


def weighted_f(prediction: np.ndarray, truth: np.ndarray, border: int = cv2.BORDER_CONSTANT) -> float:
    """Weighted F, beta 1, of a map float64 [H, W] in 0..1 against a mask bool [H, W] that is not empty.

    border  what the 7 x 7 Gaussian sees beyond the image: zeros as in the published MATLAB, or cv2.BORDER_REPLICATE
    """
    error = np.abs(prediction - truth)
    place = _with_margin(truth)
    inside, crop = truth[place], error[place]
    # Errors of the background take part only as far as the Gaussian reaches from the object, hence the crop; there
    # they are those of the nearest pixel of the object, by scipy's choice where several are as near.
    rows, columns = distance_transform_edt(~inside, return_distances=False, return_indices=True)
    kernel = np.exp(-(np.arange(-_RADIUS, _RADIUS + 1) ** 2) / (2 * _SIGMA**2))
    kernel /= kernel.sum()
    smooth = cv2.sepFilter2D(crop[rows, columns], cv2.CV_64F, kernel, kernel, borderType=border)
    missed = np.minimum(smooth[inside], crop[inside])
    background = ~truth
    distance = cv2.distanceTransform(background.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[background]
    squared = np.rint(np.minimum(distance, _FAR) ** 2).astype(np.intp)  # whole numbers, whatever float32 made of them
    false = float((error[background] * _weights()[squared]).sum())
    found = missed.size - float(missed.sum())
    recall, precision = 1 - float(missed.mean()), found / (_EPS + found + false)
    return 2 * recall * precision / (_EPS + recall + precision)


@cache
def _weights() -> np.ndarray:
    """What an error at a squared distance from the object weighs: from 1 beside it to 2 far away."""
    return 2 - np.exp(np.log(0.5) / 5 * np.sqrt(np.arange(_FAR**2 + 1)))


def _with_margin(truth: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns from which the Gaussian reaches a pixel of the object."""
    places = (np.flatnonzero(truth.any(axis)) for axis in (1, 0))
    return tuple(slice(max(0, p[0] - _RADIUS), p[-1] + _RADIUS + 1) for p in places)
