"""Helpers of the engine's tests: a data set on disk, runs of the toy config, processes that talk over gloo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from lgrnet import distributed
from lgrnet.checkpoint.checkpointer import Checkpointer
from lgrnet.config import load_config
from lgrnet.engine.run import CHECKPOINTS, train
from lgrnet.records import write_frame, write_mask

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("toy_config.py")


def write_videos(root: Path, names: str = "ab", frames: int = 3) -> Path:
    """Videos of noise with a bright rectangle, one of them without lesion in its last frame, in the one layout."""
    rng = np.random.default_rng(0)
    for name in names:
        for index in range(frames):
            mask = np.zeros((20, 24), bool)
            mask[5:12, 4:15] = name == names[0] or index < frames - 1
            picture = rng.random((20, 24, 3)) * 128 + mask[..., None] * 120
            write_frame(root / "Frame" / name / f"{index}.png", picture.astype(np.uint8))
            write_mask(root / "GT" / name / f"{index}.png", mask)
    return root


def run(folder: Path, data: Path, *overrides: str, resume: bool = False) -> int:
    """Trains the toy config in this process."""
    config = load_config(CONFIG, [f"data.root={data}", *overrides])
    return train(config, folder, distributed.init("cpu"), resume)


def command(mode: str, folder: Path, data: Path, *overrides: str) -> list[str]:
    """The command line that does the same."""
    start = [sys.executable, str(ROOT / "main.py"), "--config_file", str(CONFIG), "--trainer_mode", mode]
    return [*start, "--out_dir", str(folder), f"data.root={data}", "train.device=cpu", *overrides]


def start_processes(command: list[str], world: int = 1) -> list[subprocess.Popen]:
    """Starts a command `world` times, described to each other as torchrun does it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(world):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        if world > 1:
            place = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
            env |= {name: str(value) for name, value in {**place, "MASTER_PORT": port}.items()}
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True, cwd=ROOT))
    return started


def finish(processes: list[subprocess.Popen], timeout: float = 60) -> list[tuple[int, str, str]]:
    """(exit status, stdout, stderr) of each, all killed when they take too long."""
    try:
        results = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, results, strict=True)]


def kill_when_saved(processes: list[subprocess.Popen], folder: Path, step: int, timeout: float = 60) -> None:
    """Kills all of them with SIGKILL as soon as a checkpoint of `step` or later is there."""
    keeper, end = Checkpointer(folder / CHECKPOINTS), time.monotonic() + timeout
    while not any(checkpoint.step >= step for checkpoint in keeper.all()):
        if time.monotonic() > end or any(process.poll() is not None for process in processes):
            break
        time.sleep(0.005)
    for process in processes:
        process.kill()
    for process in processes:
        process.communicate()


def log_text(folder: Path) -> str:
    """The run's log as it stands."""
    return (folder / "log.jsonl").read_text()


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and training state of the newest checkpoint, by name."""
    checkpoint = Checkpointer(folder / CHECKPOINTS).latest()
    moments = checkpoint.state()["optimizer"]["state"]
    flat = {f"{number}.{name}": value for number, entry in moments.items() for name, value in entry.items()}
    return {**checkpoint.weights(), **flat}


def same_run(one: Path, other: Path) -> bool:
    """Whether two runs have byte-equal logs and bit-equal weights and moments."""
    first, second = last_weights(one), last_weights(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert different == []
    assert log_text(one) == log_text(other)
    return True
