"""The whole model in inference: memory and speed against the length of a clip, and its replay from a CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks import model as whole_model
from benchmarks.clock import peak_bytes
from gpu_checks.check import SKIPPED, Check, Setup, attempt, bounded, milliseconds, told

LENGTHS, QUICK_LENGTHS = (6, 60, 300, 600, 1200), (2,)
CALLS = 6
"""Inferences of a length: to begin with, for its memory, and for its time, which begins with one, too."""
REPLAYED = {False: 1e-4, True: 1e-2}
"""Largest difference in fp32 and in bf16. A replay runs the same kernels, but libraries may choose others for it."""


def model(setup: Setup) -> nn.Module:
    """LGRNet as published with random weights, for inference."""
    return whole_model.build(setup.quick, "auto").eval().requires_grad_(False).to(setup.device)


def clip(setup: Setup, length: int) -> Tensor:
    """Random frames [1, T, 3, H, W], made on the device."""
    side = 64 if setup.quick else 352
    return torch.rand(1, length, 3, side, side, device=setup.device)


def _length(net: nn.Module, length: int, setup: Setup, rates: list[float]) -> Iterator[Check]:
    if rates and setup.left_s < CALLS * length / rates[-1]:
        yield Check(f"T = {length}", status=SKIPPED, note=f"no time left, at {rates[-1]:.0f} frames/s")
        return
    frames, device = clip(setup, length), torch.device(setup.device)
    outputs: list[Tensor] = []

    def infer() -> None:
        with torch.no_grad(), torch.autocast(setup.device, torch.bfloat16):
            outputs[:] = [net.infer(frames).mask_logits]

    infer()
    bad = int((~outputs[0].isfinite()).sum())
    outputs.clear()
    yield bounded(f"T = {length}: mask logits that are not finite", bad, 0)
    peak = peak_bytes(infer, device)
    if peak is not None:
        yield told(f"T = {length}: peak memory a frame", peak / 1e6 / length, "MB", f"{peak / 1e6:.0f} MB in all")
    time = milliseconds(infer, setup.device, 1 if setup.quick else 3)
    rates.append(1000 * length / time)
    yield told(f"T = {length}: speed in bf16", rates[-1], "frames/s", f"{time:.1f} ms")


def memory(setup: Setup) -> Iterator[Check]:
    """Longer and longer clips in bf16 autocast, as the predictor runs them: a few frames at a time."""
    net, rates = model(setup), []
    for length in QUICK_LENGTHS if setup.quick else LENGTHS:
        yield from attempt(f"T = {length}", lambda n=length: _length(net, n, setup, rates))


def _graph(net: nn.Module, half: bool, setup: Setup) -> Iterator[Check]:
    from lgrnet.inference.graphs import GraphedModel

    kind, length = "bf16" if half else "fp32", 2 if setup.quick else 6
    frames = clip(setup, length)
    with torch.no_grad(), torch.autocast(setup.device, torch.bfloat16, enabled=half):
        eager = milliseconds(lambda: net(frames), setup.device, 1 if setup.quick else 10)
        yield told(f"T = {length}, {kind}: eager", 1000 * length / eager, "frames/s", f"{eager:.2f} ms")
        if setup.device != "cuda":
            yield Check(f"T = {length}, {kind}: replayed", status=SKIPPED, note="a CUDA graph needs a GPU")
            return
        graphed = GraphedModel(net)
        graphed(clip(setup, length))  # recorded with other frames than it is asked for
        ours, theirs = graphed(frames).mask_logits.float(), net(frames).mask_logits.float()
        error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        yield bounded(f"T = {length}, {kind}: replay against eager", error, REPLAYED[half])
        replay = milliseconds(lambda: graphed(frames), setup.device, 30)
    yield told(f"T = {length}, {kind}: replayed", 1000 * length / replay, "frames/s", f"{replay:.2f} ms")
    yield told(f"T = {length}, {kind}: eager over replayed", eager / replay, "times")


def graph(setup: Setup) -> Iterator[Check]:
    """A training-sized clip, eager and replayed."""
    net = model(setup)
    for half in (False,) if setup.quick else (False, True):
        yield from attempt("CUDA graph", lambda h=half: _graph(net, h, setup))
