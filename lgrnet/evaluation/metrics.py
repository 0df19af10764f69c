"""Overlap of two binary masks of one frame, in numpy.

Values are float32, because the published ones are: sums of pixels are exact, one division is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EPS = np.finfo(np.float64).eps


@dataclass(frozen=True)
class Counts:
    """Pixels of one frame: true positive, false positive, false negative, true negative."""

    tp: int
    fp: int
    fn: int
    tn: int


def count(prediction: np.ndarray, truth: np.ndarray) -> Counts:
    """Pixels by agreement of two bool masks [H, W]. Raises ValueError when their shapes differ."""
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, truth {truth.shape}; bring them to one size first")
    both = int(np.count_nonzero(prediction & truth))
    predicted, true = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
    return Counts(both, predicted - both, true - both, truth.size - predicted - true + both)


def dice(counts: Counts, smooth: float = 1.0) -> float:
    """(2 tp + smooth) / (2 tp + fp + fn + smooth); with smooth 0, NaN when both masks are empty."""
    return _ratio(2 * counts.tp + smooth, 2 * counts.tp + counts.fp + counts.fn + smooth)


def iou(counts: Counts, smooth: float = 1.0) -> float:
    """(tp + smooth) / (tp + fp + fn + smooth); with smooth 0, NaN when both masks are empty."""
    return _ratio(counts.tp + smooth, counts.tp + counts.fp + counts.fn + smooth)


def sensitivity(counts: Counts) -> float:
    """tp / (tp + fn); NaN when the truth is empty."""
    return _ratio(counts.tp, counts.tp + counts.fn)


def specificity(counts: Counts) -> float:
    """tn / (tn + fp); NaN when the truth is full."""
    return _ratio(counts.tn, counts.tn + counts.fp)


def precision(counts: Counts) -> float:
    """tp / (tp + fp); NaN when nothing is found."""
    return _ratio(counts.tp, counts.tp + counts.fp)


def mae(counts: Counts) -> float:
    """Share of the pixels that differ: the mean absolute error of a binary mask."""
    return _ratio(counts.fp + counts.fn, counts.tp + counts.fp + counts.fn + counts.tn)


def s_measure(
    prediction: np.ndarray, truth: np.ndarray, alpha: float = 0.5, freedom: int = 1, beyond: int = 1
) -> float:
    """Structure measure (Fan et al., ICCV 2017) of a map [H, W] in 0..1 against a bool mask [H, W].

    An empty truth gives 1 - mean(prediction), a full one mean(prediction), as published. With a
    freedom of 1 it is 0 for an object or a background of one pixel, and for a truth whose centre leaves a quadrant with
    fewer than two pixels: the VPS toolbox divides by zero there, and its max(0, NaN) is 0.

    freedom  1: the spread over n pixels of an object or a quadrant is divided by n - 1; 0: by n, and one pixel will do
    beyond   1: the quadrants meet one pixel beyond the rounded centre; 0: at it, and an empty quadrant has no weight
    """
    prediction = prediction.astype(np.float64)
    share = truth.mean()
    if share == 0:
        return float(1 - prediction.mean())
    if share == 1:
        return float(prediction.mean())
    inside = _object_similarity(prediction[truth], freedom)
    outside = _object_similarity(1 - prediction[~truth], freedom)
    objects = share * inside + (1 - share) * outside
    mixed = alpha * objects + (1 - alpha) * _region_similarity(prediction, truth, freedom, beyond)
    return 0.0 if np.isnan(mixed) else float(max(0.0, mixed))


def resize_nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest neighbour [..., H, W] -> [..., *size]: source index floor(i * in / out), computed in float32.

    The same pixels as torch's interpolate(mode="nearest"); Pillow's and OpenCV's nearest read others.
    """
    rows, columns = (_nearest(n, m) for n, m in zip(array.shape[-2:], size, strict=True))
    return array[..., rows[:, None], columns]


def _nearest(size_in: int, size_out: int) -> np.ndarray:
    steps = np.arange(size_out, dtype=np.float32) * (np.float32(size_in) / np.float32(size_out))
    return np.minimum(np.floor(steps).astype(np.int64), size_in - 1)


def _ratio(numerator: float, denominator: float) -> float:
    if denominator == 0:
        return float("nan")
    return float(np.float32(numerator) / np.float32(denominator))


def _object_similarity(values: np.ndarray, freedom: int) -> float:
    if values.size <= freedom:
        return float("nan")
    mean, spread = values.mean(), values.std(ddof=freedom)
    return 2 * mean / (mean**2 + 1 + spread + EPS)


def _region_similarity(prediction: np.ndarray, truth: np.ndarray, freedom: int, beyond: int) -> float:
    """Similarity of the four quadrants around the centre of the truth, weighted by their areas."""
    y, x = (_centre(truth.sum(axis)) + beyond for axis in (1, 0))
    total = 0.0
    for rows in (slice(0, y), slice(y, None)):
        for columns in (slice(0, x), slice(x, None)):
            part = truth[rows, columns]
            if part.size == 0 and not beyond:
                continue
            alike = _similarity(prediction[rows, columns], part.astype(np.float64), freedom)
            total += part.size / truth.size * alike
    return total


def _centre(counts: np.ndarray) -> int:
    """The rounded mean place of pixels that are counted by row or by column."""
    return round(float(counts @ np.arange(len(counts)) / counts.sum()))


def _similarity(a: np.ndarray, b: np.ndarray, freedom: int) -> float:
    """1 where neither has a spread; what the spreads are divided by cancels out."""
    if a.size <= freedom:
        return float("nan")
    mean_a, mean_b, divisor = a.mean(), b.mean(), max(1, a.size - 1)
    var_a = ((a - mean_a) ** 2).sum() / divisor
    var_b = ((b - mean_b) ** 2).sum() / divisor
    covariance = ((a - mean_a) * (b - mean_b)).sum() / divisor
    numerator = 4 * mean_a * mean_b * covariance
    denominator = (mean_a**2 + mean_b**2) * (var_a + var_b)
    if numerator != 0:
        return numerator / (denominator + EPS)
    return 1.0 if denominator == 0 else 0.0
