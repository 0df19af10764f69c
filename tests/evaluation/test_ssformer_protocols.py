"""The numbers of SSFormer's test program and of its reproduction study on 40 stored pairs."""

import json

import numpy as np
import pytest

from lgrnet.evaluation import Evaluator, SSFormerTestProtocol, StudyProtocol
from lgrnet.evaluation.protocols import FrameRow
from lgrnet.records import Prediction


@pytest.fixture(scope="module")
def pairs(golden):
    with np.load(golden / "ssformer" / "metrics_pairs.npz") as stored:
        return {key[3:]: (stored[f"pred/{key[3:]}"], stored[key]) for key in stored.files if key.startswith("gt/")}


@pytest.fixture(scope="module")
def expected(golden):
    return json.loads((golden / "ssformer" / "metrics.json").read_text())


NAMES = {"mean_dice": "test_py_meanDice", "dice_at_half": "dice_at_0.5", "iou_at_half": "iou_at_0.5"}


@pytest.mark.parametrize("ours, theirs", NAMES.items())
def test_numbers_of_every_pair(pairs, expected, ours, theirs):
    protocol, rows = SSFormerTestProtocol(), []
    for published in expected["per_image"]:
        name = f"{published['i']:02d}_{published['name']}"
        grey, truth = pairs[name]
        values = protocol.per_frame(grey, grey > 127, truth)
        assert values[ours] == pytest.approx(published[theirs], abs=1e-9), name
        rows.append(FrameRow(protocol.id, name, "0", 1, values))
    mean = protocol.aggregate(rows)[ours]
    assert len(rows) == mean.frames == 40
    assert mean.value == pytest.approx(expected["means"][theirs], abs=1e-9)


def test_mean_dice_over_thresholds_by_its_definition(pairs):
    """All 256 thresholds, one by one."""
    for grey, truth in list(pairs.values())[:6]:
        found = (grey / 255 > 0.5).astype(np.float32)
        found = (found - found.min()) / (found.max() - found.min() + np.float32(1e-8))
        dices = []
        for threshold in np.linspace(1, 0, 256):
            both = ((found >= threshold) & (truth == 255)).sum()
            total = (found >= threshold).sum() + (truth == 255).sum()
            dices.append(2 * both / total if both else 0.0)
        ours = SSFormerTestProtocol().per_frame(grey, grey > 127, truth)["mean_dice"]
        assert ours == pytest.approx(np.mean(dices), abs=1e-12)


def test_end_to_end_scores_of_the_test_program(shared):
    """Published probability maps and masks of five sets of two images."""
    folder = shared / "golden" / "ssformer"
    expected = json.loads((folder / "e2e_test_py.json").read_text())
    with np.load(folder / "e2e_test_py.npz") as stored:
        maps = dict(stored)
    scores = []
    for set_name in expected["order"]:
        evaluator = Evaluator([SSFormerTestProtocol()], set_name)
        for i in range(2):
            probability = np.ceil(maps[f"{set_name}/{i}/prob"] * 255 - 0.5).astype(np.uint8)[None, None]
            truth = (maps[f"{set_name}/{i}/label"] * 255).astype(np.uint8)
            shown = Prediction(str(i), ("f",), np.ones(1, np.float32), probability, probability > 127)
            evaluator.process(shown, [truth])
        scores.append(evaluator.result()["scores"]["ssformer-test"]["mean_dice"])
    assert scores == pytest.approx(expected["dice"], abs=1e-9)
    assert np.mean(scores) == pytest.approx(expected["average"], abs=1e-9)


def test_confusion_matrix_of_the_set(pairs, expected):
    evaluator = Evaluator([StudyProtocol()], "pairs")
    for name, (grey, truth) in pairs.items():
        shown = grey[None, None]
        evaluator.process(Prediction(name, ("0",), np.ones(1, np.float32), shown, shown > 127), [truth])
    published = expected["repro_dataset_level"]
    matrix = [sum(row.values[key] for row in evaluator.rows) for key in ("both_0", "predicted_1", "true_1", "both_1")]
    (background, extra), (missed, polyp) = published["hist"]
    assert matrix == [background, extra + polyp, missed + polyp, polyp]
    scores = evaluator.result()["scores"]["study"]
    names = {"mean_iou": "iou", "mean_dice": "f1", "mean_accuracy": "acc"}
    for ours, theirs in names.items():
        assert round(100 * scores[ours], 2) == pytest.approx(published[theirs][1], abs=1e-9)
    assert 100 * scores["foreground_iou"] == pytest.approx(published["iou"][0][1], abs=0.005)
    assert 100 * scores["foreground_dice"] == pytest.approx(published["f1"][0][1], abs=0.005)


def test_masks_of_0_and_1_are_masks():
    """Both protocols count the grey value 255 only; a mask of class indices is not an empty one."""
    truth = np.zeros((10, 10), np.uint8)
    truth[2:6] = 1
    mask = (truth > 0)[None, None]
    evaluator = Evaluator([StudyProtocol(), SSFormerTestProtocol()])
    evaluator.process(Prediction("v", ("f",), np.ones(1, np.float32), mask * np.uint8(255), mask), [truth])
    scores = evaluator.result()["scores"]
    assert scores["study"]["foreground_dice"] == 1
    assert scores["ssformer-test"]["mean_dice"] == pytest.approx((255 + 2 * 40 / 140) / 256)


def test_a_set_without_polyps():
    mask = np.zeros((1, 1, 8, 8), bool)
    evaluator = Evaluator([StudyProtocol(), SSFormerTestProtocol()])
    evaluator.process(Prediction("v", ("f",), np.ones(1, np.float32), mask * np.uint8(255), mask), [mask[0, 0] * 1])
    scores = evaluator.result()["scores"]
    assert scores["study"]["mean_dice"] == 1 and np.isnan(scores["study"]["foreground_dice"])
    assert scores["ssformer-test"]["mean_dice"] == 0, "as published"


def test_another_size_and_several_classes():
    truth = np.zeros((8, 8), np.uint8)
    truth[:4], truth[4:] = 1, 2
    mask = np.zeros((2, 1, 4, 4), bool)
    mask[0, 0, :2], mask[1, 0, 2:, :2] = True, True
    evaluator = Evaluator([StudyProtocol(), SSFormerTestProtocol()], resize=True)
    shown = Prediction("v", ("f",), np.ones(2, np.float32), mask * np.uint8(255), mask)
    evaluator.process(shown, [truth], {1: 1, 2: 2})
    result = evaluator.result()
    assert result["scores"]["study"]["foreground_dice"] == pytest.approx((1 + 32 / 48) / 2)
    assert {n["class_id"] for n in result["numbers"] if n["protocol"] == "study"} == {"all"}
    assert {n["class_id"] for n in result["numbers"] if n["protocol"] == "ssformer-test"} == {1, 2, "mean"}
