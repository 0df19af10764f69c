"""The command line, as a user meets it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import main
from lgrnet.checkpoint.checkpointer import Checkpointer
from lgrnet.config import load_config
from lgrnet.engine import run as engine
from lgrnet.engine.parts import evaluation_protocols, evaluation_sets
from tests.engine.runs import CONFIG, PHANTOM, ROOT, write_videos


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("data"))


@pytest.fixture
def call(monkeypatch, capsys, data):
    """Calls main.py's main with arguments: (status, stdout, stderr)."""

    def call(*arguments, root=data):
        given = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["main.py", "--config_file", str(CONFIG), *given, f"data.root={root}"])
        status = main.main()
        return status, *capsys.readouterr()

    return call


def test_train_then_resume_then_evaluate(call, tmp_path):
    out = ["--out_dir", tmp_path, "train.device=cpu"]
    status, said, _ = call("--trainer_mode", "train_attmpt", *out, "train.steps=4")
    assert status == 0 and "step 4/4" in said and "best checkpoint" in said and "step_00000004" in said
    assert {"config.yaml", "origin.json", "log.jsonl", "events.jsonl"} <= {p.name for p in tmp_path.iterdir()}
    origin = json.loads((tmp_path / "origin.json").read_text())
    assert origin["versions"]["torch"] and "git_commit" in origin and origin["command"][0] == "main.py"

    status, _, error = call("--trainer_mode", "train", *out)
    assert status == 2 and error.startswith("error: ") and "train_resume" in error and error.count("\n") == 1

    status, said, _ = call("--trainer_mode", "train_resume", *out)
    assert status == 0 and "step 8/8" in said

    status, said, _ = call("--trainer_mode", "eval", *out)
    steps = [line.split()[0] for line in said.splitlines() if "dice" in line]
    assert status == 0 and steps == ["step_00000003", "step_00000004", "step_00000006", "step_00000008"][-len(steps) :]
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert list(summary) == steps and 0 <= summary[steps[0]]["toy"]["dice"] <= 1
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert summary["step_00000008"] == logged[-1]["sets"]

    one = tmp_path / "checkpoints" / "step_00000008" / "weights.safetensors"
    status, said, _ = call("--trainer_mode", "eval", "--eval_path", one, "--out_dir", tmp_path / "other")
    results = tmp_path / "other" / "eval" / "step_00000008"
    report = json.loads((results / "report.json").read_text())
    assert status == 0 and len(report["sets"][0]["weights_hash"]) == 64
    assert (results / "toy" / "web" / "a" / "0.png").is_file()
    assert (results / "toy" / "pictures" / "sheet.png").is_file()

    loose = tmp_path / "mine.safetensors"  # in the run's folder, which still counts as its checkpoints
    loose.write_bytes(one.read_bytes())
    one.write_bytes(one.read_bytes()[:-1] + b"x")
    status, said, error = call("--trainer_mode", "eval", "--eval_path", one, "--out_dir", tmp_path / "other")
    assert status == 2 and "was changed after it was written" in error
    status, said, _ = call("--trainer_mode", "eval", *out)
    assert status == 0 and "step_00000008 is passed over: " in said
    assert list(json.loads((tmp_path / "eval" / "summary.json").read_text())) == steps[:-1]
    status, _, _ = call("--trainer_mode", "eval", "--eval_path", loose, "--out_dir", tmp_path / "other")
    assert status == 0 and list(json.loads((tmp_path / "other" / "eval" / "summary.json").read_text())) == ["mine"]


