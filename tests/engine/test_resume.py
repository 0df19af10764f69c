"""A run that was stopped in any way and resumed is the run that was not: bit-equal weights, the same log."""

from __future__ import annotations

import errno
import json
import os
import signal

import pytest

from lgrnet.checkpoint import checkpointer as checkpointer_module
from lgrnet.checkpoint.checkpointer import Checkpointer, CheckpointError
from lgrnet.engine.run import CHECKPOINTS
from lgrnet.engine.trainer import Trainer, TrainingError
from tests.engine.runs import (
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


def test_two_n_steps_are_n_and_n_more(data, straight, tmp_path):
    run(tmp_path, data, "train.steps=4")
    assert resume(tmp_path, data) == 8
    assert same_run(straight, tmp_path)
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


def test_resume_needs_a_checkpoint_and_the_same_stream(data, straight, tmp_path):
    with pytest.raises(CheckpointError, match="no whole checkpoint to resume; use --trainer_mode train"):
        resume(tmp_path, data)
    for override, name in (("train.seed=1", "seed"), ("train.batch_size=2", "batch_size")):
        with pytest.raises(TrainingError, match=f"train.{name}=.*resume with the same"):
            resume(straight, data, override, "train.steps=9")
    with pytest.raises(TrainingError, match="train.ema"):
        resume(straight, data, "train.ema=0.5")


def test_resuming_a_finished_run_changes_nothing(data, straight):
    before = log_text(straight)
    assert resume(straight, data) == 8
    assert log_text(straight) == before
