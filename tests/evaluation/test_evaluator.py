"""The evaluator: what it skips, what it refuses, and that ranks make no difference."""

import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest

from lgrnet.evaluation import (
    AveragePrecision,
    Evaluator,
    LGRNetProtocol,
    OverTimeProtocol,
    PlainProtocol,
    StudyProtocol,
)
from lgrnet.evaluation.protocols import mean_score
from lgrnet.records import DataError, Prediction


def _prediction(video="a", frames=3, classes=1, size=(8, 10), seed=0):
    mask = np.random.default_rng(seed).random((classes, frames, *size)) > 0.5
    names = tuple(f"{i:03d}" for i in range(frames))
    return Prediction(video, names, np.ones(classes, np.float32), mask.astype(np.uint8) * 255, mask)


def _truth(frames=3, size=(8, 10), seed=1):
    return list(np.random.default_rng(seed).integers(0, 2, (frames, *size)).astype(np.uint8) * 255)


def test_frames_without_annotation_are_skipped_and_counted():
    truth = _truth()
    truth[1] = None
    evaluator = Evaluator(set_name="s")
    rows = evaluator.process(_prediction(), truth)
    result = evaluator.result()
    assert [row.frame for row in rows] == ["000", "002"]
    assert (result["frames"], result["frames_without_annotation"]) == (2, 1)
    assert result["scores"]["lgrnet"]["dice"] == pytest.approx(np.mean([row.values["dice"] for row in rows]))


def test_size_that_differs_names_video_and_frame():
    truth = _truth()
    truth[2] = np.zeros((9, 10), np.uint8)
    with pytest.raises(ValueError, match="video 'a', frame '002': the prediction is 8 x 10 but .* 9 x 10"):
        Evaluator().process(_prediction(), truth)
    rows = Evaluator(resize=True).process(_prediction(), truth)
    assert len(rows) == 3


def test_wrong_number_of_masks_or_classes():
    with pytest.raises(ValueError, match="video 'a' has 3 predicted frames but 2 masks"):
        Evaluator().process(_prediction(), _truth(2))
    with pytest.raises(ValueError, match=r"mask has shape \(1, 3, 8, 10\), expected \[2, 3, H, W\]"):
        Evaluator().process(_prediction(), _truth(), {1: 1, 2: 2})


def test_a_video_is_scored_once():
    evaluator = Evaluator()
    evaluator.process(_prediction(), _truth())
    with pytest.raises(ValueError, match="'a' was scored before"):
        evaluator.process(_prediction(), _truth())


def test_nothing_scored_is_an_error():
    evaluator = Evaluator(set_name="empty")
    evaluator.process(_prediction(), [None] * 3)
    with pytest.raises(ValueError, match="set 'empty': no frame was scored .1 videos, 3 frames without annotation"):
        evaluator.result()


def test_ranks_merge_to_the_numbers_of_one_process():
    def scored(evaluator, video):
        evaluator.process(_prediction(video, seed=ord(video)), _truth(seed=ord(video) + 1))

    alone, first, second = (Evaluator(set_name="s", weights_hash="ab") for _ in range(3))
    for video in "abcd":
        scored(alone, video)
        scored(first if video in "ac" else second, video)
    first.merge(json.loads(json.dumps(second.state())))
    assert first.rows == alone.rows
    assert first.result() == alone.result()
    with pytest.raises(ValueError, match="videos scored twice in set 's': b, d"):
        first.merge(second.state())
    with pytest.raises(ValueError, match="state is of set 'other'"):
        first.merge(Evaluator(set_name="other").state())


@pytest.mark.parametrize(
    "others",
    [
        [LGRNetProtocol()],
        [PlainProtocol()],
        [LGRNetProtocol(), OverTimeProtocol(30)],
        [LGRNetProtocol(), OverTimeProtocol(5, 0.9)],
    ],
)
def test_ranks_of_other_protocols_do_not_merge(others):
    first, second = Evaluator([LGRNetProtocol(), OverTimeProtocol(5)]), Evaluator(others)
    first.process(_prediction("a"), _truth())
    second.process(_prediction("b"), _truth())
    with pytest.raises(ValueError, match="state is of other protocols .*; give both evaluators the same"):
        first.merge(second.state())


