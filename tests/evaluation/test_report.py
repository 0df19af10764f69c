"""What the report files hold, and that odd names do not break them."""

import csv
import json

import numpy as np
import pytest

from lgrnet.evaluation import Evaluator, LGRNetProtocol, write_report
from lgrnet.evaluation.report import _write_csv, write_whole
from lgrnet.records import Prediction


def _scored(set_name, video='case|1 "x",\n<b>', extended=False):
    evaluator = Evaluator([LGRNetProtocol(extended)], set_name=set_name, weights_hash="feed")
    mask = np.zeros((1, 2, 6, 6), bool)
    prediction = Prediction(video, ("0", "1"), np.ones(1, np.float32), mask.astype(np.uint8), mask)
    evaluator.process(prediction, [np.zeros((6, 6), np.uint8), np.full((6, 6), 255, np.uint8)])
    return evaluator


def test_files_agree_with_the_result(tmp_path):
    evaluators = [_scored("easy"), _scored("hard")]
    paths = write_report(evaluators, tmp_path / "new" / "folder", extra={"config": "c.py"})
    stored = json.loads(paths["report.json"].read_text())
    assert stored["config"] == "c.py"
    assert stored["sets"] == [e.result() for e in evaluators]
    with paths["scores.csv"].open(newline="") as file:
        scores = list(csv.DictReader(file))
    assert len([row for row in scores if not row["slice"]]) == 2 * 2 * 2
    assert all(row["lower"] == row["upper"] == "" for row in scores), "one video has no interval"
    assert float(scores[0]["value"]) == evaluators[0].result()["scores"]["lgrnet"]["dice"]
    assert {row["video"] for row in scores} == {"", 'case|1 "x",\n<b>'}
    with paths["frames.csv"].open(newline="") as file:
        frames = list(csv.DictReader(file))
    assert [float(r["value"]) for r in frames if r["set"] == "hard" and r["metric"] == "iou"] == [
        1.0,
        pytest.approx(1 / 37),
    ]
    for row in scores + frames:
        assert row["protocol"] == "lgrnet" and row["weights_hash"] == "feed" and row["version"]


def test_markdown_table_survives_odd_names(tmp_path):
    text = write_report(_scored("easy"), tmp_path)["report.md"].read_text()
    line = next(line for line in text.splitlines() if "case" in line)
    assert line.startswith('| case\\|1 "x", &lt;b> | 1 | 2 |')
    assert "## Protocol `lgrnet`" in text and "weights feed" in text


def test_undefined_number_is_null_and_empty(tmp_path):
    evaluator = _scored("easy", extended=True)
    paths = write_report(evaluator, tmp_path)
    with paths["frames.csv"].open(newline="") as file:
        rows = {(r["frame"], r["metric"]): r["value"] for r in csv.DictReader(file)}
    assert rows["0", "sensitivity"] == "" and float(rows["1", "sensitivity"]) == 0
    assert "NaN" not in paths["report.json"].read_text()


def test_a_file_is_there_whole_or_as_it_was(tmp_path):
    def rows():
        yield {"a": 1}
        raise OSError("no space left")

    for write in (
        lambda path: _write_csv(path, ("a",), rows()),
        lambda path: write_whole(path, map(str.upper, ["x", None])),
    ):
        path = tmp_path / "found"
        path.write_text("old")
        with pytest.raises((OSError, TypeError)):
            write(path)
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_protocols_that_differ_are_not_put_in_one_table(tmp_path):
    other = Evaluator([type("Other", (LGRNetProtocol,), {"id": "other"})()], set_name="hard")
    mask = np.zeros((1, 1, 2, 2), bool)
    other.process(Prediction("v", ("f",), np.ones(1), mask.astype(np.uint8), mask), [np.zeros((2, 2), np.uint8)])
    with pytest.raises(ValueError, match="different protocols"):
        write_report([_scored("easy"), other], tmp_path)