def test_weights_of_another_run_never_replace_the_own_results(call, tmp_path):
    plain = ["train.device=cpu", "train.steps=3"]
    for name, seed in (("one", 1), ("two", 2)):
        assert call("--trainer_mode", "train", "--out_dir", tmp_path / name, f"train.seed={seed}", *plain)[0] == 0
    own, foreign = (tmp_path / name / "checkpoints" / "step_00000003" for name in ("one", "two"))
    kept = (tmp_path / "one" / "eval" / "step_00000003" / "report.json").read_text()
    for path in (foreign, foreign / "weights.safetensors"):
        status, _, error = call("--trainer_mode", "eval", "--eval_path", path, "--out_dir", tmp_path / "one")
        assert status == 2 and "has the results of other weights" in error and "--out_dir" in error
    assert (tmp_path / "one" / "eval" / "step_00000003" / "report.json").read_text() == kept
    for path in (own, own, own / "weights.safetensors"):
        assert call("--trainer_mode", "eval", "--eval_path", path, "--out_dir", tmp_path / "one")[0] == 0
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes((foreign / "weights.safetensors").read_bytes())
    assert call("--trainer_mode", "eval", "--eval_path", mine, "--out_dir", tmp_path / "one")[0] == 0
    mine.write_bytes((own / "weights.safetensors").read_bytes())
    assert call("--trainer_mode", "eval", "--eval_path", mine, "--out_dir", tmp_path / "one")[0] == 0


def test_results_of_other_frames_are_not_replaced(call, data, tmp_path):
    out = tmp_path / "run"
    assert call("--trainer_mode", "train", "--out_dir", out, "train.device=cpu", "train.steps=3")[0] == 0
    kept = (out / "eval" / "step_00000003" / "report.json").read_text()
    fewer = tmp_path / "fewer"
    shutil.copytree(data, fewer)
    shutil.rmtree(next(iter(sorted((fewer / "Frame").iterdir()))))
    shutil.rmtree(next(iter(sorted((fewer / "GT").iterdir()))))
    status, _, error = call("--trainer_mode", "eval", "--out_dir", out, "train.device=cpu", root=fewer)
    assert status == 2 and "has the results of other frames (set toy)" in error and "another --out_dir" in error
    assert (out / "eval" / "step_00000003" / "report.json").read_text() == kept
    elsewhere = ["--trainer_mode", "eval", "--eval_path", out, "--out_dir", tmp_path / "other", "train.device=cpu"]
    assert call(*elsewhere, root=fewer)[0] == 0 and call(*elsewhere, root=fewer)[0] == 0
    status, _, error = call(*elsewhere)
    assert status == 2 and "has the results of other frames" in error
    assert call("--trainer_mode", "eval", "--out_dir", out, "train.device=cpu")[0] == 0, "the same frames once more"


@pytest.mark.parametrize("option", ["--eval_path", "--out_dir"])
def test_an_empty_path_is_no_other_place(call, option, capsys):
    with pytest.raises(SystemExit, match="2"):
        call("--trainer_mode", "eval", option, "")
    assert f"argument {option}: it is empty; give a path" in capsys.readouterr().err


def test_a_file_in_place_of_the_checkpoints_is_told_at_once(call, tmp_path):
    (tmp_path / "checkpoints").write_text("")
    status, _, error = call("--trainer_mode", "train", "--out_dir", tmp_path, "train.device=cpu")
    assert status == 2 and "checkpoints is no folder; remove it" in error and not (tmp_path / "log.jsonl").exists()


def test_fewer_steps_than_are_done_are_one_line(call, tmp_path):
    out = ["--out_dir", tmp_path, "train.device=cpu", "train.eval_every=0", "train.eval_last=false"]
    assert call("--trainer_mode", "train", *out, "train.steps=2")[0] == 0
    status, _, error = call("--trainer_mode", "train_resume", *out, "train.steps=1")
    assert status == 2 and error.startswith("error: the run in") and error.count("\n") == 1


