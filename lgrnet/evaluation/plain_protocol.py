"""The numbers of textbooks: no smoothing, no stretching, one threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lgrnet.evaluation import metrics
from lgrnet.evaluation.additive import RatioOfSums
from lgrnet.evaluation.protocols import FrameRow, Score, mean_score


class PlainProtocol(RatioOfSums):
    """Overlap of the map above half of its range with the truth above half of its own, without smoothing.

    A number that is 0 / 0 in a frame (all but specificity where both are empty, precision where nothing is found,
    sensitivity on an empty truth, specificity on a full one) is not defined there, and has no part in the mean over all
    frames of all videos; its `frames` say how many had. The model's own mask is not looked at. A prediction of another
    size is brought to the truth's by nearest neighbour after the threshold.
    """

    id = "plain"
    metrics = ("dice", "iou", "sensitivity", "specificity", "precision")
    meaning = (
        "Dice, IoU, sensitivity, specificity and precision of the map above half of its range, truth > 127, at the "
        "size on disk, no smoothing; plain mean over the frames where the number is not 0 / 0."
    )

    def per_frame(self, probability: np.ndarray, mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """See `Protocol.per_frame`; NaN for 0 / 0."""
        found, there = probability > 127, truth > 127
        if found.shape != there.shape:
            found = metrics.resize_nearest(found, there.shape)
        counts = metrics.count(found, there)
        return {
            "dice": metrics.dice(counts, smooth=0),
            "iou": metrics.iou(counts, smooth=0),
            "sensitivity": metrics.sensitivity(counts),
            "specificity": metrics.specificity(counts),
            "precision": metrics.precision(counts),
        }

    def aggregate(self, rows: Sequence[FrameRow]) -> dict[str, Score]:
        """Mean over the frames where the number is defined."""
        return {name: mean_score(row.values[name] for row in rows) for name in self.metrics}
