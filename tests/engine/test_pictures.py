"""Curves of a run, and the same frames after every evaluation."""

from __future__ import annotations

import types

import numpy as np
import pytest

from lgrnet.engine import pictures
from lgrnet.engine.clock import TrainingClock
from lgrnet.engine.log import RunLog, TensorBoardSink, read_log
from lgrnet.engine.pictures import PictureHook, draw_curves
from lgrnet.engine.settings import TrainSettings
from lgrnet.engine.trainer import StepRecord
from lgrnet.records import read_frame, write_frame


def record(step: int, total: float = 0.5) -> StepRecord:
    return StepRecord(step, {"mask_bce": total / 2}, total, 1e-3 / step, 1.0, None, False)


class Writer:
    def __init__(self):
        self.images = []

    def add_scalar(self, name, value, step):
        pass

    def add_image(self, name, image, step, dataformats):
        assert dataformats == "HWC" and image.dtype == np.uint8 and image.ndim == 3
        self.images.append((name, step))

    def close(self):
        pass


def test_pictures_come_with_every_evaluation_and_at_the_end(tmp_path):
    settings = TrainSettings(steps=5, batch_size=1, save_every=1, eval_every=2, eval_first=True, eval_last=False)
    trainer = types.SimpleNamespace(step=0, settings=settings, clock=TrainingClock(), stopping=False)
    writer, drawn = Writer(), []
    with RunLog(tmp_path) as log:
        log.sinks.append(TensorBoardSink(writer))
        hook = PictureHook(log, tmp_path / "eval")
        for trainer.step in range(6):
            if trainer.step % 2 == 0:
                log.evaluation(trainer.step, {"easy": {"dice": trainer.step / 10}}, {})
                place = tmp_path / "eval" / f"step_{trainer.step:08d}" / "easy" / "pictures" / "frames.png"
                write_frame(place, np.full((8, 8, 3), trainer.step, np.uint8))
            if trainer.step == 0:
                hook.before(trainer)
            else:
                log.step(record(trainer.step))
                hook.after_step(trainer, record(trainer.step))
            if (tmp_path / "curves.png").is_file():
                drawn.append((trainer.step, (tmp_path / "curves.png").stat().st_mtime_ns))
        hook.after(trainer)
    assert writer.images == [(n, s) for s in (0, 2, 4) for n in ("curves", "easy/frames")] + [("curves", 5)]
    assert [step for step, _ in drawn] == list(range(6)) and len({time for _, time in drawn}) == 3
    assert (read_frame(tmp_path / "curves.png") == draw_curves(read_log(tmp_path))).all()


def test_each_chart_shows_its_own_numbers(monkeypatch):
    seen = {}

    def curves(series, title, xlabel):
        seen[title.split()[0]] = series
        return np.zeros((2, 3, 3), np.uint8)

    monkeypatch.setattr(pictures, "curves", curves)
    steps = [
        {"type": "step", "step": s, "total": "nan" if s == 2 else s, "losses": {"bce": 1}, "lr": s} for s in (1, 2)
    ]
    scores = [{"type": "evaluation", "step": 2, "sets": {"easy": {"dice": 0.25}, "hard": {"dice": 0.5}}, "mean": {}}]
    assert draw_curves(steps + scores).shape == (6, 3, 3)
    assert seen["Losses"]["total"][0] == (1, 1) and np.isnan(seen["Losses"]["total"][1][1])
    assert seen["Losses"]["bce"] == [(1, 1), (2, 1)] and seen["Learning"] == {"largest of the groups": [(1, 1), (2, 2)]}
    assert seen["Scores"] == {"easy dice": [(2, 0.25)], "hard dice": [(2, 0.5)]}


def test_long_runs_are_averaged_without_what_is_not_finite():
    points = [(step, float("nan") if step % 2 else step) for step in range(1, 2001)]
    thinned = pictures._thinned(points)
    assert len(thinned) == pictures.MOST_POINTS
    assert thinned[0] == (10, pytest.approx(6)) and thinned[-1] == (2000, pytest.approx(1996))
    assert pictures._thinned([]) == []


def test_a_run_without_a_step_has_a_chart():
    assert draw_curves([]).shape == (3 * 480, 800, 3)
