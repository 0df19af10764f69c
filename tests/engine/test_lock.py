"""One process at a time in the folder of a run."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time

import pytest

from lgrnet.config import read_config
from lgrnet.engine.grid import Cell, Grid, Metric, plan
from lgrnet.engine.grid_run import run_all
from lgrnet.engine.lock import BusyError, held, is_held
from tests.engine.runs import CONFIG, kill, run, write_videos

WORDS = "import sys, time; print(f'error: call {sys.argv[1]} met it', flush=True); time.sleep(1); sys.exit(2)"


def hold(folder, seconds):
    with held(folder):
        (folder / "held").touch()
        time.sleep(seconds)


def held_by_another(folder, seconds):
    """A process that holds the folder."""
    other = multiprocessing.get_context("fork").Process(target=hold, args=(folder, seconds), daemon=True)
    other.start()
    while not (folder / "held").exists() and other.is_alive():
        time.sleep(0.01)
    return other


def test_one_process_at_a_time(tmp_path):
    other = held_by_another(tmp_path, 60)
    assert is_held(tmp_path)
    with pytest.raises(BusyError, match=f"another process \\({other.pid}\\) trains"), held(tmp_path):
        pass
    kill([other])
    assert not is_held(tmp_path)


def test_a_lock_is_waited_for_while_others_only_look(tmp_path):
    other = held_by_another(tmp_path, 0.3)
    with held(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
    other.join()


def test_a_folder_is_trained_in_by_one_process(tmp_path):
    data = write_videos(tmp_path / "data")
    other = held_by_another(tmp_path, 60)
    with pytest.raises(BusyError, match="trains in .*; wait for it, or give another --out_dir"):
        run(tmp_path, data)
    kill([other])
    assert not (tmp_path / "checkpoints").exists()
    with held(tmp_path):
        assert run(tmp_path, data, "train.steps=2") == 2, "held by this process already"


def call_grid(runs, out, number, words):
    """One of several calls of a grid at once; its words in a file."""
    with open(words, "w") as sys.stdout:
        run_all(runs, out, lambda run: [sys.executable, "-c", WORDS, str(number)])


def test_calls_at_once_share_the_runs(tmp_path):
    """No run is begun twice, and each tells of its own words."""
    cells = {(name,): Cell(read_config(CONFIG)) for name in "ab"}
    runs = plan(Grid("t", ("m",), cells, (Metric("Dice", "dice", "lgrnet", "toy"),)), tmp_path / "grid")
    fork, words = multiprocessing.get_context("fork"), [tmp_path / "0.txt", tmp_path / "1.txt"]
    calls = [fork.Process(target=call_grid, args=(runs, tmp_path / "grid", n, words[n])) for n in range(2)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    begun = [line for file in words for line in file.read_text().splitlines() if line.endswith("to train")]
    assert sorted(line.split()[1] for line in begun) == ["a/repeat_1,", "b/repeat_1,"]
    for one in runs:
        (said,) = (one.folder / "output.txt").read_text().splitlines()
        assert said == f"error: {one.failure()['reason']}"


ORPHAN = """
import os, signal, subprocess, sys
worker = (
    "import fcntl, pathlib, sys, time; folder = pathlib.Path(sys.argv[1]); file = open(folder / '.lock', 'a'); "
    "fcntl.lockf(file, fcntl.LOCK_EX); (folder / 'begun').touch(); time.sleep(2); (folder / 'ended').touch()"
)
subprocess.Popen([sys.executable, "-c", worker, sys.argv[1]], start_new_session=True)
while not os.path.exists(os.path.join(sys.argv[1], "begun")):
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_run_begins_beside_the_processes_of_one_whose_torchrun_was_killed(tmp_path, capsys):
    cells = {(name,): Cell(read_config(CONFIG)) for name in "ab"}
    runs = plan(Grid("t", ("m",), cells, (Metric("Dice", "dice", "lgrnet", "toy"),)), tmp_path / "grid")
    ended = []

    def command(one):
        if one is runs[1]:
            ended.append((runs[0].folder / "ended").exists())
            return [sys.executable, "-c", "pass"]
        return [sys.executable, "-c", ORPHAN, str(one.folder)]

    assert not run_all(runs, tmp_path / "grid", command)
    assert ended == [True] and runs[0].failure()["reason"] == "killed by signal 9"
    assert "[1/2] a/repeat_1: processes of it still run; waiting for their end" in capsys.readouterr().out
