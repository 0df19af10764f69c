"""Overlap numbers on masks small enough to count by hand."""

import math

import numpy as np
import pytest

from lgrnet.evaluation.metrics import Counts, count, dice, iou, mae, resize_nearest, s_measure, sensitivity


def test_numbers_counted_by_hand():
    prediction = np.array([[1, 1, 0], [0, 0, 0]], bool)
    truth = np.array([[1, 0, 0], [1, 1, 0]], bool)
    counts = count(prediction, truth)
    assert counts == Counts(tp=1, fp=1, fn=2, tn=2)
    assert dice(counts) == np.float32(3 / 6)
    assert iou(counts) == np.float32(2 / 5)
    assert dice(counts, smooth=0) == np.float32(2 / 5)
    assert sensitivity(counts) == np.float32(1 / 3)
    assert mae(counts) == np.float32(3 / 6)


def test_both_empty_is_perfect_with_smoothing_and_undefined_without():
    counts = count(np.zeros((4, 4), bool), np.zeros((4, 4), bool))
    assert dice(counts) == iou(counts) == 1
    assert math.isnan(dice(counts, smooth=0)) and math.isnan(iou(counts, smooth=0)) and math.isnan(sensitivity(counts))


def test_false_alarm_on_an_empty_truth_is_nearly_zero_not_zero():
    counts = count(np.ones((3, 3), bool), np.zeros((3, 3), bool))
    assert dice(counts) == iou(counts) == np.float32(1 / 10)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        count(np.zeros((2, 3), bool), np.zeros((3, 2), bool))


def test_nearest_equals_torch():
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    for height, width, rows, columns in generator.integers(1, 500, (50, 4)).tolist():
        values = np.arange(height * width, dtype=np.float32).reshape(height, width)
        theirs = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], size=(rows, columns))[0, 0]
        assert np.array_equal(resize_nearest(values, (rows, columns)), theirs.numpy())


@pytest.mark.parametrize("fill, expected", [(0.0, 1.0), (0.25, 0.75)])
def test_structure_measure_of_an_empty_truth(fill, expected):
    assert s_measure(np.full((6, 7), fill), np.zeros((6, 7), bool)) == expected


def test_structure_measure_of_the_truth_itself_is_one():
    truth = np.zeros((20, 20), bool)
    truth[4:11, 6:15] = True
    assert s_measure(truth, truth) == pytest.approx(1)
    assert s_measure(~truth, truth) < 0.3


@pytest.mark.parametrize("place", [(1, 1), (0, 1), (3, 0), (4, 5), (0, 0)])
def test_s_measure_of_a_quadrant_of_one_pixel(place):
    """With spreads divided by n one pixel has none, and a quadrant without spread in either is alike. The VPS toolbox
    divides by n - 1, and the whole measure is 0 there."""
    truth = np.zeros((5, 6), bool)
    truth[place] = True
    map_, regions = np.where(truth, 0.75, 0.25), 0.0
    for rows in (slice(0, place[0]), slice(place[0], None)):
        for columns in (slice(0, place[1]), slice(place[1], None)):
            a, b = map_[rows, columns], truth[rows, columns]
            if a.size:
                covariance, spread = np.mean((a - a.mean()) * (b - b.mean())), a.var() + b.var()
                numerator = 4 * a.mean() * b.mean() * covariance
                denominator = (a.mean() ** 2 + b.mean() ** 2) * spread
                regions += a.size / truth.size * (numerator / denominator if numerator else denominator == 0)
    objects = 2 * 0.75 / (0.75**2 + 1)
    assert s_measure(map_, truth, freedom=0, beyond=0) == pytest.approx(0.5 * objects + 0.5 * regions, abs=1e-12)
    assert s_measure(map_, truth) == 0
