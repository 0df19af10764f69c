"""Two results on the same videos: differences, their intervals, and what is not compared."""

import json
import math
from functools import partial

import numpy as np
import pytest

from lgrnet.evaluation import Evaluator, LGRNetProtocol, StudyProtocol, write_report
from lgrnet.evaluation.comparison import compare, comparison_table, read_results
from lgrnet.evaluation.over_time import OverTimeProtocol
from lgrnet.evaluation.report import plain_json
from lgrnet.records import DataError, Prediction

PROTOCOLS = {"lgrnet": LGRNetProtocol(), "study": StudyProtocol()}


def _evaluator(missed, videos=6, first=0, frames=4, protocols=(LGRNetProtocol, StudyProtocol)):
    """Every video has a square of its own size; `missed` rows of it are not found."""
    evaluator = Evaluator([protocol() for protocol in protocols], "s")
    for i in range(first, first + videos):
        truth = np.zeros((20, 20), np.uint8)
        truth[2 : 6 + 2 * i, 2:12] = 255
        mask = np.zeros((1, frames, 20, 20), bool)
        mask[:, :, 2 : 6 + 2 * i - missed, 2:12] = True
        names = tuple(f"{t}" for t in range(frames))
        evaluator.process(Prediction(f"v{i}", names, np.ones(1), mask.astype(np.uint8) * 255, mask), [truth] * frames)
    return evaluator


def _result(*args, **more):
    return json.loads(json.dumps(plain_json(_evaluator(*args, **more).result())))


def test_a_small_difference_is_sure_where_it_is_the_same_in_every_video():
    worse, better = _result(2), _result(1)
    found = {(e["protocol"], e["metric"]): e for e in compare(worse, better, PROTOCOLS)["differences"]}
    dice = found["lgrnet", "dice"]
    assert dice["first"] == pytest.approx(worse["scores"]["lgrnet"]["dice"], abs=1e-12)
    assert dice["difference"] == pytest.approx(better["scores"]["lgrnet"]["dice"] - dice["first"], abs=1e-12)
    assert 0 < dice["lower"] < dice["difference"] < dice["upper"]
    assert dice["share_above"] == 1
    alone = [result["intervals"]["lgrnet"]["dice"] for result in (worse, better)]
    assert alone[0][1] > alone[1][0], "the intervals of the two alone overlap"
    assert found["study", "mean_iou"]["lower"] > 0


def test_nothing_differs():
    entry = compare(_result(1), _result(1), PROTOCOLS)["differences"][0]
    assert (entry["difference"], entry["lower"], entry["upper"], entry["share_above"]) == (0, 0, 0, 0.5)


def test_one_video_has_a_difference_but_no_interval():
    found = compare(_result(2, videos=1), _result(1, videos=1), PROTOCOLS)
    entry = found["differences"][0]
    assert entry["difference"] > 0
    assert entry["lower"] is entry["share_above"] is None
    assert "| dice | 0." in comparison_table(found)


def test_what_is_refused():
    one = _result(1)
    with pytest.raises(DataError, match="A and B were scored by different protocols, .'lgrnet', 'study'. and"):
        compare(one, _result(1, protocols=(LGRNetProtocol,)), PROTOCOLS)
    with pytest.raises(DataError, match="different frames of the same videos"):
        compare(one, _result(1, frames=3), PROTOCOLS)
    with pytest.raises(DataError, match="1 video .v0. only in the first, 1 video .v6. only in the second; .*--common"):
        compare(one, _result(1, first=1), PROTOCOLS)
    with pytest.raises(DataError, match="different videos"):
        compare(one, _result(1, first=7), PROTOCOLS, common=True)
    with pytest.raises(DataError, match="different annotated frames in 5 videos"):
        compare(one, _result(1, first=1, frames=3), PROTOCOLS, common=True)
    broken = _result(1)
    broken["statistics"]["lgrnet"]["1"]["v0"] = "AAAA"
    with pytest.raises(DataError, match="statistics of protocol 'lgrnet' .* do not fit"):
        compare(one, broken, PROTOCOLS)