def test_videos_of_different_numbers_of_classes_have_no_interval_where_sums_do_not_fit():
    evaluator = Evaluator([StudyProtocol(), LGRNetProtocol()])
    for video, classes in (("a", 1), ("b", 2), ("c", 2)):
        label_map = {255: 1} if classes == 1 else {255: 1, 1: 2}
        evaluator.process(_prediction(video, classes=classes, seed=ord(video)), _truth(seed=ord(video)), label_map)
    result = evaluator.result()
    assert 0 < result["scores"]["study"]["mean_iou"] < 1
    assert {bound for bounds in result["intervals"]["study"].values() for bound in bounds} == {None}
    assert result["label_maps"] == ["{1: 2, 255: 1}", "{255: 1}"]


def test_one_half_is_not_above_half_of_the_range():
    scorer = Evaluator([PlainProtocol()]).begin("v")
    scorer.add("0", np.full((4, 4), 0.5), raw=np.zeros((4, 4), np.uint8))
    scorer.add("1", np.full((4, 4), 0.502), raw=np.zeros((4, 4), np.uint8))
    assert [row.values["specificity"] for row in scorer.rows] == [1, 0]


def test_average_precision_of_grey_edges_is_warned_of():
    truth = np.zeros((8, 10), np.uint8)
    truth[2:6, 2:6], truth[5, 2:6] = 255, 30
    prediction = _prediction(frames=1)
    for label_map, warned in (("binary", True), ("half", False)):
        evaluator = Evaluator([PlainProtocol()], instances=AveragePrecision("frame"))
        evaluator.process(prediction, [truth], label_map)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            evaluator.result()
        told = [str(w.message) for w in caught if "average precision does so with a binary label map" in str(w.message)]
        assert len(told) == warned


def test_classes_are_scored_apart_and_averaged():
    raw = np.zeros((1, 4, 4), np.uint8)
    raw[0, :2], raw[0, 2:] = 7, 9
    mask = np.zeros((2, 1, 4, 4), bool)
    mask[0, 0, :2] = True
    prediction = Prediction("v", ("f",), np.ones(2, np.float32), mask.astype(np.uint8) * 255, mask)
    evaluator = Evaluator()
    evaluator.process(prediction, list(raw), {7: 1, 9: 2})
    dice = {
        n["class_id"]: n["value"] for n in evaluator.result()["numbers"] if n["metric"] == "dice" and not n["video"]
    }
    assert dice[1] == 1
    assert dice[2] == pytest.approx(1 / 9)
    assert dice["mean"] == pytest.approx((1 + 1 / 9) / 2)
    assert evaluator.result()["scores"]["lgrnet"]["dice"] == dice["mean"]


def test_raw_value_that_the_label_map_does_not_know_names_the_frame():
    with pytest.raises(DataError, match="mask of a/000 holds the values .*255"):
        Evaluator().process(_prediction(), _truth(), {7: 1})


def test_every_number_says_what_it_is():
    evaluator = Evaluator([LGRNetProtocol(extended=True)], set_name="easy", weights_hash="0123")
    evaluator.process(_prediction(), _truth())
    for number in evaluator.result()["numbers"]:
        assert (number["protocol"], number["set"], number["weights_hash"]) == ("lgrnet", "easy", "0123")
        assert number["version"] and (number["slice"] or number["frames"] == 3)


def test_grey_truth_counts_above_zero_whatever_the_label_map():
    truth = np.zeros((8, 10), np.uint8)
    truth[2:5] = 3
    mask = (truth > 0)[None, None]
    truth[4] = 9
    for label_map in ("binary", "half", "full", "soft"):
        evaluator = Evaluator(set_name="jpegs")
        prediction = Prediction("v", ("f",), np.ones(1, np.float32), mask.astype(np.uint8) * 255, mask)
        evaluator.process(prediction, [truth], label_map)
        words = (
            f"'jpegs': masks of 1 video .v. have grey edges, {20 if label_map == 'binary' else 30} pixels; .* lgrnet"
        )
        with pytest.warns(UserWarning, match=words):
            assert evaluator.result()["scores"]["lgrnet"] == {"dice": 1.0, "iou": 1.0}
        plain = Evaluator([PlainProtocol()])
        plain.process(prediction, [truth], label_map)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            plain.result()


