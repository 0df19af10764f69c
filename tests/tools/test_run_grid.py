"""The grid tool as its users call it: processes that finish, fail, are killed and are asked to stop."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from lgrnet.engine.grid import plan, read_grid
from tests.engine.runs import CONFIG, ROOT, log_text, run, same_run, write_videos
from tools.run_grid import command, main, parse

GRID = ROOT / "tests/engine/toy_grid.py"
LONG = ["train.steps=90", "train.save_every=2", "train.eval_every=45", "train.log_every=45"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("data"))


def files(folder) -> dict:
    """When each file was written; asking whether a run is held touches its locks."""
    locks = (".lock", ".call")
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name not in locks}


def when_saved(folder, step, act, timeout=300) -> threading.Thread:
    """Calls act() as soon as a checkpoint of `step` or later is in the run's folder."""

    def watch():
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if any(int(path.name[5:]) >= step for path in folder.glob("checkpoints/step_*")):
                return act()
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_a_whole_grid(data, tmp_path, capfd):
    """One run is killed and one cell cannot be built: the rest is finished; the same command resumes what was killed.

    The killed run ends with the numbers of one that was not, and nothing finished is done again.
    """
    call = [str(GRID), "--out", str(tmp_path / "grid"), f"data.root={data}", "train.device=cpu", *LONG]
    first, second = (tmp_path / "grid/runs/plain" / name for name in ("repeat_1", "repeat_2"))
    assert main([*call, "--dry_run"]) == 0
    assert capfd.readouterr().out.splitlines()[0] == "plain/repeat_1, seed 2024: to train"
    assert not (tmp_path / "grid").exists()

    # The lock file holds the process that trains.
    killer = when_saved(first, 20, lambda: os.kill(int((first / ".lock").read_text()), signal.SIGKILL))
    assert main(call) == 1
    killer.join()
    said = capfd.readouterr().out
    assert "4 runs, 0 finished" in said and "[3/4] plain/repeat_2: finished, step_00000090" in said
    assert "[1/4] plain/repeat_1: failed at step" in said and "killed by signal 9" in said
    assert "[2/4] all_dropped/repeat_1: failed at step 0 of 90: config section model does not build" in said
    table = (tmp_path / "grid/table.md").read_text()
    assert "(n=1 of 2) | 61.50 |" in table and "| all dropped | failed |" in table and "1 of 4 runs" in table
    assert "- failed: all_dropped/repeat_2: config section model" in table

    finished = files(second)
    assert main([*call, "--only", "plain*"]) == 0
    said = capfd.readouterr().out
    assert "2 runs, 1 finished" in said and "[1/1] plain/repeat_1: finished" in said and "step 90/90" in said
    run(tmp_path / "straight", data, "train.device=cpu", *LONG, file=CONFIG)
    assert same_run(tmp_path / "straight", first) and not (first / "failure.json").exists()
    assert files(second) == finished and "(n=2) | 61.50 |" in (tmp_path / "grid/table.md").read_text()
    assert "seed: 2025" in (second / "config.yaml").read_text() and log_text(first) != log_text(second)

    finished = files(tmp_path / "grid/runs")
    assert main([*call, "--only", "plain*"]) == 0 and main([*call, "--table"]) == 0
    assert files(tmp_path / "grid/runs") == finished
    assert main([*call, "train.steps=91"]) == 2
    assert "train.steps was 90, is 91" in capfd.readouterr().err


def test_a_request_to_stop_reaches_the_cell(data, tmp_path, capfd):
    """SIGTERM to the tool: the run of the moment saves, no other begins, and the words say how to go on."""
    call = [str(GRID), "--out", str(tmp_path), f"data.root={data}", "train.device=cpu", "train.steps=5000"]
    stopper = when_saved(tmp_path / "runs/plain/repeat_1", 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert main(call) == 0
    stopper.join()
    said = capfd.readouterr().out
    assert "stopped (SIGTERM); the same command goes on" in said and "to resume at step" in said
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["plain"]
    (run_one, *_) = plan(read_grid(GRID), tmp_path, call[3:])
    assert 0 < run_one.step() < 5000 and run_one.failure() is None


def test_mistakes_end_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "no.py"), "--out", str(tmp_path)]) == 2
    assert "no.py does not exist" in capsys.readouterr().err
    assert main([str(GRID), "--out", str(tmp_path), "--one", "plain/repeat_9"]) == 2
    assert "no run 'plain/repeat_9'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(GRID), "--out", str(tmp_path), "--processes", "0"])
    assert "--processes is 0" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([str(GRID), "--out", str(tmp_path / "file"), "--one", "plain/repeat_1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: cannot use {tmp_path / 'file'}") and error.count("\n") == 1


def test_several_processes_are_started_by_torchrun(tmp_path):
    one = parse([str(GRID), "--out", "o", "a=1"])
    two = parse([str(GRID), "--out", "o", "--processes", "2"])
    assert command(one, "x")[1:] == [str(ROOT / "tools/run_grid.py"), str(GRID), "--out", "o", "--one", "x", "a=1"]
    assert command(two, "x")[1:5] == ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