def test_videos_in_both_are_compared_where_asked():
    found = compare(_result(2), _result(1, first=1), PROTOCOLS, common=True)
    assert found["videos"] == ["v1", "v2", "v3", "v4", "v5"]
    assert (found["only_first"], found["only_second"]) == (["v0"], ["v6"])
    expected = compare(_result(2, videos=5, first=1), _result(1, videos=5, first=1), PROTOCOLS)
    assert found["differences"] == expected["differences"]
    text = comparison_table(found, ("old", "new"))
    assert "left out, only in old: v0" in text
    assert "| metric | old | new | new - old | 95 % | new above |" in text


def test_what_has_other_settings_is_not_compared():
    """Numbers of one name that mean something else."""
    slow, fast = (_evaluator(1, protocols=[partial(OverTimeProtocol, fps)]).result() for fps in (5, 30))
    with pytest.raises(DataError, match="over-time of A and B has other settings .*5 frames a second.*30 frames"):
        compare(slow, fast, {"over-time": OverTimeProtocol(5)})
    first, second = _result(1), _result(1)
    second["label_maps"] = ["{1: 1, 255: 'ignore'}"]
    with pytest.raises(DataError, match=r"by different label maps \(binary and \{1: 1, 255: 'ignore'\}\)"):
        compare(first, second, PROTOCOLS)
    for same in ("half", "full", "soft", "{255: 1}"):
        assert compare(first, second | {"label_maps": [same]}, PROTOCOLS)["differences"]
    del second["label_maps"]  # of an earlier version
    assert compare(first, second, PROTOCOLS)["differences"]


def test_frames_are_told_apart_by_their_names():
    first, second = _result(1, videos=3), _result(1, videos=2)
    second["video_hashes"]["v1"] = "other"
    second["split_hash"] = "other"
    with pytest.raises(DataError, match=r"have different annotated frames in 1 video \(v1\)"):
        compare(first, second, PROTOCOLS, common=True)


def test_protocols_without_sums_are_named():
    assert compare(_result(1), _result(1), {"lgrnet": LGRNetProtocol()})["not_compared"] == ["study"]


def test_files_in(tmp_path):
    path = write_report(_evaluator(1), tmp_path / "report")["report.json"]
    assert read_results(path)["s"]["scores"]["lgrnet"] == _result(1)["scores"]["lgrnet"]
    (tmp_path / "one.json").write_text(json.dumps(_result(1)))
    assert list(read_results(tmp_path / "one.json")) == ["s"]
    for text in ("{", "[]", '{"sets": 1}', '{"sets": [{"set": "s"}]}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError, match="bad.json"):
            read_results(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("[" * 100_000)
    for name in ("none.json", "bad.json"):
        with pytest.raises(DataError, match="cannot be read"):
            read_results(tmp_path / name)
    (tmp_path / "twice.json").write_text(json.dumps({"sets": [_result(1), _result(2)]}))
    with pytest.raises(DataError, match="twice.json holds the set 's' twice"):
        read_results(tmp_path / "twice.json")
    assert not math.isnan(read_results(path)["s"]["scores"]["lgrnet"]["dice"])


@pytest.mark.parametrize(
    "key, value",
    [
        ("set", ["s"]),
        ("split_hash", None),
        ("scores", {}),
        ("scores", 5),
        ("statistics", None),
        ("statistics", {"lgrnet": 5}),
        ("statistics", {"lgrnet": {"1": 5}}),
        ("statistics", {"lgrnet": {"1": {"v0": {}}}}),
        ("statistics", {"lgrnet": {"1": {"v0": "AAAA"}}}),
        ("statistics", {"lgrnet": {"1": {"other": "AAAAAAAAAAA="}}}),
        ("numbers", 5),
        ("numbers", [{}]),
        ("numbers", [{"video": [], "frames": 1}]),
        ("numbers", [{"video": "v0", "frames": "many"}]),
    ],
)
def test_results_of_wrong_types_are_refused(key, value, tmp_path):
    good = _result(1, protocols=(LGRNetProtocol,))
    (tmp_path / "bad.json").write_text(json.dumps({**good, key: value}))
    with pytest.raises(DataError, match="score the masks again|has other classes"):
        compare(good, read_results(tmp_path / "bad.json").popitem()[1], PROTOCOLS)