@pytest.mark.parametrize("kind", [bool, np.int32, np.int64, np.uint16])
def test_masks_of_any_whole_numbers(kind):
    def found(raw, label_map):
        evaluator = Evaluator([LGRNetProtocol(), PlainProtocol()], instances=AveragePrecision("frame"))
        evaluator.process(_prediction(), raw, label_map)
        result = evaluator.result()
        return result["scores"], result["instances"]["ap"]

    for label_map, white in (("binary", 255), ("half", 255), ({1: 1}, 1)):
        truth = [(raw // 255 * white).astype(np.uint8) for raw in _truth()]
        same = [raw.astype(kind) for raw in truth]
        assert found(same, label_map) == found(truth, label_map)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (np.full((8, 10), 0.9), "video 'a', frame '000': its mask is of float64, expected uint8, or bool"),
        (np.full((8, 10), np.nan), "float64"),
        (np.full((8, 10), -1), "int64, expected uint8, or bool, or integers of 0..255"),
        (np.full((8, 10), 1000, np.int32), "int32"),
        (np.zeros((1, 8, 10), np.uint8), r"has shape \(1, 8, 10\), expected \[H, W\]"),
    ],
)
def test_masks_of_nonsense_are_refused(raw, says):
    for instances in (None, AveragePrecision("frame")):
        with pytest.raises(DataError, match=says):
            Evaluator(instances=instances).process(_prediction(frames=1), [raw])
    with pytest.raises(DataError):
        AveragePrecision("frame").process(_prediction(frames=1), [raw])


@pytest.mark.parametrize("label_map", ["bin", {}, [255], {1: 2}])
def test_label_maps_of_nonsense_are_refused(label_map):
    for process in (Evaluator().process, AveragePrecision("frame").process):
        with pytest.raises(DataError, match="label_map"):
            process(_prediction(), _truth(), label_map)
    with pytest.raises(DataError, match="label_map"):
        Evaluator().begin("a", label_map)


@pytest.mark.parametrize("protocols", [PlainProtocol(), ["plain"], "plain"])
def test_what_is_no_list_of_protocols_is_refused(protocols):
    with pytest.raises(ValueError, match="expected a list of protocols"):
        Evaluator(protocols)


def test_another_protocol_fits_in_and_keeps_its_own_column():
    class MeanProbability:
        id, meaning, metrics = "mean", "Mean probability.", ("level",)

        def per_frame(self, probability, mask, truth):
            return {"level": float(probability.mean())}

        def aggregate(self, rows):
            return {"level": mean_score(row.values["level"] for row in rows)}

    evaluator = Evaluator([LGRNetProtocol(), MeanProbability()])
    evaluator.process(_prediction(), _truth())
    scores = evaluator.result()["scores"]
    assert set(scores["lgrnet"]) == {"dice", "iou"} and set(scores["mean"]) == {"level"}


def test_undefined_numbers_are_left_out_of_the_mean():
    score = mean_score([math.nan, 1.0, 0.0])
    assert (score.value, score.frames) == (0.5, 2)


def test_evaluation_needs_no_torch():
    code = "import sys, lgrnet.evaluation; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_instances_of_ranks_merge_to_those_of_one_process():
    def scored(evaluator, video):
        evaluator.process(_prediction(video, seed=ord(video)), _truth(seed=ord(video) + 1), meta={"seen": video < "c"})

    alone, first, second = (Evaluator(instances=AveragePrecision("video")) for _ in range(3))
    for video in "abcd":
        scored(alone, video)
        scored(first if video in "ac" else second, video)
    first.merge(json.loads(json.dumps(second.state())))
    assert first.result() == alone.result()
    assert alone.result()["instances"]["annotated_objects"] == 4
    with pytest.raises(ValueError, match="on one side only"):
        Evaluator().merge(Evaluator(instances=AveragePrecision()).state())
