"""Runs side by side: minutes without evaluations, and what a constant mask reaches."""

import json
import math

import numpy as np
import pytest

from lgrnet.records import write_frame, write_mask
from tools.compare_runs import main, scores_over_time


def write_run(folder, scores, seconds_per_step=6.0, seconds_of_evaluation=30.0):
    """A run of ten steps per evaluation."""
    folder.mkdir(parents=True)
    now, log, events = 1000.0, [], [{"type": "start", "time": 1000.0, "step": 0}]
    for number, score in enumerate(scores, start=1):
        now += 10 * seconds_per_step + seconds_of_evaluation
        log.append(
            {
                "type": "evaluation",
                "step": 10 * number,
                "sets": {},
                "mean": {"dice": score, "iou": float(score) / 2},
            }
        )
        events.append({"type": "evaluated", "time": now, "step": 10 * number, "seconds": seconds_of_evaluation})
    for name, lines in (("log.jsonl", log), ("events.jsonl", events)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_video(root, masks):
    for index, mask in enumerate(masks):
        for kind in ("Frame", "GT"):
            (root / kind / "v").mkdir(parents=True, exist_ok=True)
        write_frame(root / f"Frame/v/{index}.jpg", np.zeros((*mask.shape, 3), np.uint8))
        write_mask(root / f"GT/v/{index}.png", mask)


def test_minutes_are_those_of_training(tmp_path):
    run = write_run(tmp_path / "run", [0.5, 0.7])
    assert scores_over_time(run, "dice") == [(1.0, 0.5), (2.0, 0.7)]
    assert scores_over_time(run, "iou") == [(1.0, 0.25), (2.0, 0.35)]


def test_command(tmp_path, capsys):
    runs = [str(write_run(tmp_path / name, [0.2, score])) for name, score in (("a", 0.6), ("b", 0.4))]
    write_video(tmp_path / "data", [np.ones((8, 8), bool)])
    out = tmp_path / "curves.png"
    assert main([*runs, "--constant", str(tmp_path / "data"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "a: dice 0.6000 after 2.0 minutes" in said and "constant mask: dice 1.0000" in said
    assert out.is_file()
    assert main([str(write_run(tmp_path / "new", [])), "--out", str(out)]) == 2
    assert "no evaluation yet" in capsys.readouterr().err
    assert main([str(tmp_path / "missing"), "--out", str(out)]) == 2
    assert "missing" in capsys.readouterr().err


def test_mistakes_are_one_line(tmp_path, capsys):
    run, out = write_run(tmp_path / "run", [0.5]), tmp_path / "curves.png"
    (tmp_path / "file").write_text("")

    def refused(says, *arguments):
        assert main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and says in error

    refused("has no 'dise'; it has dice, iou", run, "--metric", "dise", "--out", out)
    refused("Not a directory", tmp_path / "file", "--out", out)
    refused(str(tmp_path / "file"), run, "--out", tmp_path / "file" / "curves.png")
    with pytest.raises(SystemExit):
        main([str(run), "--out", str(tmp_path / "curves.txt")])
    assert "no picture" in capsys.readouterr().err


def test_a_score_that_is_not_defined_and_a_cut_line_are_no_error(tmp_path):
    run = write_run(tmp_path / "run", ["nan", 0.7])
    with open(run / "events.jsonl", "a") as file:
        file.write('{"type": "eval')
    points = scores_over_time(run, "dice")
    assert math.isnan(points[0][1]) and points[1] == (2.0, 0.7)


def test_runs_of_one_name_are_both_drawn(tmp_path, capsys):
    runs = [str(write_run(tmp_path / name / "lgrnet", [score])) for name, score in (("a", 0.6), ("b", 0.4))]
    out = ["--out", str(tmp_path / "curves.png")]
    assert main([*runs, *out]) == 0
    said = capsys.readouterr().out
    assert f"{runs[0]}: dice 0.6" in said and f"{runs[1]}: dice 0.4" in said
    assert main([runs[0], runs[0], *out]) == 2
    assert "are not all different" in capsys.readouterr().err


def test_a_resume_with_nothing_left_to_train_is_no_interruption(tmp_path):
    run = write_run(tmp_path / "run", [0.5, 0.7])
    log = next(path for path in run.iterdir() if '"evaluated"' in path.read_text())
    log.write_text(log.read_text() + json.dumps({"type": "resume", "time": 1e9, "step": 2}) + "\n")
    assert scores_over_time(run, "dice") == [(1.0, 0.5), (2.0, 0.7)]
