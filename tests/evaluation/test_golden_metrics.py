"""LGRNet's numbers on stored masks: 68 pairs, a set of four videos, and six frames of its own test metric."""

import json
import math

import numpy as np
import pytest

from lgrnet.evaluation import Evaluator, LGRNetProtocol
from lgrnet.evaluation.metrics import count

TOLERANCE = 1e-6
PUBLISHED = {
    "dice": "dice",
    "iou": "iou",
    "plain_dice": "their_dice",
    "plain_iou": "their_iou",
    "sensitivity": "their_sen",
    "mae": "their_mae_abs",
    "s_measure": "their_smeasure",
}


@pytest.fixture(scope="module")
def expected(golden):
    return json.loads((golden / "metrics" / "lgrnet_expected.json").read_text())


def _differs(value, published):
    published = float(published)
    if math.isnan(published) or math.isnan(value):
        return math.isnan(published) != math.isnan(value)
    return abs(value - published) > TOLERANCE


def test_every_number_of_all_pairs(pairs, expected):
    protocol = LGRNetProtocol(extended=True)
    assert len(expected["pairs"]) == 68
    wrong = []
    for name, published in expected["pairs"].items():
        grey = pairs[f"pred/{name}"]
        values = protocol.per_frame(grey, grey > 127, pairs[f"gt/{name}"])
        wrong += [(name, ours) for ours, theirs in PUBLISHED.items() if _differs(values[ours], published[theirs])]
    assert not wrong


def test_pixel_counts_of_the_pairs_of_one_size(pairs, expected):
    for name, published in expected["pairs"].items():
        grey, truth = pairs[f"pred/{name}"], pairs[f"gt/{name}"]
        if grey.shape == truth.shape and published["Np"] > 0:
            found = count(grey > 127, truth > 0)
            assert (found.tp, found.fp, found.fn, found.tn) == tuple(published[k] for k in ("tp", "fp", "fn", "tn"))


def test_set_is_the_mean_over_all_frames_of_all_videos(pairs, expected):
    protocol = LGRNetProtocol(extended=True)
    evaluator = Evaluator([protocol], set_name="sequence", resize=True)
    for video, names in expected["sequence"]["frames"].items():
        scorer = evaluator.begin(video)
        for name in names:  # the stored videos mix frame sizes
            scorer.add(name, pairs[f"pred/{name}"], pairs[f"pred/{name}"] > 127, pairs[f"gt/{name}"])
        evaluator.end(scorer)
    result = evaluator.result()
    for ours, theirs in PUBLISHED.items():
        published = expected["sequence"]["mean_over_all_frames"][theirs]
        assert result["scores"]["lgrnet"][ours] == pytest.approx(published, abs=TOLERANCE)
    by_video = {(n["video"], n["metric"]): n["value"] for n in result["numbers"]}
    for video, published in expected["sequence"]["by_video"].items():
        assert by_video[video, "dice"] == pytest.approx(published["dice"], abs=TOLERANCE)
        assert by_video[video, "iou"] == pytest.approx(published["iou"], abs=TOLERANCE)
    mean_of_videos = np.mean([v["dice"] for v in expected["sequence"]["by_video"].values()])
    assert abs(result["scores"]["lgrnet"]["dice"] - mean_of_videos) > 0.01, "frames, not videos, count alike"


def test_frames_of_the_published_test_metric(golden):
    with np.load(golden / "metrics" / "frame_metrics.npz") as stored:
        cases = dict(stored)
    for case in range(6):
        best = cases[f"{case}/classes"][:, :-1].sum(-1).argmax()
        mask = cases[f"{case}/masks"][best]
        truth = cases[f"{case}/gt"][0].astype(np.uint8)
        values = LGRNetProtocol(extended=True).per_frame(mask.astype(np.uint8) * 255, mask, truth)
        for ours, theirs in PUBLISHED.items():
            assert not _differs(values[ours], cases[f"{case}/expected/{theirs}"]), (case, ours)
