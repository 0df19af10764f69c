"""What a method that looks at nothing can reach: one mask for all frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lgrnet.evaluation.metrics import count, dice, resize_nearest

LEVELS = 50
COMMON = 128, 128


def best_constant(truths: Sequence[np.ndarray], fitted: Sequence[np.ndarray]) -> float:
    """Mean Dice over `truths` of one mask for all: that level of the mean of `fitted` that suits `fitted` best.

    Masks are bool [H, W]. Where they differ in size, the mean is made at COMMON, and the mask is brought to the size of
    each truth by nearest neighbour.
    """
    sizes = {truth.shape for truth in (*fitted, *truths)}
    common = sizes.pop() if len(sizes) == 1 else COMMON
    mean = np.mean([_resized(truth, common) for truth in fitted], axis=0, dtype=np.float32)
    candidates = [mean >= level for level in np.linspace(mean.max() / LEVELS, mean.max(), LEVELS)]
    best = max(candidates, key=lambda mask: _mean_dice(mask, fitted))
    return _mean_dice(best, truths)


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return mask if mask.shape == tuple(size) else resize_nearest(mask, size)


def _mean_dice(mask: np.ndarray, truths: Sequence[np.ndarray]) -> float:
    return float(np.mean([dice(count(_resized(mask, truth.shape), truth)) for truth in truths]))
