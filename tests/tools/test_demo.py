"""The demo from nothing to pictures, with few and small clips and two steps."""

from functools import partial

import pytest

from lgrnet.data import phantom
from tools.demo import phantom as demo


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, "write", partial(phantom.write, num_clips=4, num_frames=4, size=64))


def test_every_named_file_is_there(small, tmp_path, monkeypatch, capsys):
    settings = ["data.size=[64,64]", "train.steps=2", "train.workers=0", "schedule.warmup_steps=1"]
    arguments = ["demo", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "runs"), *settings]
    monkeypatch.setattr("sys.argv", arguments)
    assert demo.main() == 0
    said = capsys.readouterr().out
    run = tmp_path / "runs/run_001"
    named = [line.strip() for line in said.split("\npictures\n")[1].splitlines() if line.startswith("  ")]
    assert str(run / "before_and_after.png") in named and str(run / "demo.html") in named
    assert str(run / "eval/step_00000002/test/pictures/sheet.png") in named
    assert named[-1] == str(run / "eval/step_00000002/report.html")
    assert all(line and (tmp_path / line).is_file() for line in named)
    assert "untrained: dice 0." in said and "trained, 2 steps: dice 0." in said
    page = (run / "demo.html").read_text()
    assert "before_and_after.png" in page and "loss.png" in page
    assert demo.new_folder(tmp_path / "runs") == tmp_path / "runs/run_002"


def test_a_mistake_is_one_line(small, tmp_path, monkeypatch, capsys):
    arguments = ["demo", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "runs"), "train.stepz=3"]
    monkeypatch.setattr("sys.argv", arguments)
    assert demo.main() == 2
    assert "did you mean train.steps" in capsys.readouterr().err
