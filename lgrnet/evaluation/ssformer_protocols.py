"""The evaluations of SSFormer and of its reproduction study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lgrnet.evaluation.additive import RatioOfSums, divide
from lgrnet.evaluation.class_maps import class_counts, predicted_classes, true_classes
from lgrnet.evaluation.maps import at_size
from lgrnet.evaluation.protocols import FrameRow, Score, mean_score

_THRESHOLDS = 256
_POLYP = 255


class SSFormerTestProtocol(RatioOfSums):
    """Mean Dice of SSFormer's test program, mean_dice: over 256 thresholds of a map that is binary already.

    A pixel is found where its probability is above 0.5 and true where its grey value is 255. A binary map has one
    Dice d at 255 thresholds, and at threshold 0 everything is found: (255 d + 2 n / (n + N)) / 256 for n true of N
    pixels. So a perfect mask scores a little below 1. As published, a map that is found everywhere counts as found
    nowhere, and an image without truth scores 0. A prediction of another size is resized bilinearly. The published
    score of several sets is the plain mean of theirs.

    dice_at_half is d, and iou_at_half the IoU of the same mask; the program does not print them.
    """

    id = "ssformer-test"
    of_sets = True
    meaning = (
        "SSFormer's test program: Dice of probability > 0.5 at the size on disk, truth = 255, mean over 256 thresholds "
        "with 0 among them, where everything is found; mean over images; images without truth score 0. dice_at_half, "
        "iou_at_half: of the mask itself, without thresholds."
    )
    metrics = ("mean_dice", "dice_at_half", "iou_at_half")

    def per_frame(self, probability: np.ndarray, mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """See `Protocol.per_frame`."""
        found, true = at_size(probability, truth.shape) > 127, truth == _POLYP
        if found.all():
            found = np.zeros_like(found)
        number, both = np.count_nonzero(true), np.count_nonzero(found & true)
        total = number + np.count_nonzero(found)
        dice, iou = (2 * both / total, both / (total - both)) if both else (0.0, 0.0)
        everywhere = 2 * number / (number + true.size)
        mean_dice = ((_THRESHOLDS - 1) * dice + everywhere) / _THRESHOLDS
        return {"mean_dice": mean_dice, "dice_at_half": dice, "iou_at_half": iou}

    def aggregate(self, rows: Sequence[FrameRow]) -> dict[str, Score]:
        """Means over images."""
        return {name: mean_score(row.values[name] for row in rows) for name in self.metrics}


class StudyProtocol:
    """SSFormer's reproduction study: the pixels of all images in one confusion matrix.

    mean_iou, mean_dice, mean_accuracy are means over background and classes, so they are not those of the polyps,
    which stand beside them as foreground_iou and foreground_dice (several classes: their mean). A class that no pixel
    has or gets is left out. True is the grey value 255 only. Fractions of 1; the study has percent of two digits.

    The study compares at the resized resolution (short side 352, both sides multiples of 32) and on the split that
    chose the weights; here it is the size on disk. A prediction of another size is brought to the truth's by nearest
    neighbour. Ignored pixels take no part. The study's option to average predictions over scales and flips is left
    out; it was off.
    """

    id = "study"
    meaning = (
        "SSFormer's reproduction study: one confusion matrix of all pixels of the set, truth = 255, at the size on "
        "disk (the study: at the resized one). mean_: over background and classes; foreground_: without background."
    )
    metrics = ("mean_dice", "mean_iou", "mean_accuracy", "foreground_dice", "foreground_iou")

    def whole_frame(
        self, probability: np.ndarray, mask: np.ndarray, truth: np.ndarray, ignored: np.ndarray
    ) -> dict[str, float]:
        """See `WholeFrameProtocol.whole_frame`; the metrics of this frame alone and the pixels they are of."""
        true = true_classes(truth == _POLYP)
        predicted = predicted_classes(probability, mask, truth.shape[-2:])
        pixels = class_counts(predicted, true, ~ignored, len(truth))
        return {**self._scores([pixels]), **pixels}

    def aggregate(self, rows: Sequence[FrameRow]) -> dict[str, Score]:
        """The metrics of the confusion matrix of all rows."""
        return {name: Score(value, len(rows)) for name, value in self._scores([row.values for row in rows]).items()}

    def statistics(self, rows: Sequence[FrameRow]) -> np.ndarray:
        """See `Additive.statistics`: the pixels of each class, true, predicted and both."""
        return _pixels([row.values for row in rows]).ravel()

    def finish(self, sums: np.ndarray) -> np.ndarray:
        """See `Additive.finish`."""
        true, predicted, both = np.split(sums, 3, axis=-1)
        dice, iou, accuracy = (
            divide(a, b) for a, b in ((2 * both, true + predicted), (both, true + predicted - both), (both, true))
        )
        parts = (dice, iou, accuracy, dice[..., 1:], iou[..., 1:])
        return np.stack([divide(np.nansum(part, -1), (~np.isnan(part)).sum(-1)) for part in parts], axis=-1)

    def _scores(self, frames: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return dict(zip(self.metrics, self.finish(_pixels(frames).ravel()).tolist(), strict=True))


def _pixels(frames: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Pixels [3, K + 1] of some frames: true, predicted and both, of the background and each class."""
    classes = range(max(sum(key.startswith("both_") for key in frame) for frame in frames))
    names = ("true", "predicted", "both")
    return np.array([[sum(frame.get(f"{name}_{k}", 0.0) for frame in frames) for k in classes] for name in names])
