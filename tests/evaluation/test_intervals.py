"""Intervals: known answers, coverage, and what is unknown."""

import json
import math

import numpy as np
import pytest

from lgrnet.evaluation import (
    Evaluator,
    LGRNetProtocol,
    PlainProtocol,
    PraNetProtocol,
    SSFormerTestProtocol,
    StudyProtocol,
    VPSProtocol,
)
from lgrnet.evaluation.additive import Additive, RatioOfSums
from lgrnet.evaluation.intervals import (
    UNKNOWN,
    decoded,
    encoded,
    intervals_of,
    percentile_interval,
    resampled,
    resamples,
    statistics_of,
)
from lgrnet.evaluation.protocols import FrameRow
from lgrnet.records import Prediction


class _Mean(RatioOfSums):
    id, meaning, metrics = "mean", "Mean over frames.", ("x",)


def _rows(values, class_id=1):
    """One frame a video."""
    return [FrameRow("mean", f"v{i:03d}", "0", class_id, {"x": float(x)}) for i, x in enumerate(values)]


def _interval(values):
    return intervals_of(_Mean(), statistics_of(_Mean(), _rows(values)))[1]["x"]


def test_the_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(0).normal(0.8, 0.1, 400)
    found, half = _interval(values), 1.96 * values.std(ddof=1) / 20
    assert found.lower == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.upper == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_nineteen_of_twenty_intervals_hold_the_truth():
    draws = np.random.default_rng(1).normal(0.5, 0.2, (200, 60))
    weights = resamples(60)
    held = [i.lower <= 0.5 <= i.upper for i in (percentile_interval(weights @ row / 60) for row in draws)]
    assert 0.89 <= np.mean(held) <= 0.98


def test_frames_of_one_video_are_drawn_together():
    """Ten frames that are copies say no more than one."""
    once = _rows([0.2, 0.4, 0.9])
    many = [FrameRow("mean", row.video, str(i), 1, row.values) for row in once for i in range(10)]
    both = [intervals_of(_Mean(), statistics_of(_Mean(), rows))[1]["x"] for rows in (once, many)]
    assert both[0].lower == pytest.approx(both[1].lower)
    assert both[0].upper == pytest.approx(both[1].upper)
    assert (both[0].lower, both[0].upper) == pytest.approx((0.2, 0.9)), "three videos: 1 of 27 draws is all the worst"


def test_frames_without_a_value_are_left_out():
    rows = _rows([0.2, math.nan, 0.4, math.nan])
    table = resampled(_Mean(), statistics_of(_Mean(), rows), [row.video for row in rows])[1]
    assert table[0, 0] == pytest.approx(0.3)
    assert np.isnan(table).any(), "some draws have no value"
    assert percentile_interval(table[1:, 0]).upper == pytest.approx(0.4)
    assert percentile_interval(np.array([math.nan])) == UNKNOWN


def test_one_video_or_another_kind_of_protocol_has_none():
    assert intervals_of(_Mean(), statistics_of(_Mean(), _rows([0.5]))) == {}
    assert intervals_of(object(), statistics_of(object(), _rows([0.5, 0.6]))) == {}


def test_a_number_of_one_video_has_none():
    """Every draw that has it has it of the same video, which would look as if it were sure."""
    rows = [FrameRow("mean", f"v{i}", "0", 1, {"x": x}) for i, x in enumerate((0.3, math.nan, math.nan))]
    assert intervals_of(_Mean(), statistics_of(_Mean(), rows)) == {1: {"x": UNKNOWN}}
    two = rows + [FrameRow("mean", "v1", "0", 2, {"x": 0.5})]
    found = intervals_of(_Mean(), statistics_of(_Mean(), two))
    assert found[1] == found[2] == {"x": UNKNOWN}
    assert (found["mean"]["x"].lower, found["mean"]["x"].upper) == (0.3, 0.5), "of the two classes two videos"


def test_the_mean_over_classes_leaves_out_what_is_not_defined():
    rows = _rows([0.2, 0.4]) + _rows([math.nan, 0.8], class_id=2)
    table = resampled(_Mean(), statistics_of(_Mean(), rows), ["v000", "v001"])
    assert table["mean"][0, 0] == pytest.approx((0.3 + 0.8) / 2)
    draws = set(np.round(table["mean"][1:, 0], 6))
    assert draws == {0.2, 0.55, 0.6}, "v000 twice: class 2 is not there; one each; v001 twice"


def test_statistics_survive_json_to_the_bit():
    statistics = {1: {"a": np.array([1 / 3, 2e-300, 5.0])}, "all": {"b": np.array([0.1])}}
    found = decoded(json.loads(json.dumps(encoded(statistics))))
    assert found["1"]["a"].tolist() == statistics[1]["a"].tolist()
    assert found["all"]["b"].tolist() == [0.1]


def _scored(protocols, videos=5, classes=1):
    evaluator = Evaluator(protocols, "s")
    for i in range(videos):
        rng = np.random.default_rng(i)
        mask = rng.random((classes, 3, 8, 10)) > 0.3 + 0.1 * i
        names = tuple(f"{t}" for t in range(3))
        truth = [(rng.random((8, 10)) > 0.5).astype(np.uint8) * 255 for _ in names]
        evaluator.process(Prediction(f"v{i}", names, np.ones(1), mask.astype(np.uint8) * 255, mask), truth)
    return evaluator


PROTOCOLS = [
    LGRNetProtocol(extended=True),
    PlainProtocol(),
    PraNetProtocol(),
    SSFormerTestProtocol(),
    StudyProtocol(),
    VPSProtocol(),
]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.id)
def test_sums_give_the_number_itself_and_its_interval_holds_it(protocol):
    assert isinstance(protocol, Additive)
    evaluator = _scored([protocol])
    result = evaluator.result()
    statistics = decoded(result["statistics"][protocol.id])
    ((_, table),) = resampled(protocol, statistics, sorted(f"v{i}" for i in range(5))).items()
    for metric, value in zip(protocol.metrics, table[0], strict=True):
        lower, upper = result["intervals"][protocol.id][metric]
        assert value == pytest.approx(result["scores"][protocol.id][metric], abs=1e-12)
        assert lower <= value <= upper and (lower < upper or metric == "maxSen")
    again = _scored([protocol]).result()
    assert again["intervals"] == result["intervals"]


def test_slices_have_intervals_and_one_video_has_none():
    result = _scored([LGRNetProtocol()]).result()
    part = result["slices"]["lgrnet"]["place: first frame"]
    assert (part["videos"], part["frames"]) == (5, 5)
    assert part["intervals"]["dice"][0] < part["scores"]["dice"] < part["intervals"]["dice"][1]
    assert _scored([LGRNetProtocol()], videos=1).result()["intervals"] == {"lgrnet": None}
    numbers = [n for n in result["numbers"] if n["video"] == "v0"]
    assert numbers and all(number["lower"] is None for number in numbers)
