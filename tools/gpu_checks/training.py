"""A training step of the trainer: time, memory, how often the host waits, and that it learns."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch

from benchmarks import model as whole_model
from benchmarks.clock import peak_bytes
from gpu_checks.check import SKIPPED, Check, Setup, attempt, bounded, milliseconds, told
from lgrnet.engine.optim import adamw, constant
from lgrnet.engine.settings import TrainSettings
from lgrnet.engine.trainer import Trainer
from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.structures import ClipBatch, ClipInfo, Targets

WAITS = 2
"""Copies to the host in a step with one object in each clip: the criterion's facts, the trainer's losses."""


class _Clips:
    """What a trainer asks of a loader; the clips are given to it one step at a time."""

    dataset = (None,)


def batch(clips: int, length: int, side: int, device: str) -> ClipBatch:
    """Noise with a brighter square that is to be found."""
    generator = torch.Generator().manual_seed(0)
    frames = 0.5 * torch.rand(clips, length, 3, side, side, generator=generator)
    masks = torch.zeros(clips, 1, length, side, side)
    masks[..., side // 4 : side // 2, side // 4 : side // 2] = 1
    frames += 0.5 * masks.transpose(1, 2)
    valid = torch.ones(length, side, side, dtype=torch.bool)
    targets = tuple(Targets(torch.zeros(1, dtype=torch.int64), mask, valid, valid[:, 0, 0]) for mask in masks)
    names = tuple(map(str, range(length)))
    infos = tuple(ClipInfo(str(i), names, (side, side), (length, side, side), i) for i in range(clips))
    return ClipBatch(frames, targets, infos).to(device)


def _trainer(setup: Setup, precision: str, points: int) -> Trainer:
    net = whole_model.build(setup.quick, "auto").to(setup.device)
    optimizer = adamw(net, lr=3e-4)
    settings = TrainSettings(steps=1000, batch_size=1, save_every=1000, sizes=(), precision=precision)
    criterion = SetCriterion(num_points=points)
    return Trainer(net, criterion, optimizer, constant(optimizer), _Clips(), settings, setup.device)


def _waits(step) -> list[str]:
    """What torch says about each wait for the GPU in a step."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    return [f"{w.filename.rsplit('/', 1)[-1]}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]


def _steps(precision: str, setup: Setup) -> Iterator[Check]:
    clips, length, side = (1, 2, 64) if setup.quick else (4, 6, 352)
    trainer, given = _trainer(setup, precision, 64 if setup.quick else 12544), batch(clips, length, side, setup.device)
    name = f"{clips} clips of {length} frames, {precision}"
    records = []

    def step() -> None:
        records.append(trainer.train_step(given))

    step()
    peak = peak_bytes(step, torch.device(setup.device))
    if setup.device == "cuda":
        places = _waits(step)
        yield bounded(f"{name}: waits for the GPU in a step", len(places), WAITS, note=", ".join(places))
        fused = all(group["fused"] for group in trainer.optimizer.param_groups)
        yield bounded(f"{name}: optimizer is not fused", 1 - fused, 0)
    else:
        yield Check(f"{name}: waits for the GPU in a step", status=SKIPPED, note="torch counts them on a GPU only")
    time = milliseconds(step, setup.device, 1 if setup.quick else 10)
    yield told(f"{name}: a step", time, "ms", f"{1000 * clips * length / time:.1f} frames/s")
    if peak is not None:
        yield told(f"{name}: peak memory of a step", peak / 1e6, "MB")
    while len(records) < (4 if setup.quick else 40):
        step()
    yield bounded(f"{name}: skipped steps", sum(r.skipped for r in records), 0)
    first, last = records[0].total, records[-1].total
    yield bounded(
        f"{name}: loss after {len(records)} steps over the first", last / first, 1.0, note=f"{first:.2f}, {last:.2f}"
    )


def run(setup: Setup) -> Iterator[Check]:
    """In bf16 autocast, and in fp32; a CPU does the second in a moment."""
    for precision in ("fp32",) if setup.quick else ("bf16", "fp32"):
        yield from attempt(f"training in {precision}", lambda p=precision: _steps(p, setup))
