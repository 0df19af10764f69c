"""SvANet's evaluation, by the size of the largest object of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lgrnet.evaluation import metrics
from lgrnet.evaluation.class_maps import EPS, class_counts, enhanced_alignment, predicted_classes, true_classes
from lgrnet.evaluation.object_size import PUBLISHED_LIMITS, largest_object, size_classes
from lgrnet.evaluation.protocols import FrameRow, Score, mean_score

_OVERLAPS = ("dice", "iou", "precision", "sensitivity", "f2")
_COUNTS = ("tp", "fp", "fn", "tn")


class SvANetSizeProtocol:
    """SvANet's numbers (Dai et al., 2024) for the whole set and for its size classes.

    Pixels of each class are added up over the images before anything is divided. A class weighs by the number of
    images that show it ("micro", published) or all weigh the same ("macro"). Metrics:

    dice, iou, precision, sensitivity, f2  of the classes without background that occur in the truth; not defined
                         where none does
    e_measure            mean over images, all classes against background
    mae                  mean over images of the share of pixels whose class is wrong
    published_*          as published, with background as a class (so that finding nothing gives a Dice near 0.5),
                         E-measure of all images as one map, and an MAE that takes every object's true index for 1 and
                         is divided by the number of images twice

    Left out are two numbers that the published training prints of the same predictions, and that no table has: an
    E-measure of every four images as one map, and an MAE divided by the number of the epoch.

    Everything is a fraction of 1; the published tables have percent (MAE: 1e-4). The published program compares at
    512 x 512; here it is the size on disk, at which the size class is taken in both. Where the published program
    leaves out size classes that hold all images, here they stand. Truth above 0 is foreground. A prediction of another
    size is brought to the truth's by nearest neighbour. Ignored pixels take no part, but in published_e_measure and
    published_mae they are foreground, as published.

    limits   of the size classes in percent, ascending, see `size_classes`
    average  "micro" or "macro"

    Raises ValueError for another average and for limits that do not ascend from above 0.
    """

    id = "svanet-size"
    counts_grey = True

    def __init__(self, limits: Sequence[float] = PUBLISHED_LIMITS, average: str = "micro"):
        limits = tuple(float(limit) for limit in limits)
        if average not in ("micro", "macro"):
            raise ValueError(f'average is {average!r}, expected "micro" (published) or "macro"')
        if not limits or list(limits) != sorted(set(limits)) or limits[0] <= 0:
            raise ValueError(f"limits are {limits}, expected ascending percentages above 0, like {PUBLISHED_LIMITS}")
        self.limits, self.average = limits, average
        right = (*_OVERLAPS, "e_measure", "mae")
        self.metrics = (*right, *(f"published_{name}" for name in right))
        weights = "weighted by the images that show them" if average == "micro" else "all weigh the same"
        self.meaning = (
            f"Pixels of all images together, classes {weights}, at the size on disk, truth > 0; fractions of 1. "
            "Without prefix: without background. published_: SvANet's, background is a class, E-measure of all images "
            'as one, MAE divided by the images twice. Size: the largest contour, in percent of the image; "< r %" is '
            "cumulative and holds images without objects, as published."
        )

    def whole_frame(
        self, probability: np.ndarray, mask: np.ndarray, truth: np.ndarray, ignored: np.ndarray
    ) -> dict[str, float]:
        """See `WholeFrameProtocol.whole_frame`; the size, the overlaps of this frame, and the pixels they are of."""
        there = truth > 0
        true, predicted = true_classes(there), predicted_classes(probability, mask, truth.shape[-2:])
        counted = ~ignored
        pixels = class_counts(predicted, true, counted, len(truth))
        overlaps = _overlaps([pixels], self.average, first=1)
        binary = metrics.count((predicted > 0)[counted], (true > 0)[counted])
        published_truth = (true > 0) | ignored
        published = metrics.count(predicted > 0, published_truth)
        return {
            **{name: overlaps[name] for name in _OVERLAPS},
            "size": largest_object(there),
            "e_measure": enhanced_alignment(binary) if counted.any() else float("nan"),
            "mae": float((predicted != true)[counted].mean()) if counted.any() else float("nan"),
            **pixels,
            **{f"published_{name}": float(getattr(published, name)) for name in _COUNTS},
            "published_error": float(np.abs(predicted - published_truth).sum()),
        }

    def aggregate(self, rows: Sequence[FrameRow]) -> dict[str, Score]:
        """All metrics of some images; there must be one at least."""
        values, images = [row.values for row in rows], len(rows)
        counts = metrics.Counts(*(int(sum(v[f"published_{name}"] for v in values)) for name in _COUNTS))
        pixels = counts.tp + counts.fp + counts.fn + counts.tn
        published = {
            **_overlaps(values, self.average, first=0),
            "e_measure": enhanced_alignment(counts, images),
            "mae": sum(v["published_error"] for v in values) / pixels / images,
        }
        return {
            **{name: Score(value, images) for name, value in _overlaps(values, self.average, first=1).items()},
            **{name: mean_score(v[name] for v in values) for name in ("e_measure", "mae")},
            **{f"published_{name}": Score(value, images) for name, value in published.items()},
        }

    def slices(self, rows: Sequence[FrameRow]) -> dict[str, list[FrameRow]]:
        """The rows of every size class, see `size_classes`."""
        sizes = [row.values["size"] for row in rows]
        objects = [any(row.values[f"true_{k}"] for k in range(1, _classes(row.values))) for row in rows]
        classes = size_classes(sizes, objects, self.limits)
        return {name: [rows[i] for i in places] for name, places in classes.items()}


def _classes(values: Mapping[str, float]) -> int:
    """How many classes a frame's pixels were counted for, with background."""
    return sum(name.startswith("both_") for name in values)


def _overlaps(frames: Sequence[Mapping[str, float]], average: str, first: int) -> dict[str, float]:
    """Overlaps of the pixels of some frames together, the mean over classes from `first` on; NaN where none weighs."""
    classes = range(first, max(map(_classes, frames)))
    scores, weights = [], []
    for k in classes:
        true, predicted, both = (
            sum(frame.get(f"{name}_{k}", 0.0) for frame in frames) for name in ("true", "predicted", "both")
        )
        images = sum(frame.get(f"true_{k}", 0.0) > 0 for frame in frames)
        # The published mean of equal weights takes in classes that never occur, with 0.
        weights.append(images if average == "micro" else float(images > 0 or first == 0))
        scores.append(_class_overlaps(true, predicted, both))
    total = sum(weights)
    if total == 0:
        return dict.fromkeys(_OVERLAPS, float("nan"))
    return {
        name: sum(weight * score[name] for weight, score in zip(weights, scores, strict=True)) / total
        for name in _OVERLAPS
    }


def _class_overlaps(true: float, predicted: float, both: float) -> dict[str, float]:
    union = true + predicted - both + EPS
    precision, sensitivity = both / (predicted + EPS), both / (true + EPS)
    return {
        "dice": 2 * both / (union + both),
        "iou": both / union,
        "precision": precision,
        "sensitivity": sensitivity,
        "f2": 5 * precision * sensitivity / (4 * precision + sensitivity + EPS),
    }
