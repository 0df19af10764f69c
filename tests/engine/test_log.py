"""The run's files and the terminal."""

from __future__ import annotations

import json
import math
import re
import types

import pytest
import torch

from lgrnet.engine import clock as clock_module
from lgrnet.engine import hooks
from lgrnet.engine.clock import TrainingClock
from lgrnet.engine.hooks import EvaluateHook, evaluation_due, mean_scores
from lgrnet.engine.log import RunLog, TensorBoardSink, Terminal, read_log
from lgrnet.engine.settings import TrainSettings
from lgrnet.engine.trainer import StepRecord


def record(step: int, total: float = 1 / 3, skipped: bool = False) -> StepRecord:
    return StepRecord(step, {"mask_bce": 0.1, "class_ce": total}, total, 1e-3, 12.5, 352, skipped)


def fill(folder, steps=5) -> None:
    with RunLog(folder) as log:
        for step in range(1, steps + 1):
            log.step(record(step))
            if step % 2 == 0:
                log.evaluation(step, {"a": {"dice": step / 7}}, {"dice": step / 7})


def test_lines_hold_exact_numbers_and_no_clock(tmp_path):
    fill(tmp_path)
    lines = list(read_log(tmp_path))
    assert [(line["type"], line["step"]) for line in lines] == [
        ("step", 1),
        ("step", 2),
        ("evaluation", 2),
        ("step", 3),
        ("step", 4),
        ("evaluation", 4),
        ("step", 5),
    ]
    assert lines[0]["total"] == 1 / 3 and lines[0]["size"] == 352 and lines[0]["skipped"] is False
    assert lines[5]["sets"] == {"a": {"dice": 4 / 7}}
    assert not any("time" in key or "second" in key for line in lines for key in line)


def test_numbers_that_are_not_finite_stay_json(tmp_path):
    with RunLog(tmp_path) as log:
        log.step(record(1, math.nan, skipped=True))
        log.step(record(2, math.inf, skipped=True))
    text = (tmp_path / "log.jsonl").read_text()
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in text.splitlines())
    assert (first["total"], second["losses"]["class_ce"], first["skipped"]) == ("nan", "inf", True)


@pytest.mark.parametrize(("redo", "kept"), [(False, 6), (True, 5)])
def test_resume_keeps_the_lines_up_to_its_step(tmp_path, redo, kept):
    fill(tmp_path)
    before = (tmp_path / "log.jsonl").read_text().splitlines()
    with RunLog(tmp_path, resume_step=4, redo_evaluation=redo):
        pass
    assert (tmp_path / "log.jsonl").read_text().splitlines() == before[:kept]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events.jsonl", "log.jsonl"]


def test_a_torn_last_line_is_left_out(tmp_path):
    fill(tmp_path)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"type": "step", "step": 6, "los')
    assert len(list(read_log(tmp_path))) == 7
    with RunLog(tmp_path, resume_step=9) as log:
        log.step(record(6))
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 2, 3, 4, 4, 5, 6]


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "5",
        '{"type": "step", "st',
        '{"step": 2}',
        '{"type": "step", "step": "2"}',
        '{"type": "evaluation", "step": 2, "sets": {}}',
    ],
)
def test_a_damaged_line_takes_no_others_with_it(tmp_path, damaged):
    fill(tmp_path)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    (tmp_path / "log.jsonl").write_text("\n".join([lines[0], damaged, *lines[2:]]) + "\n")
    with RunLog(tmp_path, resume_step=4) as log:
        assert log.lost == [2]
    assert (tmp_path / "log.jsonl").read_text().splitlines() == [lines[0], *lines[2:6]]
    (tmp_path / "log.jsonl").unlink()
    with RunLog(tmp_path, resume_step=4) as log:
        assert log.lost == [1, 2, 3, 4]


@pytest.mark.parametrize("torn", [b"[1, 2]\n", b"\xff\x00\x00", b"\0" * 64])
def test_a_foreign_line_is_left_out(tmp_path, torn):
    fill(tmp_path)
    with open(tmp_path / "log.jsonl", "ab") as file:
        file.write(torn)
    assert len(list(read_log(tmp_path))) == 7


def test_a_new_run_starts_a_new_log_and_events_have_the_clock(tmp_path):
    fill(tmp_path)
    with RunLog(tmp_path) as log:
        log.event("saved", step=3, seconds=0.5)
        log.sync()
    assert (tmp_path / "log.jsonl").read_text() == ""
    (event,) = (json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines())
    assert event["type"] == "saved" and event["time"] > 1e9


