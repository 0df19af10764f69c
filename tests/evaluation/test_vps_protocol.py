"""The 256-threshold protocols: the toolbox's numbers of 68 pairs and of a set, and PraNet's against plain passes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from lgrnet.evaluation import Evaluator, PlainProtocol, PraNetProtocol, VPSProtocol
from lgrnet.evaluation.vps_protocol import _stretched

TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def expected(golden):
    return json.loads((golden / "metrics" / "vps_expected.json").read_text())


def _tolerance(name):
    """Another build of OpenCV may resize to the next grey level."""
    return 5e-3 if "size" in name else TOLERANCE


def _same(value, published, tolerance=TOLERANCE):
    return np.allclose(value, np.float64(published), rtol=0, atol=tolerance, equal_nan=True)


def test_every_number_of_all_pairs(pairs, expected):
    assert len(expected["pairs"]) == 68
    wrong = []
    for name, published in expected["pairs"].items():
        values = VPSProtocol().begin().add(pairs[f"pred/{name}"], None, pairs[f"gt/{name}"])
        assert set(values) == set(published) == set(VPSProtocol.metrics)
        wrong += [(name, key) for key, value in published.items() if not _same(values[key], value, _tolerance(name))]
    assert not wrong


def test_curves_of_all_pairs(shared, pairs):
    with np.load(shared / "golden/metrics/vps_curves.npz") as stored:
        published = dict(stored)
    assert len(published) == 68 * 6
    for key, curve in published.items():
        name, kind = key.split("/")
        found = _stretched(pairs[f"pred/{name}"], pairs[f"gt/{name}"]).curves[kind]
        assert _same(found, curve, _tolerance(name)), key


def test_plain_numbers_are_those_of_one_threshold(pairs, expected):
    for name, published in expected["binary"].items():
        grey, truth = pairs[f"pred/{name}"], pairs[f"gt/{name}"]
        if grey.shape != truth.shape or float(published["Dice"]) == 0 or ((truth > 127) != (truth > 0)).any():
            continue
        values = PlainProtocol().per_frame(grey, grey > 200, truth)
        for ours, theirs in (("sensitivity", "Sen"), ("dice", "Dice"), ("iou", "IoU")):
            assert _same(values[ours], published[theirs]), (name, ours)


def _sequence(pairs, expected, protocol):
    evaluator = Evaluator([protocol], set_name="TestEasyDataset-Unseen", resize=True)
    for video, names in expected["sequence"]["frames"].items():
        scorer = evaluator.begin(video)
        for name in names:
            scorer.add(name, pairs[f"pred/{name}"], raw=pairs[f"gt/{name}"])
        evaluator.end(scorer)
    return evaluator


def test_set_is_averaged_over_frames_then_clips_then_thresholds(pairs, expected):
    evaluator = _sequence(pairs, expected, VPSProtocol())
    scores = evaluator.result()["scores"]["vps"]
    for name, published in expected["sequence"]["mean"].items():
        assert _same(scores[name], published), name
    assert abs(scores["maxDice"] - expected["sequence"]["max_before_mean"]["maxDice"]) > 0.01
    numbers = {n["metric"]: n for n in evaluator.result()["numbers"] if n["video"] is None}
    assert numbers["maxDice"]["frames"] == 24 - 2 * 4
    assert all(value.size <= 256 for clip in evaluator.clips for value in clip.values.values() if np.ndim(value))


def test_the_ends_can_be_kept_and_it_is_another_protocol(pairs, expected):
    evaluator = _sequence(pairs, expected, VPSProtocol(drop_ends=False))
    assert "vps" not in evaluator.result()["scores"]
    assert {clip.video: clip.frames for clip in evaluator.clips}["case1_1"] == 9
    assert evaluator.result()["scores"]["vps-all-frames"]["maxDice"] > 0.6


@pytest.mark.parametrize("missing", [{0, 5}, {0, 1}, {4, 5}, {0}, {5}, {3}, {0, 1, 2, 3, 4, 5}])
def test_frames_without_a_map_keep_their_place(missing, pairs, expected):
    """The ends are those of the clip, not those of the frames that have a map."""
    names = expected["sequence"]["frames"]["case1_1"][:6]
    fold, alone = VPSProtocol().begin(), VPSProtocol(drop_ends=False).begin()
    for index, name in enumerate(names):
        map_, truth = pairs[f"pred/{name}"], pairs[f"gt/{name}"]
        fold.miss() if index in missing else fold.add(map_, None, truth)
        if index in {1, 2, 3, 4} - missing:
            alone.add(map_, None, truth)
    (frames, found), (others, published) = fold.end(), alone.end()
    assert frames == others == len({1, 2, 3, 4} - missing)
    assert all(np.array_equal(found[key], value) for key, value in published.items())


def test_ends_are_those_of_the_annotation(pairs, expected):
    """The toolbox lists the masks of a clip; what is not annotated it never sees."""
    names = expected["sequence"]["frames"]["case1_1"][:5]
    sparse, dense = VPSProtocol().begin(), VPSProtocol().begin()
    for name in names:
        map_, truth = pairs[f"pred/{name}"], pairs[f"gt/{name}"]
        assert sparse.add(map_, None, None) == {}
        sparse.add(map_, None, truth)
        dense.add(map_, None, truth)
    assert sparse.add(map_, None, None) == {}
    (frames, found), (others, published) = sparse.end(), dense.end()
    assert frames == others == 3 and all(np.array_equal(found[key], value) for key, value in published.items())


@pytest.mark.parametrize("frames", [1, 2])
def test_a_clip_that_has_only_ends_has_no_say(frames, pairs, expected):
    evaluator = _sequence(pairs, expected, VPSProtocol())
    before = evaluator.result()["scores"]
    scorer = evaluator.begin("short")
    for index in range(frames):
        scorer.add(str(index), np.zeros((4, 4), np.uint8), raw=np.zeros((4, 4), np.uint8))
    evaluator.end(scorer)
    assert evaluator.result()["scores"] == before
    alone = Evaluator([VPSProtocol()])
    scorer = alone.begin("short")
    scorer.add("0", np.zeros((4, 4), np.uint8), raw=np.zeros((4, 4), np.uint8))
    alone.end(scorer)
    assert all(math.isnan(value) for value in alone.result()["scores"]["vps"].values())


def _passes(grey, there):
    """Dice, IoU and E-measure of 256 masks, one by one."""
    dice, iou, aligned = [], [], []
    for threshold in np.linspace(1, 0, 256):
        found = grey / 255 >= threshold
        both = (found & there).sum()
        dice.append(2 * both / (found.sum() + there.sum()) if both else 0)
        iou.append(both / (found | there).sum() if both else 0)
        a, b = found - found.mean(), there - there.mean()
        with np.errstate(invalid="ignore"):
            matrix = (2 * a * b / (a * a + b * b + np.finfo(float).eps) + 1) ** 2 / 4
        full = ~found if not there.any() else found if there.all() else matrix
        aligned.append(full.sum() / (there.size - 1))
    return np.array(dice), np.array(iou), np.array(aligned)


PRANET = {
    "mDice": "meanDic",
    "mIoU": "meanIoU",
    "mE": "meanEm",
    "mSen": "meanSen",
    "mSpe": "meanSpe",
    "maxDice": "maxDic",
    "maxIoU": "maxIoU",
    "maxE": "maxEm",
    "maxSen": "maxSen",
    "maxSpe": "maxSpe",
    "weighted_f": "wFm",
    "s_measure": "Sm",
    "mae": "mae",
}


@pytest.fixture(scope="module")
def table(golden):
    """Of 40 pairs the maps uint8 by name, soft and binary, and what the program behind PraNet's table has for them."""
    expected = json.loads((golden / "ssformer/metrics.json").read_text())
    with np.load(golden / "ssformer/metrics_pairs.npz") as stored:
        arrays = dict(stored)
    names = [f"{row['i']:02d}_{row['name']}" for row in expected["per_image"]]
    soft = {name: (arrays[f"pred/{name}"], arrays[f"gt/{name}"]) for name in names}
    binary = {name: ((map_ > 127) * np.uint8(255), truth) for name, (map_, truth) in soft.items()}
    return {"soft": soft, "binary": binary}, expected