def test_what_is_evaluated_before_a_failure_is_in_the_summary(call, tmp_path, monkeypatch):
    out = ["--out_dir", tmp_path, "train.device=cpu"]
    call("--trainer_mode", "train", *out, "train.steps=4", "train.eval_every=0", "train.eval_last=false")
    (tmp_path / "checkpoints" / "step_00000003" / "weights.safetensors").write_bytes(b"")
    (tmp_path / "checkpoints" / "step_00000004" / "weights.safetensors").write_bytes(b"")
    status, said, error = call("--trainer_mode", "eval", *out)
    assert status == 2 and said.count("is passed over") == 2 and "none of the 2 weights is whole" in error

    resumed = ["--out_dir", tmp_path / "again", "train.device=cpu"]
    call("--trainer_mode", "train", *resumed, "train.steps=4", "train.eval_every=0", "train.eval_last=false")
    evaluate = engine._evaluate

    def fail_at_4(config, settings, sets, options, target, *others):
        return 1 / 0 if target.name == "step_00000004" else evaluate(config, settings, sets, options, target, *others)

    monkeypatch.setattr(engine, "_evaluate", fail_at_4)
    with pytest.raises(ZeroDivisionError):
        call("--trainer_mode", "eval", *resumed)
    assert list(json.loads((tmp_path / "again" / "eval" / "summary.json").read_text())) == ["step_00000003"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize(
    "writer",
    ["evaluate.save_masks", "evaluate.save_overlays", "evaluate.write_report", "log.RunLog._write", "run._keep_config"],
)
def test_a_full_disk_ends_in_one_line_and_the_last_checkpoint_is_good(call, tmp_path, monkeypatch, writer, number):
    out = ["--out_dir", tmp_path, "train.device=cpu"]
    assert call("--trainer_mode", "train", *out, "train.steps=3", "train.eval_last=false")[0] == 0

    def full(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"lgrnet.engine.{writer}", full)
    status, _, error = call("--trainer_mode", "train_resume", *out, "train.steps=5")
    assert status == 2 and error.startswith("error: cannot ") and error.count("\n") == 1 and str(tmp_path) in error
    assert os.strerror(number) in error and ("bytes are free" in error) == (number == errno.ENOSPC)
    monkeypatch.undo()
    last = Checkpointer(tmp_path / "checkpoints").latest()
    assert last.step == (4 if writer.startswith("evaluate") else 3) and last.weights()


def test_an_error_that_no_user_can_mend_keeps_its_traceback(call, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr("lgrnet.engine.run.train", broken)
    with pytest.raises(ConnectionResetError):
        call("--trainer_mode", "train", "--out_dir", tmp_path)


def test_ctrl_c_outside_of_training_is_one_line(call, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("lgrnet.engine.run.evaluate", interrupted)
    status, _, error = call("--trainer_mode", "eval", "--out_dir", tmp_path)
    assert status == 130 and error.startswith("error: stopped by Ctrl-C") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train.stepz=3"], "did you mean train.steps"),
        (["train.steps=many"], "train.steps=many"),
        (["train.batch_size=3", "train.accumulate=2"], "multiple of 2"),
        (["model.dropout=2.0"], "section model does not build"),
        (
            ["--config_file", PHANTOM, "data.eval.test=null", "model.backbone.drop_path=2"],
            "section model does not build: drop_path is 2.0; expected a rate in 0 <= rate < 1",
        ),
        (["train.init_weights=none.safetensors"], "does not exist"),
        (["train.backbone_weights=none.pth"], "ToyModel has no backbone"),
        (["train.steps"], "key=value"),
        (["train.workers=-1"], "train.workers is -1; it must be 0 (none) or more"),
        (["train.pictures=-1"], "train.pictures is -1"),
        (["train.clip_norm=nan"], "train.clip_norm is nan"),
        (["train.seed=-1"], "train.seed is -1; it must be in 0..4294967295"),
        (["train.seed=4294967296"], "train.seed is 4294967296"),
        (["train.eval_chunk=0"], "train.eval_chunk is 0; it must be at least 1, or null"),
        (["train.sizes=[16,0]"], "train.sizes is [16, 0]"),
        (["train.sizes=[16,18]"], "train.sizes has 18; every size must be a multiple of 4"),
        (["data.size=[0,20]"], "config section data: size is (0, 20); expected"),
        (["train.metric=dise"], "one of dice, iou (the first of data.protocols), or of one set, such as dice_toy"),
        (["model=null"], "section model of config file"),
        (["criterion=null"], "section criterion of config file"),
        (["data.train=null"], "section data.train is null"),
        (["model.channels=-4"], "section model does not build: Trying to create tensor with negative dimension"),
        (["train.device=gpu"], "device is 'gpu'; expected cpu or cuda"),
        (["train.device=cuda:1"], "device is 'cuda:1'"),
        (["train.device=xpu"], "device is 'xpu'; expected cpu or cuda"),
        (["data.size=null"], "section data has no size; it must be [height, width]"),
        (["criterion={}"], "section criterion is no builds(...)"),
        (["model={}"], "section model is no builds(...)"),
        (["--config_file", PHANTOM, "data.eval.test=null", "model.backbone=null"], "section model does not build"),
    ],
)
def test_mistakes_end_in_one_line(call, tmp_path, arguments, says):
    status, _, error = call("--trainer_mode", "train", "--out_dir", tmp_path / "run", *arguments)
    assert status == 2 and error.startswith("error: ") and says in error and "Traceback" not in error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_evaluation_would_refuse_is_refused_before_training(call, data, tmp_path):
    def refused(says, *arguments, root=data):
        out = ["--out_dir", tmp_path / "run", "train.eval_every=0"]
        status, _, error = call("--trainer_mode", "train", *out, *arguments, root=root)
        assert status == 2 and error.startswith("error: ") and error.count("\n") == 1 and says in error
        assert not (tmp_path / "run").exists()

    phantom = ["--config_file", PHANTOM, f"data.train.records.root={data}", f"data.eval.test.root={data}"]
    refused("form is 'clip'", *phantom, "data.instances=clip")
    refused("none.json cannot be read", *phantom, "data.attributes=none.json")
    shutil.copytree(data / "Frame", tmp_path / "bare" / "Frame")
    refused("is annotated", "data.eval.toy.masks=null", root=tmp_path / "bare")


def test_null_takes_an_evaluation_set_or_a_protocol_out(data):
    config = load_config(PHANTOM, [f"data.eval.test.root={data}", "data.protocols.lgrnet=null"])
    assert list(evaluation_sets(config)) == ["test"]
    assert [protocol.id for protocol in evaluation_protocols(config)] == ["vps", "over-time"]
    config = load_config(PHANTOM, ["data.eval.test=null"])
    assert evaluation_sets(config) == {}


def test_mistakes_in_paths(call, tmp_path):
    status, _, error = call("--trainer_mode", "train", "--out_dir", tmp_path / "run", root=tmp_path / "nowhere")
    assert status == 2 and "nowhere" in error
    status, _, error = call("--trainer_mode", "eval", "--eval_path", tmp_path / "no", "--out_dir", tmp_path / "run")
    assert status == 2 and "holds no weights" in error
    (tmp_path / "file").write_text("")
    status, _, error = call("--trainer_mode", "train", "--out_dir", tmp_path / "file" / "run", "train.steps=1")
    assert status == 2 and "--out_dir" in error


def test_wrong_options_exit_with_status_two(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["main.py", "--config_file", "c.py", "--trainer_mode", "practise"])
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 2 and "train_resume" in capsys.readouterr().err


def test_overrides_may_stand_anywhere():
    options = main.parse(["a=1", "--config_file", "c.py", "b=2", "--trainer_mode", "eval", "c=3"])
    assert options.overrides == ["a=1", "b=2", "c=3"] and options.eval_path is None


def test_default_folder_is_named_after_the_config():
    from lgrnet.engine.run import run_folder

    assert run_folder("/somewhere/configs/sunseg/lgrnet_pvtv2_b2.py") == Path("runs/sunseg/lgrnet_pvtv2_b2")
    assert run_folder("mine.py") == Path("runs/mine")


def test_torchrun_from_another_folder(data, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "main.py"), "--config_file", str(CONFIG), "--trainer_mode", "train", f"data.root={data}"]
    command += ["train.steps=2", "train.device=cpu", "--out_dir", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 2/2") == 1 and "toy: dice" in done.stdout
    assert (tmp_path / "out" / "checkpoints" / "step_00000002").is_dir()
    assert json.loads((tmp_path / "out" / "origin.json").read_text())["processes"] == 2
