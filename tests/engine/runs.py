"""Helpers of the engine's tests: a data set on disk, runs of the toy config, processes that talk over gloo."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lgrnet import distributed
from lgrnet.checkpoint.checkpointer import Checkpointer
from lgrnet.config import load_config
from lgrnet.engine.run import CHECKPOINTS, train
from lgrnet.records import write_frame, write_mask

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("toy_config.py")
PHANTOM = ROOT / "configs" / "demo" / "phantom.py"


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


def run(folder: Path, data: Path, *overrides: str, resume: bool = False, file: Path = CONFIG) -> int:
    """Trains the toy config (or another) as this process, or as this one of several."""
    config = load_config(file, [f"data.root={data}", *overrides])
    with distributed.init("cpu") as context:
        return train(config, folder, context, resume)


def run_phantom(folder: Path, data: Path, *overrides: str, resume: bool = False) -> int:
    """Trains the real model and loss of the demo's config at a size that costs little."""
    small = ["data.size=[32,32]", "train.workers=0", "train.eval_first=false", "train.eval_last=false"]
    small += ["schedule.total_steps=40", "schedule.warmup_steps=2", "criterion.num_points=128", "train.sizes=[32,64]"]
    return run(folder, data, *small, *overrides, resume=resume, file=PHANTOM)


def resume(folder: Path, data: Path, *overrides: str) -> int:
    """Resumes the toy config."""
    return run(folder, data, *overrides, resume=True)


def start(function: Callable[..., Any], *args: Any, world: int = 1, daemon: bool = True) -> list[BaseProcess]:
    """Starts `function(*args)` in `world` processes, described to each other as torchrun does it.

    They come from a server that has imported everything once, so each starts at once. `daemon` must be False for
    what starts loader workers of its own.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.engine.runs", "tests.engine.toy", "torch._dynamo"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if world > 1 else {}
    places = [{**shared, "RANK": rank, "LOCAL_RANK": rank} if world > 1 else {} for rank in range(world)]
    processes = [context.Process(target=_enter, args=(place, function, args), daemon=daemon) for place in places]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[BaseProcess], timeout: float = 60) -> list[int]:
    """Exit statuses; all are killed when they take too long."""
    end = time.monotonic() + timeout
    for process in processes:
        process.join(max(0, end - time.monotonic()))
    return kill(processes)


def kill(processes: list[BaseProcess]) -> list[int]:
    """Exit statuses after a SIGKILL to whatever still runs."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def wait_for_checkpoint(folder: Path, step: int, processes: list[BaseProcess], timeout: float = 60) -> None:
    """Returns when a checkpoint of `step` or later is there, or a process has ended, or time is up."""
    keeper, end = Checkpointer(folder / CHECKPOINTS), time.monotonic() + timeout
    while not any(checkpoint.step >= step for checkpoint in keeper.all()):
        if time.monotonic() > end or not all(process.is_alive() for process in processes):
            return
        time.sleep(0.005)


def _enter(place: dict[str, int], function: Callable[..., Any], args: tuple) -> None:
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(1)
    function(*args)


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