def test_pranet_has_the_columns_of_the_table():
    assert set(PraNetProtocol.metrics) == set(PRANET), "13 columns"


@pytest.mark.parametrize("kind", ["soft", "binary"])
def test_pranet_of_every_pair(table, kind):
    pairs, expected = table
    for row, (name, (map_, truth)) in zip(expected["per_image"], pairs[kind].items(), strict=True):
        values, published = PraNetProtocol().begin().add(map_, None, truth), row[f"uaca_{kind}"]
        for ours, theirs in PRANET.items():
            if theirs in published:
                assert _same(values[ours], published[theirs], 1e-9), (name, ours)


@pytest.mark.parametrize("kind", ["soft", "binary"])
def test_pranet_of_the_set(table, kind):
    """Where a truth is full, specificity is not defined, nor is its mean, as published; else it is the mean."""
    pairs, expected = table
    evaluators = Evaluator([PraNetProtocol()]), Evaluator([PraNetProtocol()])
    for name, (map_, truth) in pairs[kind].items():
        for evaluator in evaluators[: 1 if "full_gt" in name else 2]:
            scorer = evaluator.begin(name)
            scorer.add("0", map_, raw=truth)
            evaluator.end(scorer)
    scores, without = (evaluator.result()["scores"]["pranet"] for evaluator in evaluators)
    for ours, theirs in PRANET.items():
        if theirs in expected[f"uaca_{kind}_dataset"]:
            assert _same(scores[ours], expected[f"uaca_{kind}_dataset"][theirs], 1e-9), ours
    published = [row[f"uaca_{kind}"]["meanSpe"] for row in expected["per_image"] if "full_gt" not in row["name"]]
    assert without["mSpe"] == pytest.approx(np.mean(published), abs=1e-9)
    assert without["mSpe"] <= without["maxSpe"] <= 1


