"""Flicker, dropouts and false alarms of clips that can be counted by hand."""

import math

import cv2
import numpy as np
import pytest

from lgrnet.evaluation import Evaluator
from lgrnet.evaluation.motion import FrameMotion
from lgrnet.evaluation.over_time import OverTimeProtocol, neighbour_flicker
from lgrnet.records import DataError, Prediction

SIZE = 4, 10


def _bar(width, start=0):
    mask = np.zeros(SIZE, bool)
    mask[0, start : start + width] = True
    return mask


def _clip(predicted, true, protocol=None, video="v", size=None):
    """Scores of a clip of (width, start) or width of a bar; None as truth: not annotated."""
    evaluator = Evaluator([protocol or OverTimeProtocol(fps=30)], "s", resize=True)
    _add(evaluator, predicted, true, video)
    return evaluator.result()["scores"]["over-time"]


def _add(evaluator, predicted, true, video):
    mask = np.stack([_bar(*np.atleast_1d(p)) for p in predicted])[None]
    truth = [None if t is None else _bar(*np.atleast_1d(t)).astype(np.uint8) * 255 for t in true]
    names = tuple(f"{i}" for i in range(len(true)))
    evaluator.process(Prediction(video, names, np.ones(1), mask.astype(np.uint8) * 255, mask), truth)


def test_flicker_of_neighbours():
    assert neighbour_flicker(_bar(2), _bar(4)) == (0.5, 0.5)
    area, mask = neighbour_flicker(_bar(4), _bar(4, 2))
    assert (area, mask) == (0, pytest.approx(1 - 2 / 6))
    assert neighbour_flicker(_bar(0), _bar(3)) == neighbour_flicker(_bar(3), _bar(0)) == (1, 1)
    assert all(map(math.isnan, (*neighbour_flicker(_bar(0), _bar(0)), *neighbour_flicker(None, _bar(3)))))


def test_motion_of_the_lesion_is_no_excess():
    path = [(4, 0), (4, 2), (4, 4)]
    found = _clip(path, path)
    assert found["mask_flicker"] == found["true_mask_flicker"] == pytest.approx(2 / 3)
    assert found["excess_flicker"] == found["area_flicker"] == 0
    still = _clip([4, 2, 4], [4, 4, 4])
    assert (still["area_flicker"], still["true_area_flicker"], still["excess_flicker"]) == (0.5, 0, 0.5)


@pytest.mark.parametrize("scale", [1, 2])
def test_a_lesion_of_one_pixel_is_there_at_any_size_of_the_maps(scale):
    evaluator = Evaluator([OverTimeProtocol(fps=30)], "s", resize=True)
    truth = [np.zeros((16, 16), np.uint8) for _ in range(4)]
    for index, raw in enumerate(truth):
        raw[7, 2 * index + 1] = 255
    found = np.zeros((1, 4, 16 // scale, 16 // scale), bool)
    found[:, :, 2 // scale : 12 // scale] = True
    names = tuple("0123")
    evaluator.process(Prediction("v", names, np.ones(1), found.astype(np.uint8) * 255, found), truth)
    scores = evaluator.result()["scores"]["over-time"]
    assert scores["missed_frames"] == scores["never_detected"] == 0 and math.isnan(scores["specificity"])


@pytest.mark.parametrize("size", [(31, 256), (16, 128), (1, 90), (300, 20)])
def test_motion_of_narrow_pictures(size):
    """OpenCV's flow ends the process where a picture is low and wide."""
    before = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    mask = np.ones(size, bool)
    motion = FrameMotion(before, before)
    assert motion.follow(mask).all() and motion.resized(mask).all()


def test_dropouts_and_the_first_detection():
    #        healthy, missed, missed, found, missed, found
    found = _clip([0, 0, 0, 3, 0, 3], [0, 3, 3, 3, 3, 3])
    assert found["missed_frames"] == 3 / 5
    assert (found["dropout_longest"], found["dropout_mean"]) == (2, 1.5)
    assert (found["frames_to_detection"], found["never_detected"]) == (2, 0)
    assert found["seconds_to_detection"] == 2 / 30
    assert (found["specificity"], found["false_alarms_per_minute"]) == (1, 0)


def test_a_healthy_frame_ends_a_dropout():
    found = _clip([0, 0, 0, 0, 0, 3], [3, 3, 0, 3, 3, 3])
    assert (found["dropout_longest"], found["dropout_mean"], found["missed_frames"]) == (2, 2, 4 / 5)


def test_time_goes_on_without_predictions():
    fold = OverTimeProtocol(fps=1).begin()
    lesion = _bar(3).astype(np.uint8) * 255
    fold.add(lesion, _bar(0), lesion)
    for _ in range(5):
        fold.miss()
    fold.add(lesion, _bar(3), lesion)
    assert fold.end()[1]["frames_to_detection"] == 6


def test_a_lesion_that_is_never_found():
    found = _clip([0, (2, 8)], [3, 3])
    assert (found["never_detected"], found["missed_frames"], found["dropout_longest"]) == (1, 1, 2)
    assert math.isnan(found["frames_to_detection"])


def test_without_lesions_there_are_only_false_alarms():
    found = _clip([0, 3, 3, 0], [0, 0, 0, 0])
    assert found["specificity"] == 0.5
    assert found["false_alarms_per_minute"] == 30 * 60 / 2
    for name in ("true_area_flicker", "excess_flicker", "dropout_longest", "never_detected", "missed_frames"):
        assert math.isnan(found[name]), name


def test_frames_without_annotation_are_passed_over():
    found = _clip([0, 3, 0, 3], [3, None, 3, 3])
    assert found["dropout_longest"] == 2, "nothing says that it was found between"
    assert found["frames_to_detection"] == 3, "time goes on all the same"
    assert found["area_flicker"] == 1
    assert found["true_area_flicker"] == 0, "only the last two are neighbours"


def test_one_frame_and_min_iou():
    assert math.isnan(_clip([3], [3])["mask_flicker"])
    assert _clip([1], [4], OverTimeProtocol(min_iou=0.25))["missed_frames"] == 1
    assert _clip([1], [4], OverTimeProtocol(min_iou=0.24))["missed_frames"] == 0
    assert "seconds_to_detection" not in OverTimeProtocol().metrics


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"fps": math.nan}, {"fps": math.inf}, {"min_iou": 1}, {"min_iou": -0.1}])
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match="expected frames a second or None, and 0 to below 1"):
        OverTimeProtocol(**wrong)


