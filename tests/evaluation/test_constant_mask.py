"""The best mask for all frames."""

import numpy as np
import pytest

from lgrnet.evaluation.constant_mask import best_constant


def test_the_best_constant_mask():
    left, all_true = np.zeros((8, 8), bool), np.ones((8, 8), bool)
    left[:, :4] = True
    truths = [left, left, all_true]
    halves = (1 + 1 + (2 * 32 + 1) / (32 + 64 + 1)) / 3
    assert best_constant(truths, truths) == pytest.approx(halves, abs=1e-6)
    assert best_constant([all_true], truths) == pytest.approx((2 * 32 + 1) / (32 + 64 + 1), abs=1e-6)


def test_the_best_constant_mask_of_pictures_of_several_sizes():
    truths = [np.zeros((height, width), bool) for height, width in ((8, 8), (40, 16), (256, 512))]
    for truth in truths:
        truth[:, : truth.shape[1] // 2] = True
    assert best_constant(truths, truths) == pytest.approx(1, abs=1e-6)