@pytest.mark.parametrize("kind", ["soft", "binary"])
def test_pranet_has_the_precision_on_request(table, kind):
    """The published program has it, and F with beta 1, which is Dice; its table has neither."""
    pairs, expected = table
    published = expected[f"uaca_{kind}_dataset"]
    evaluators = [Evaluator([PraNetProtocol(extended=extended)]) for extended in (True, False)]
    for name, (map_, truth) in pairs[kind].items():
        for evaluator in evaluators:
            scorer = evaluator.begin(name)
            scorer.add("0", map_, raw=truth)
            evaluator.end(scorer)
    scores, plain = (evaluator.result()["scores"]["pranet"] for evaluator in evaluators)
    for ours, theirs in {"mPre": "meanPre", "maxPre": "maxPre"}.items():
        assert scores.pop(ours) == pytest.approx(published[theirs], abs=1e-9)
    assert list(scores) == list(plain) and all(_same(scores[name], plain[name], 0) for name in plain)
    for ours, theirs in {"mDice": "meanF", "maxDice": "maxF"}.items():
        assert scores[ours] == pytest.approx(published[theirs], abs=1e-9)
    kept = {name for clip in evaluators[1].clips for name in clip.values}
    assert kept == {*PraNetProtocol.scalars, *PraNetProtocol.curves}


def test_pranet_is_the_mean_over_images_of_256_passes():
    generator, evaluator, curves = np.random.default_rng(3), Evaluator([PraNetProtocol()]), []
    for number, size in enumerate((3, 1)):
        scorer = evaluator.begin(f"v{number}")
        for index in range(size):
            grey = generator.integers(0, 220, (12, 17)).astype(np.uint8)
            there = np.zeros((12, 17), bool)
            there[3:8, 2 : 6 + 3 * index] = number == 0
            scorer.add(str(index), grey, raw=there.astype(np.uint8) * 255)
            curves.append(_passes(grey, there))
        evaluator.end(scorer)
    scores = evaluator.result()["scores"]["pranet"]
    for name, curve in zip(("Dice", "IoU", "E"), np.mean(curves, axis=0), strict=True):
        assert scores[f"m{name}"] == pytest.approx(curve.mean(), abs=1e-12)
        assert scores.get(f"max{name}") == pytest.approx(curve.max(), abs=1e-12)
    assert 0 < scores["weighted_f"] < 1, "the image without truth has none and is left out"


def test_a_16_bit_map_is_what_opencv_reads(pairs):
    grey, truth = pairs["pred/00_soft"], pairs["gt/00_soft"]
    deep = grey.astype(np.uint16) * 256 + 77
    evaluator = Evaluator([VPSProtocol(drop_ends=False), PlainProtocol()])
    for video, map_ in (("a", grey), ("b", deep), ("c", grey / 255)):
        scorer = evaluator.begin(video)
        scorer.add("0", map_, raw=truth)
        evaluator.end(scorer)
    rows = {(row.protocol, row.video): row.values for row in evaluator.rows}
    for protocol in ("vps-all-frames", "plain"):
        assert rows[protocol, "a"] == rows[protocol, "b"] == rows[protocol, "c"]


def test_pysodmetrics_agrees_where_the_toolbox_does(pairs, expected):
    library = pytest.importorskip("py_sod_metrics")
    for name in list(expected["pairs"])[:24]:
        grey, truth = pairs[f"pred/{name}"], pairs[f"gt/{name}"]
        ours = VPSProtocol().begin().add(grey, None, truth)
        mae, weighted, e, f = (getattr(library, kind)() for kind in ("MAE", "WeightedFmeasure", "Emeasure", "Fmeasure"))
        for metric in (mae, weighted, e, f):
            metric.step(pred=grey, gt=truth)
        theirs = {
            "MAE": mae.get_results()["mae"],
            "wFmeasure": weighted.get_results()["wfm"],
            "adpEm": e.get_results()["em"]["adp"],
            "meanEm": e.get_results()["em"]["curve"].mean(),
            "maxEm": e.get_results()["em"]["curve"].max(),
            "adpFm": f.get_results()["fm"]["adp"],
            "meanFm": f.get_results()["fm"]["curve"].mean(),
            "maxFm": f.get_results()["fm"]["curve"].max(),
        }
        for key, value in theirs.items():
            assert ours[key] == pytest.approx(value, abs=1e-8), (name, key)
