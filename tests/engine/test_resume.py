"""A run that was stopped in any way and resumed is the run that was not: bit-equal weights, the same log."""

from __future__ import annotations

import errno
import json
import os
import signal

import pytest
import torch

from lgrnet import distributed
from lgrnet.checkpoint import checkpointer as checkpointer_module
from lgrnet.checkpoint.checkpointer import Checkpointer, CheckpointError
from lgrnet.config import ConfigError, load_config
from lgrnet.engine import run as engine
from lgrnet.engine.lock import BusyError
from lgrnet.engine.run import CHECKPOINTS, _make_trainer, settings_of
from lgrnet.engine.trainer import Trainer, TrainingError
from tests.engine.runs import (
    CONFIG,
    finish,
    kill,
    last_weights,
    log_text,
    resume,
    run,
    same_run,
    start,
    wait_for_checkpoint,
    write_videos,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """The run that nothing happened to: 8 steps, saved at 3 and 6, evaluated and saved at 4 and 8."""
    folder = tmp_path_factory.mktemp("straight")
    assert run(folder, data) == 8
    return folder


def steps(folder) -> list[int]:
    return [c.step for c in Checkpointer(folder / CHECKPOINTS).all()]


def test_two_n_steps_are_n_and_n_more(data, straight, tmp_path, capsys):
    run(tmp_path, data, "train.steps=4")
    begun_with = (tmp_path / "config.yaml").read_text()
    # A resumed run has its own weights: those that it began with may be gone.
    gone = ["train.init_weights=gone.safetensors", "train.backbone_weights=gone.pth"]
    assert resume(tmp_path, data, *gone) == 8
    assert same_run(straight, tmp_path)
    assert "resumed with other settings: train.steps was 4, is 8; train.backbone_weights" in capsys.readouterr().out
    assert (tmp_path / "config.yaml").read_text() == begun_with
    assert "steps: 8" in (tmp_path / "config_resume_00000004.yaml").read_text()
    lines = [json.loads(line) for line in log_text(tmp_path).splitlines()]
    assert [line["step"] for line in lines if line["type"] == "step"] == list(range(1, 9))
    assert [line["step"] for line in lines if line["type"] == "evaluation"] == [4, 8]


@pytest.mark.parametrize("overrides", [["train.ema=0.9"], ["train.accumulate=2"], ["train.workers=1"]])
def test_options_resume_exactly_too(data, tmp_path, overrides):
    few = [*overrides, "train.eval_every=0", "train.save_every=100"]
    run(tmp_path / "whole", data, *few, "train.steps=6")
    run(tmp_path / "parts", data, *few, "train.steps=3", "train.eval_last=false")
    resume(tmp_path / "parts", data, *few, "train.steps=6")
    assert same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_the_step_and_ends_cleanly(data, straight, tmp_path, monkeypatch, number, capsys):
    step = Trainer.train_step

    def send(self, batch):
        if self.step == 4:
            os.kill(os.getpid(), number)
        return step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", send)
    assert run(tmp_path, data) == 5 and steps(tmp_path)[-1] == 5
    assert signal.Signals(number).name in capsys.readouterr().out
    monkeypatch.undo()
    resume(tmp_path, data)
    assert same_run(straight, tmp_path)


def test_signal_in_the_step_of_an_evaluation_leaves_it_to_the_resumed_run(data, straight, tmp_path, monkeypatch):
    step = Trainer.train_step

    def send(self, batch):
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", send)
    assert run(tmp_path, data) == 4
    monkeypatch.undo()
    assert "evaluation" not in log_text(tmp_path)
    resume(tmp_path, data)
    assert same_run(straight, tmp_path)


def test_sigkill_one_process(data, tmp_path):
    many = ["train.steps=150", "train.save_every=2", "train.eval_every=50", "train.log_every=50"]
    run(tmp_path / "whole", data, *many)
    processes = start(run, tmp_path / "killed", data, *many)
    wait_for_checkpoint(tmp_path / "killed", 20, processes)
    assert kill(processes) == [-signal.SIGKILL]
    assert 20 <= steps(tmp_path / "killed")[-1] < 150
    resume(tmp_path / "killed", data, *many)
    assert same_run(tmp_path / "whole", tmp_path / "killed")


def test_sigkill_two_gloo_processes(data, tmp_path):
    many = ["train.steps=60", "train.save_every=2", "train.eval_every=30", "train.log_every=20"]
    killed = start(run, tmp_path / "killed", data, *many, world=2)
    wait_for_checkpoint(tmp_path / "killed", 10, killed)
    assert kill(killed) == [-signal.SIGKILL] * 2
    assert 10 <= steps(tmp_path / "killed")[-1] < 60
    assert finish(start(resume, tmp_path / "killed", data, *many, world=2)) == [0, 0]
    assert finish(start(run, tmp_path / "whole", data, *many, world=2)) == [0, 0]
    assert same_run(tmp_path / "whole", tmp_path / "killed")


def test_evaluation_that_a_kill_cut_off_is_done_again(data, straight, tmp_path):
    run(tmp_path, data, "train.steps=4")
    (Checkpointer(tmp_path / CHECKPOINTS).latest().path / "metrics.json").unlink()
    resume(tmp_path, data)
    assert same_run(straight, tmp_path)


def test_torn_log_and_cut_checkpoint_fall_back(data, straight, tmp_path, capsys):
    run(tmp_path, data, "train.steps=7", "train.eval_last=false")
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"type": "step", "st')
    newest = Checkpointer(tmp_path / CHECKPOINTS).latest().path
    content = (newest / "state.safetensors").read_bytes()
    (newest / "state.safetensors").write_bytes(content[: len(content) // 2])
    resume(tmp_path, data)
    said = capsys.readouterr().out
    assert "step_00000007 is damaged" in said and "falling back" in said and "step 6 of 8" in said
    assert same_run(straight, tmp_path)


def test_only_rank_0_tells_of_damage(data, straight, monkeypatch, capsys):
    keeper = []
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    monkeypatch.setattr("lgrnet.engine.run._start", lambda checkpointer, resume: keeper.append(checkpointer) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        resume(straight, data)
    keeper[0].warn("damaged")
    assert capsys.readouterr().out == ""
    monkeypatch.undo()
    keeper[0].warn("damaged")
    assert capsys.readouterr().out == "damaged\n"


def test_disk_full_while_saving_ends_clearly_and_resumes(data, straight, tmp_path, monkeypatch):
    write = checkpointer_module.write_synced

    def full(path, content):
        if "step_00000006" in str(path) and path.name.startswith("state"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(checkpointer_module, "write_synced", full)
    with pytest.raises(CheckpointError, match="No space left on device.*bytes are needed"):
        run(tmp_path, data)
    monkeypatch.undo()
    assert steps(tmp_path) == [3, 4]
    resume(tmp_path, data)
    assert same_run(straight, tmp_path)


def test_train_refuses_a_folder_with_checkpoints(data, straight):
    before = last_weights(straight), log_text(straight)
    with pytest.raises(CheckpointError, match=r"already holds 3 checkpoints, up to step 8.*train_resume"):
        run(straight, data)
    assert log_text(straight) == before[1]


@pytest.mark.parametrize("way", [run, resume])
def test_a_run_that_another_process_has_gone_on_with_meanwhile_is_left_alone(way, data, tmp_path, monkeypatch):
    """Between the look at the folder and the lock."""
    if way is resume:
        run(tmp_path, data, "train.steps=3")
    make, keeper = engine._make_trainer, Checkpointer(tmp_path / CHECKPOINTS)

    def slowly(*arguments, **options):
        keeper.save(5, {"w": torch.ones(1)}, {})
        return make(*arguments, **options)

    monkeypatch.setattr(engine, "_make_trainer", slowly)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*") if path.name != ".lock"}
    with pytest.raises(BusyError, match="another process has trained in .* meanwhile; go on with .*train_resume"):
        way(tmp_path, data)
    assert keeper.latest().weights() == {"w": torch.ones(1)}
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*") if path.name != ".lock"} == before


def test_resume_needs_a_checkpoint_and_the_same_stream(data, straight, tmp_path):
    with pytest.raises(CheckpointError, match="no whole checkpoint to resume; use --trainer_mode train"):
        resume(tmp_path, data)
    (tmp_path / "checkpoints" / "step_00000003").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="use --trainer_mode train and another --out_dir"):
        resume(tmp_path, data)
    with pytest.raises(ConfigError, match="train.seed was 2024, is 1.*Resume with the old values"):
        resume(straight, data, "train.seed=1", "train.steps=9")


@pytest.mark.parametrize("override", ["seed=1", "batch_size=2", "ema=0.5"])
def test_the_training_state_knows_its_stream_too(data, straight, override):
    config = load_config(CONFIG, [f"train.{override}"])
    with distributed.init("cpu") as context:
        trainer = _make_trainer(config, settings_of(config), context, new=False)
    start = Checkpointer(straight / CHECKPOINTS).latest()
    with pytest.raises(TrainingError, match=f"train.{override.split('=')[0]}.*resume with the same"):
        trainer.load_state(start.weights(), start.state())


def test_resuming_a_finished_run_changes_nothing(data, straight, capsys):
    before, files = log_text(straight), sorted(p.name for p in straight.iterdir())
    assert resume(straight, data) == 8
    assert "all steps are done: nothing is left to train" in capsys.readouterr().out
    assert log_text(straight) == before
    assert sorted(p.name for p in straight.iterdir()) == files


def test_a_run_that_has_done_more_steps_than_asked_for_is_left_as_it_is(data, straight):
    before = {path: path.read_bytes() for path in straight.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="has done 8 steps, but train.steps is 7: nothing is left.*more steps"):
        resume(straight, data, "train.steps=7")
    assert {path: path.read_bytes() for path in straight.rglob("*") if path.is_file()} == before
