"""Protocols that follow a video, and videos that are fed frame by frame."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from lgrnet.evaluation import ClipProtocol, ClipRow, Evaluator, LGRNetProtocol, Score
from lgrnet.records import DataError


class Steps:
    """How much the share of found pixels changes from frame to frame, annotated or not."""

    id, meaning, metrics = "steps", "Mean step of the found share, mean over videos.", ("step",)

    def begin(self):
        return _Fold()

    def aggregate(self, clips):
        counted = [clip for clip in clips if clip.frames]
        value = math.fsum(clip.values["step"] for clip in counted) / len(counted) if counted else math.nan
        return {"step": Score(value, sum(clip.frames for clip in counted))}

    def slices(self, clips):
        return {"long": [clip for clip in clips if clip.frames > 2], "none": []}


class _Fold:
    def __init__(self):
        self.shares = []

    def add(self, probability, mask, truth, image=None):
        self.shares.append(float(mask.mean()))
        return {"step": abs(self.shares[-1] - self.shares[-2])} if len(self.shares) > 1 else {}

    def miss(self):
        self.shares.append(0.0)

    def end(self):
        steps = np.abs(np.diff(self.shares))
        return len(steps), {"step": float(steps.mean()), "curve": np.array(self.shares[:2])}


def _fill(evaluator, video, shares, truth=True):
    scorer = evaluator.begin(video)
    for index, share in enumerate(shares):
        map_ = np.zeros(10, np.uint8)
        map_[: round(10 * share)] = 255
        raw = np.zeros((2, 5), np.uint8) if truth and index else None
        scorer.add(f"f{index}", map_.reshape(2, 5), raw=raw)
    return evaluator.end(scorer)


def test_a_frame_without_a_prediction():
    """It has its place in the video, and no numbers."""
    evaluator = Evaluator([Steps(), LGRNetProtocol()])
    scorer, raw = evaluator.begin("a"), np.full((2, 5), 255, np.uint8)
    scorer.add("f0", raw, raw=raw)
    scorer.miss("f1", raw)
    scorer.add("f2", raw)
    with pytest.raises(DataError, match="frame 'f1' was given before"):
        scorer.add("f1", raw, raw=raw)
    evaluator.end(scorer)
    result = evaluator.result()
    assert (result["frames"], result["frames_without_annotation"]) == (1, 1)
    assert result["scores"]["steps"]["step"] == 1 and result["scores"]["lgrnet"]["dice"] == 1


def test_numbers_of_videos_stand_beside_those_of_frames():
    assert isinstance(Steps(), ClipProtocol) and not isinstance(LGRNetProtocol(), ClipProtocol)
    evaluator = Evaluator([Steps(), LGRNetProtocol()], set_name="s")
    rows = _fill(evaluator, "a", [0, 0.5, 0.1])
    _fill(evaluator, "b", [0, 1, 0, 1])
    assert [(row.protocol, row.frame) for row in rows] == [
        ("steps", "f1"),
        ("lgrnet", "f1"),
        ("steps", "f2"),
        ("lgrnet", "f2"),
    ]
    result = evaluator.result()
    assert (result["frames"], result["frames_without_annotation"]) == (5, 2)
    assert result["scores"]["steps"]["step"] == pytest.approx((0.45 + 1) / 2)
    found = {(n["video"], n["slice"]): (n["value"], n["frames"]) for n in result["numbers"] if n["metric"] == "step"}
    assert found["a", None] == (pytest.approx(0.45), 2)
    assert found[None, "long"] == (1, 3)
    assert found[None, "none"] == (None, 0)
    assert result["slices"]["steps"]["long"] == {
        "videos": 1,
        "frames": 3,
        "scores": {"step": 1},
        "intervals": None,
    }


def test_clips_of_ranks_merge_to_those_of_one_process():
    alone, first, second = (Evaluator([Steps(), LGRNetProtocol()]) for _ in range(3))
    for number, video in enumerate("dacb"):
        shares = np.random.default_rng(number).integers(0, 11, 4) / 10
        _fill(alone, video, shares)
        _fill(first if number % 2 else second, video, shares)
    first.merge(json.loads(json.dumps(second.state())))
    assert first.result() == alone.result()
    assert [clip.video for clip in first.clips] == list("abcd")
    assert all(
        np.array_equal(a.values["curve"], b.values["curve"]) for a, b in zip(first.clips, alone.clips, strict=True)
    )
    assert all(isinstance(clip, ClipRow) for clip in first.clips)


def test_a_protocol_of_videos_scores_a_set_without_annotation():
    evaluator = Evaluator([LGRNetProtocol(), Steps()])
    _fill(evaluator, "a", [0, 1], truth=False)
    scores = evaluator.result()["scores"]
    assert scores == {"lgrnet": {"dice": None, "iou": None}, "steps": {"step": 1}}


def test_a_frame_that_is_wrong_is_named_and_not_scored():
    evaluator = Evaluator()
    scorer = evaluator.begin("v")
    empty = np.zeros((2, 5), np.uint8)
    scorer.add("f", empty, raw=empty)
    with pytest.raises(DataError, match="video 'v', frame 'f' was given before"):
        scorer.add("f", empty, raw=empty)
    with pytest.raises(DataError, match="map of video 'v', frame 'g' holds 3 values that are NaN"):
        scorer.add("g", np.where(np.arange(10).reshape(2, 5) < 3, np.nan, 0.5), raw=empty)
    with pytest.raises(DataError, match="the prediction is 3 x 5 but the mask on disk is 2 x 5"):
        scorer.add("g", np.zeros((3, 5), np.uint8), raw=empty)
    with pytest.raises(DataError, match=r"probability has shape \(2, 2, 5\), expected \[1, H, W\]"):
        scorer.add("g", np.zeros((2, 2, 5), np.uint8), raw=empty)
    scorer.add("g", np.full((2, 5), 0.25), raw=empty)
    assert [row.frame for row in evaluator.end(scorer)] == ["f", "g"]
    with pytest.raises(DataError, match="'v' was scored before"):
        evaluator.begin("v")
    with pytest.raises(ValueError, match="give every one once"):
        Evaluator([LGRNetProtocol(), LGRNetProtocol(extended=True)])


def test_the_split_hash_is_of_the_frames_and_of_nothing_else():
    def scored(order, level, truth=True):
        evaluator = Evaluator([Steps()])
        for video in order:
            _fill(evaluator, video, [level, 0, 0], truth)
        return evaluator

    base = scored("ab", 0)
    assert base.split_hash == scored("ba", 1).split_hash != scored("a", 0).split_hash
    assert {number["split_hash"] for number in base.result()["numbers"]} == {base.split_hash}
    assert scored("ab", 0, truth=False).split_hash != base.split_hash