def test_plain_lines_with_time_to_go(capsys):
    terminal = Terminal(45, every=20, interactive=False)
    for step in range(1, 46):
        terminal.step(record(step, skipped=step == 20))
    terminal.say("words [with] brackets")
    terminal.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:-1]] == ["1/45", "20/45", "40/45", "45/45"]
    assert re.search(
        r"loss 0\.3333  mask_bce 0\.1000 .* lr 1\.00e-03  grad 12\.50  352 px .*s/step  eta 0:00:0", lines[0]
    )
    assert "SKIPPED" in lines[1] and "SKIPPED" not in lines[0] and lines[-1] == "words [with] brackets"


@pytest.mark.parametrize("interactive", [True, False])
def test_the_time_to_go_leaves_evaluations_out(capsys, monkeypatch, interactive):
    now = [100.0]
    monkeypatch.setattr(clock_module.time, "monotonic", lambda: now[0])
    clock = TrainingClock()
    terminal = Terminal(10, every=1, interactive=interactive, clock=clock)
    for step in range(1, 5):
        now[0] += 2
        terminal.step(record(step))
        with clock.paused():
            now[0] += 1000
    assert clock.seconds() - 100 == 8
    if interactive:
        (task,) = terminal._bar.tasks
        assert task.elapsed == 8 and task.time_remaining == 12
        terminal.close()
    else:
        assert all("2.00 s/step" in line for line in capsys.readouterr().out.splitlines())


def test_evaluations_stop_the_clock_and_speed_is_without_them(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clock_module.time, "monotonic", lambda: now[0])
    settings = TrainSettings(steps=4, batch_size=1, save_every=1, eval_every=1, log_every=2)
    trainer = types.SimpleNamespace(step=0, settings=settings, clock=TrainingClock(), stopping=False)
    trainer.device = torch.device("cpu")
    evaluate = EvaluateHook(None, None, None)
    monkeypatch.setattr(evaluate, "_run", lambda trainer: now.__setitem__(0, now[0] + 500))
    with RunLog(tmp_path) as log:
        speed = hooks.LogHook(log, Terminal(4, interactive=False, clock=trainer.clock))
        speed.before(trainer)
        for trainer.step in range(1, 5):
            now[0] += 3
            for hook in (speed, evaluate):
                hook.after_step(trainer, record(trainer.step))
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["seconds_per_step"] for event in events if event["type"] == "speed"] == [3, 3]
    assert now[0] == 4 * 503


def test_a_terminal_gets_a_bar(capsys):
    terminal = Terminal(3, interactive=True)
    for step in (1, 2, 3):
        terminal.step(record(step))
    terminal.say("[evaluation] done")
    terminal.close()
    shown = capsys.readouterr().out
    assert "[evaluation] done" in shown and "3/3" in shown and "loss 0.3333" in shown


def test_when_evaluations_are_due():
    settings = TrainSettings(steps=7, batch_size=1, save_every=1, eval_every=3)
    assert [step for step in range(8) if evaluation_due(settings, step)] == [3, 6, 7]
    settings = TrainSettings(steps=7, batch_size=1, save_every=1, eval_first=True, eval_last=False)
    assert [step for step in range(8) if evaluation_due(settings, step)] == [0]


def test_means_are_over_the_metrics_that_all_sets_have():
    assert mean_scores({"a": {"dice": 0.5, "x": 1.0}, "b": {"dice": 1.0}}) == {"dice": 0.75}
    assert mean_scores({}) == {}


def test_tensorboard_gets_every_step_where_it_is_installed(tmp_path, monkeypatch):
    written = []

    class Writer:
        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    def make(folder, purge_step):
        written.append((folder.name, purge_step))
        return TensorBoardSink(Writer())

    monkeypatch.setattr(hooks, "tensorboard_sink", make)
    settings = TrainSettings(steps=3, batch_size=1, save_every=1, log_every=100)
    trainer = types.SimpleNamespace(step=1, settings=settings, skipped=0, clock=TrainingClock())
    with RunLog(tmp_path) as log:
        hook = hooks.LogHook(log, Terminal(3, interactive=False), resumed=True)
        hook.before(trainer)
        hook.after_step(trainer, record(2))
        hook.after(trainer)
        log.evaluation(2, {"test": {"dice": 0.5}}, {"dice": 0.5})
    assert written[0] == ("tensorboard", 2) and written[-1] == "closed"
    assert {name for name, _, step in written[1:-1]} == {
        "train/total",
        "train/lr",
        "train/grad_norm",
        "train/mask_bce",
        "train/class_ce",
        "test/dice",
        "mean/dice",
    }
