"""The golden tensors of the published LGRNet (tests/golden), in fp32 without TF32 and in bf16."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from gpu_checks.check import Check, Setup, attempt, bounded

ROOT = Path(__file__).resolve().parents[2]
CASES = ("sunseg_pvt_B1T1_64x64", "sunseg_pvt_B1T6_64x64", "fibroid_pvt_B1T6_96x128", "sunseg_res_B1T4_64x96")
EARLY = "before the decoder"
FP32 = {EARLY: 1e-4, "decoder": 1e-3, "bits": 1e-3}
"""Largest difference relative to a tensor's largest value (on a CPU 8e-6), and the share of mask bits that differ:
from the first bit on that rounding flips, everything after it moves."""
BF16 = {EARLY: 0.06, "decoder": 0.2, "bits": 0.06}
"""In the L2 norm; twice what autocast on a CPU gives (0.027, 0.097, 0.025)."""
FEW = 4
"""Bits of a mask that may flip in bf16 and not count: the smallest mask has 40 in all."""


def _reader() -> ModuleType:
    """tests/models/golden.py, which makes the model with its weights and gives tensors by their golden names."""
    spec = importlib.util.spec_from_file_location("lgrnet_golden", ROOT / "tests/models/golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _error(ours: Tensor, theirs: Tensor, half: bool) -> float:
    if theirs.dtype == torch.bool:
        flipped = int((ours != theirs).sum()) - (FEW if half else 0)
        return max(flipped, 0) / theirs.numel()
    difference, theirs = ours.double() - theirs.double(), theirs.double()
    size = torch.linalg.vector_norm if half else lambda t: t.abs().max()
    return (size(difference) / size(theirs).clamp(min=1e-12)).item()


def _case(name: str, half: bool, device: str) -> Iterator[Check]:
    """The worst tensor of each part."""
    golden = _reader()
    expected = torch.load(golden.FOLDER / "lgrnet" / f"case_{name}.pt", weights_only=True, map_location=device)
    model = golden.golden_model(expected["meta"]["config"]).to(device)
    frames = golden.frames_of(expected).to(device)
    worst: dict[str, tuple[float, str]] = {}
    count = 0
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=half):
        pairs = list(golden.pairs(model, frames, expected))
    for tensor, ours, theirs in pairs:
        part = "bits" if theirs.dtype == torch.bool else "decoder" if tensor.startswith(("dec", "sample")) else EARLY
        error = _error(ours, theirs, half)
        count += 1
        if not error <= worst.get(part, (-1.0, ""))[0]:
            worst[part] = (error, tensor)
    limits, kind = (BF16, "bf16") if half else (FP32, "fp32")
    for part, (error, tensor) in worst.items():
        yield bounded(f"{name}, {kind}: {part}", error, limits[part], note=f"worst of {count}: {tensor}")


def run(setup: Setup) -> Iterator[Check]:
    """Every golden case in both types; in a quick run the smallest one in fp32."""
    for name in CASES[:1] if setup.quick else CASES:
        for half in (False,) if setup.quick else (False, True):
            yield from attempt(
                f"{name}, {'bf16' if half else 'fp32'}", lambda n=name, h=half: _case(n, h, setup.device)
            )
