"""SvANet's numbers by object size: as stored for 40 pairs with one and with four classes, and done right."""

import csv
import json
import math
import warnings

import cv2
import numpy as np
import pytest

from lgrnet.evaluation import Evaluator, LGRNetProtocol, SvANetSizeProtocol, write_report
from lgrnet.evaluation.class_maps import enhanced_alignment
from lgrnet.evaluation.metrics import Counts
from lgrnet.evaluation.object_size import largest_object, size_classes
from lgrnet.evaluation.protocols import FrameRow
from lgrnet.records import Prediction

PERCENT = 1e-4
PUBLISHED = {
    "mDice": "dice",
    "mIoU": "iou",
    "AvgPrecision": "precision",
    "AvgRecall": "sensitivity",
    "AvgF2": "f2",
    "mEM": "e_measure",
}


@pytest.fixture(scope="module")
def golden_folder(golden):
    return golden / "svanet"


@pytest.fixture(scope="module")
def masks(golden_folder):
    with np.load(golden_folder / "metrics_masks.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def expected(golden_folder):
    return json.loads((golden_folder / "metrics.json").read_text())


def one_hot(classes, count):
    return classes == np.arange(1, count)[:, None, None]


def rows_of(protocol, masks, count):
    """The rows of the stored pairs; 255 is ignored."""
    rows = []
    for i, (true, predicted) in enumerate(zip(masks[f"c{count}_target"], masks[f"c{count}_pred"], strict=True)):
        mask, truth = one_hot(predicted, count), one_hot(true, count).astype(np.uint8) * 255
        values = protocol.whole_frame(mask.astype(np.uint8) * 255, mask, truth, true == 255)
        rows.append(FrameRow(protocol.id, f"v{i:02d}", "0", "all", values))
    return rows


@pytest.mark.parametrize("count", [2, 5])
def test_sizes_as_stored(masks, count):
    found = [largest_object(one_hot(true, count)) for true in masks[f"c{count}_target"]]
    np.testing.assert_allclose(found, masks[f"c{count}_area_ratio_percent"], atol=1e-12)


@pytest.mark.parametrize("count", [2, 5])
def test_cumulative_size_classes_as_stored(masks, expected, count):
    protocol = SvANetSizeProtocol()
    slices = protocol.slices(rows_of(protocol, masks, count))
    for published in expected[f"c{count}_tiny_protocol"]:
        members = slices[f"< {published['ratio']:g} %"]
        assert len(members) == published["n_images"]
        scores = protocol.aggregate(members)
        for theirs, ours in PUBLISHED.items():
            assert 100 * scores[f"published_{ours}"].value == pytest.approx(published[theirs], abs=PERCENT), theirs
        assert scores["published_mae"].value == pytest.approx(published["mAE"], rel=1e-5)
        for k, (dice, union) in enumerate(zip(published["Dice_per_class"], published["area_union"], strict=True)):
            both = sum(row.values[f"both_{k}"] for row in members)
            total = sum(row.values[f"true_{k}"] + row.values[f"predicted_{k}"] for row in members)
            assert 2 * both / total == pytest.approx(dice, abs=1e-6) and total - both == pytest.approx(union)


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("average", ["micro", "macro"])
def test_overlaps_of_the_set_as_the_trainer_has_them(masks, expected, count, average):
    protocol = SvANetSizeProtocol(average=average)
    scores = protocol.aggregate(rows_of(protocol, masks, count))
    published = expected[f"c{count}_epoch_stats_{average}_batch4"][0]
    names = {
        "mDice": "dice",
        "mIoU": "iou",
        "AvgPrecision": "precision",
        "AvgRecall": "sensitivity",
        "AvgF2Score": "f2",
    }
    for theirs, ours in names.items():
        assert 100 * scores[f"published_{ours}"].value == pytest.approx(published[theirs], abs=PERCENT), theirs


@pytest.mark.parametrize("count", [2, 5])
def test_raw_masks_of_the_set_give_its_numbers(masks, expected, count):
    """Image 16 of each set shows no object, and some pixels to ignore."""
    label_map = {**{k: k for k in range(1, count)}, 255: "ignore"}
    evaluator = Evaluator([SvANetSizeProtocol()], "svanet")
    for i, (true, predicted) in enumerate(zip(masks[f"c{count}_target"], masks[f"c{count}_pred"], strict=True)):
        evaluator.process(prediction(f"v{i:02d}", one_hot(predicted, count)), [true], label_map)
    scores = evaluator.result()["scores"]["svanet-size"]
    published = next(row for row in expected[f"c{count}_tiny_protocol"] if row["ratio"] == 100)
    assert published["n_images"] == evaluator.result()["frames"] == 40
    for theirs, ours in PUBLISHED.items():
        assert 100 * scores[f"published_{ours}"] == pytest.approx(published[theirs], abs=PERCENT), theirs
    assert scores["published_mae"] == pytest.approx(published["mAE"], rel=1e-5)


def test_of_a_set_whose_foreground_is_ignored_a_warning_tells():
    """Masks of 0 and 255 with a label map that ignores 255: alone they may be right, all together they are not."""
    ignoring = {1: 1, 255: "ignore"}

    def scored(video, raw, set_name="set"):
        evaluator = Evaluator(set_name=set_name)
        evaluator.process(prediction(video, np.zeros((1, 100, 100), bool)), [raw], ignoring)
        return evaluator

    evaluator = scored("a", square(5))
    evaluator.merge(json.loads(json.dumps(scored("b", np.zeros((100, 100), np.uint8)).state())))
    with pytest.warns(UserWarning, match=r'set .set.: .*1 of 2 annotated frames .*ignore.*label_map="binary"'):
        evaluator.result()
    evaluator.merge(json.loads(json.dumps(scored("c", square(5) // 255).state())))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluator.result()["frames"] == 3
    assert scored("d", np.zeros((100, 100), np.uint8)).result()["scores"]["lgrnet"]["dice"] == 1


def test_numbers_of_single_images(masks, expected):
    protocol = SvANetSizeProtocol()
    for row, published in zip(rows_of(protocol, masks, 2), expected["c2_per_image"], strict=True):
        scores = protocol.aggregate([row])
        assert scores["published_e_measure"].value == pytest.approx(published["em"], abs=1e-6)
        if row.values["size"] and not (masks["c2_target"][int(row.video[1:])] == 255).any():
            assert row.values["e_measure"] == pytest.approx(published["em"], abs=1e-6)
            assert row.values["mae"] == pytest.approx(published["ae_unmutated"], abs=1e-6)
            both, union = published["inter"][1], published["union"][1]
            assert row.values["iou"] == pytest.approx(both / union, abs=1e-6)


def test_sizes_by_hand():
    masks = np.zeros((2, 100, 100), bool)
    assert largest_object(masks) == 0
    masks[0, 5, :50] = True  # a line has no area
    assert largest_object(masks) == 0
    masks[0, 20:30, 20:30] = True
    assert largest_object(masks) == pytest.approx(0.81)
    masks[1, 40:61, 40:61] = True  # the larger class counts
    assert largest_object(masks) == pytest.approx(4.0)
    masks[1, 50, 50] = False  # a hole is object
    assert largest_object(masks) == pytest.approx(4.0)
    masks[1, 61:63, 40:61], masks[1, 63:84, 40:61] = False, True  # a gap of two rows is closed
    assert largest_object(masks) == pytest.approx(20 * 43 / 100)


def test_size_classes_by_hand():
    classes = size_classes([0.0, 0.0, 0.5, 0.99, 40.0], [False, True, True, True, True], (0.5, 1, 100))
    assert classes == {
        "< 0.5 %": [0, 1],
        "< 1 %": [0, 1, 2, 3],
        "< 100 %": [0, 1, 2, 3, 4],
        "no object": [0],
        "0 - 0.5 %": [1],
        "0.5 - 1 %": [2, 3],
        "1 - 100 %": [4],
    }


def test_enhanced_alignment_is_that_of_the_maps():
    """Against the definition, pixel by pixel."""
    rng = np.random.default_rng(0)
    truth, found = rng.random((2, 9, 11)) > 0.6
    g, p = truth - truth.mean(), found - found.mean()
    by_pixel = ((2 * g * p / (g * g + p * p + 1e-7) + 1) ** 2 / 4).sum() / (truth.size - 1 + 1e-7)
    counts = Counts(*(int(x.sum()) for x in (truth & found, ~truth & found, truth & ~found, ~truth & ~found)))
    assert enhanced_alignment(counts) == pytest.approx(by_pixel, abs=1e-12)
    assert enhanced_alignment(Counts(0, 3, 0, 7)) == pytest.approx(7 / 9)
    assert enhanced_alignment(Counts(4, 0, 6, 0)) == pytest.approx(4 / 9)


def prediction(video, mask):
    return Prediction(video, ("f",), np.ones(len(mask), np.float32), (mask * np.uint8(255))[:, None], mask[:, None])


def square(side, size=100):
    image = np.zeros((size, size), np.uint8)
    image[10 : 10 + side, 10 : 10 + side] = 255
    return image


def test_one_pass_beside_lgrnet_with_its_slices_in_the_report(tmp_path):
    evaluator = Evaluator([LGRNetProtocol(), SvANetSizeProtocol()], "polyps")
    for video, side in (("a", 0), ("b", 10), ("c", 41)):
        evaluator.process(prediction(video, square(max(side, 2) - 1)[None] > 0), [square(side)])
    paths = write_report(evaluator, tmp_path)
    stored = json.loads(paths["report.json"].read_text())["sets"][0]
    slices = stored["slices"]["svanet-size"]
    assert {name: found["frames"] for name, found in slices.items() if "<" not in name and ":" not in name} == {
        "no object": 1,
        "0 - 0.5 %": 0,
        "0.5 - 1 %": 1,
        "1 - 2 %": 0,
        "2 - 3 %": 0,
        "3 - 5 %": 0,
        "5 - 10 %": 0,
        "10 - 100 %": 1,
    }
    assert slices["< 1 %"]["frames"] == 2 and slices["< 0.5 %"]["frames"] == 1
    assert slices["1 - 2 %"] == {"videos": 0, "frames": 0, "scores": None, "intervals": None}
    assert slices["0.5 - 1 %"]["scores"]["dice"] == pytest.approx(2 * 81 / 181, abs=1e-6)
    assert slices["no object"]["scores"]["dice"] is None, "there is an image, but no object whose Dice it could be"
    assert stored["scores"]["svanet-size"]["published_dice"] > stored["scores"]["svanet-size"]["dice"]
    assert "1 - 2 %" not in stored["slices"]["lgrnet"]
    with paths["scores.csv"].open(newline="") as file:
        lines = [row for row in csv.DictReader(file) if row["slice"] == "1 - 2 %"]
    assert len(lines) == len(SvANetSizeProtocol().metrics)
    assert {(row["value"], row["frames"], row["class_id"]) for row in lines} == {("", "0", "all")}
    text = paths["report.md"].read_text()
    assert "### polyps, per slice" in text
    line = next(line for line in text.splitlines() if line.startswith("| 1 - 2 % |"))
    assert line.count("no images") == len(SvANetSizeProtocol().metrics)
    assert "nan" not in text and "NaN" not in paths["report.json"].read_text()


def test_ranks_merge_to_the_numbers_of_one_process():
    def scored(*videos):
        evaluator = Evaluator([SvANetSizeProtocol(), LGRNetProtocol()], "s")
        for video in videos:
            evaluator.process(prediction(video, square(ord(video) - 90)[None] > 0), [square(ord(video) - 85)])
        return evaluator

    alone, first, second = scored(*"abcd"), scored(*"ac"), scored(*"bd")
    first.merge(json.loads(json.dumps(second.state())))
    # JSON makes them comparable where a number is not defined.
    assert json.dumps(first.result()) == json.dumps(alone.result())


def test_finding_nothing_is_worth_a_half_as_published_and_nothing_without_background():
    protocol = SvANetSizeProtocol()
    evaluator = Evaluator([protocol])
    for i in range(3):
        evaluator.process(prediction(f"v{i}", np.zeros((1, 100, 100), bool)), [square(5 + i)])
    scores = evaluator.result()["scores"]["svanet-size"]
    assert scores["dice"] == 0 and scores["published_dice"] == pytest.approx(0.5, abs=2e-3)
    assert scores["mae"] == pytest.approx(np.mean([25, 36, 49]) / 1e4)
    assert scores["published_mae"] == pytest.approx(scores["mae"] / 3)


def test_classes_ignored_pixels_and_another_size():
    truth = np.zeros((8, 8), np.uint8)
    truth[:4], truth[4:, :2], truth[4:, 6:] = 1, 2, 9
    mask = np.zeros((2, 4, 4), bool)
    mask[0, :2], mask[1, 2:, :2] = True, True
    evaluator = Evaluator([SvANetSizeProtocol()], resize=True)
    evaluator.process(prediction("v", mask), [truth], {1: 1, 2: 2, 9: "ignore"})
    values = evaluator.rows[0].values
    assert (values["true_1"], values["predicted_1"], values["both_1"]) == (32, 32, 32)
    assert (values["true_2"], values["predicted_2"], values["both_2"]) == (8, 16, 8)
    assert values["mae"] == pytest.approx(8 / 56)
    scores = evaluator.result()["scores"]["svanet-size"]
    assert scores["dice"] == pytest.approx((1 + 16 / 24) / 2, abs=1e-6)


def test_macro_without_background_leaves_out_classes_that_do_not_occur():
    truth = square(20)[None] > 0
    two = np.concatenate([truth, np.zeros_like(truth)])
    evaluator = Evaluator([SvANetSizeProtocol(average="macro")])
    evaluator.process(prediction("v", two), [truth[0].astype(np.uint8)], {1: 1, 2: 2})
    scores = evaluator.result()["scores"]["svanet-size"]
    assert scores["dice"] == pytest.approx(1, abs=1e-6)
    assert scores["published_dice"] == pytest.approx(2 / 3, abs=1e-6)


def test_nothing_counted_is_not_defined():
    values = SvANetSizeProtocol().whole_frame(
        np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4), bool), np.zeros((1, 4, 4), np.uint8), np.ones((4, 4), bool)
    )
    assert all(math.isnan(values[name]) for name in ("dice", "e_measure", "mae"))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="average is 'mean'"):
        SvANetSizeProtocol(average="mean")
    for limits in ((), (1, 0.5), (0, 1)):
        with pytest.raises(ValueError, match="expected ascending"):
            SvANetSizeProtocol(limits)


def test_opencv_measures_areas_as_it_did():
    """The sizes rest on a polygon through the centres of pixels."""
    contours = cv2.findContours(np.pad(np.ones((10, 10), np.uint8), 5), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    assert cv2.contourArea(contours[0]) == 81