def test_over_a_set_clips_weigh_the_same_and_frames_are_pooled():
    evaluator = Evaluator([OverTimeProtocol(fps=30)], "s")
    _add(evaluator, [0, 3, 3, 3], [3, 3, 3, 3], "a")
    _add(evaluator, [3, 0], [3, 0], "b")
    _add(evaluator, [2, 0], [0, 0], "c")
    result = evaluator.result()
    scores = result["scores"]["over-time"]
    assert scores["mask_flicker"] == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert scores["missed_frames"] == 1 / 5
    assert scores["dropout_longest"] == 1 / 2, "c has no lesion"
    assert scores["specificity"] == 2 / 3
    assert scores["false_alarms_per_minute"] == pytest.approx(600)
    lower, upper = result["intervals"]["over-time"]["missed_frames"]
    assert (lower, upper) == (0, 0.25)
    assert result["slices"]["over-time"]["videos: with lesion"]["videos"] == 2
    assert not [name for name in result["slices"]["over-time"] if name.startswith(("place", "frames", "size"))]


def test_masks_of_another_size_than_the_annotation():
    protocol = OverTimeProtocol()
    fold = protocol.begin()
    for _ in range(2):
        fold.add(np.zeros(SIZE, np.uint8), _bar(4), np.kron(_bar(4), np.ones((2, 2))).astype(np.uint8) * 255)
    frames, values = fold.end()
    assert (frames, values["missed"], values["true_mask_flicker"]) == (2, 0, 0)


def _scene(shift):
    """A textured picture that moves to the right, and the lesion in it."""
    texture = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 256, (96, 160), np.uint8), (0, 0), 2)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    mask = np.zeros((96, 128), bool)
    mask[30:60, 40 + shift : 80 + shift] = True
    return np.repeat(texture[:, 30 - shift : 158 - shift, None], 3, axis=2), mask


def test_what_the_camera_does_is_no_flicker_along_the_motion():
    images, masks = zip(*(_scene(shift) for shift in (0, 6, 12)), strict=True)
    evaluator = Evaluator([OverTimeProtocol(flow=True)], "s")
    found = np.stack(masks)[None]
    prediction = Prediction("v", ("0", "1", "2"), np.ones(1), found.astype(np.uint8) * 255, found)
    evaluator.process(prediction, [mask.astype(np.uint8) * 255 for mask in masks], images=lambda index: images[index])
    scores = evaluator.result()["scores"]["over-time"]
    assert scores["mask_flicker"] == pytest.approx(1 - 34 / 46)
    assert scores["warped_flicker"] == scores["true_warped_flicker"] < 0.04


def test_motion_needs_the_frames():
    with pytest.raises(DataError, match="came without its image"):
        _clip([3, 3], [3, 3], OverTimeProtocol(flow=True))
