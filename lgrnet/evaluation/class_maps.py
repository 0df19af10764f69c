"""Maps of class indices, 0 is background, and the pixels that two of them share."""

from __future__ import annotations

import numpy as np

from lgrnet.evaluation import metrics

EPS = 1e-7


def predicted_classes(probability: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Class indices int64 [*size] of a prediction; masks of another size are brought there by nearest neighbour.

    probability  uint8 [K, H, W]; decides where masks of several classes overlap, the first class at equal values
    mask         bool [K, H, W]
    """
    classes = np.where(mask.any(0), np.where(mask, probability.astype(np.int16), -1).argmax(0) + 1, 0)
    return classes if classes.shape == tuple(size) else metrics.resize_nearest(classes, size)


def true_classes(there: np.ndarray) -> np.ndarray:
    """Class indices int64 [H, W] of masks bool [K, H, W] that do not overlap."""
    return np.where(there.any(0), there.argmax(0) + 1, 0)


def class_counts(predicted: np.ndarray, true: np.ndarray, counted: np.ndarray, classes: int) -> dict[str, float]:
    """Pixels of each class 0 (background) to `classes`: true_<k>, predicted_<k>, both_<k>.

    predicted, true  class indices [H, W]
    counted          bool [H, W]; other pixels are left out
    """
    predicted, true = predicted[counted], true[counted]
    bins = {
        "true": np.bincount(true, minlength=classes + 1),
        "predicted": np.bincount(predicted, minlength=classes + 1),
        "both": np.bincount(true[true == predicted], minlength=classes + 1),
    }
    return {f"{name}_{k}": float(counts[k]) for name, counts in bins.items() for k in range(classes + 1)}


def enhanced_alignment(counts: metrics.Counts, images: int = 1) -> float:
    """E-measure (Fan et al., IJCAI 2018) of binary maps, from their pixel counts; 0 for none, about 1 for all right.

    Every pixel's deviations from the mean of its map, g and p, give ((2 g p / (g^2 + p^2) + 1) / 2)^2, and their sum
    is divided by N - 1, as in the toolbox of PraNet. Where the truth is empty (full), it is the pixels not found
    (found) that count.

    images  so many images of N / images pixels were counted together: divided by (N / images - 1) and by images
    """
    total = counts.tp + counts.fp + counts.fn + counts.tn
    true, predicted = counts.tp + counts.fn, counts.tp + counts.fp
    if true == 0:
        aligned = float(total - predicted)
    elif true == total:
        aligned = float(predicted)
    else:
        aligned = 0.0
        for number, g, p in ((counts.tp, 1, 1), (counts.fp, 0, 1), (counts.fn, 1, 0), (counts.tn, 0, 0)):
            g, p = g - true / total, p - predicted / total
            aligned += number * (2 * g * p / (g * g + p * p + EPS) + 1) ** 2 / 4
    return aligned / (total / images - 1 + EPS) / images
