"""The scan over long sequences: streamed in chunks against one shot, a hundred thousand tokens, extreme numbers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.clock import peak_bytes
from gpu_checks.check import Check, Setup, attempt, bounded, told
from gpu_checks.ops import backend, orders, scan_inputs
from lgrnet.ops import selective_scan

STREAMED = 1e-5
"""Chunks against one shot, relative to the largest value."""
OF_TOKENS = 4
"""The first four inputs of the scan have a place for every token."""


def _relative(found: Tensor, expected: Tensor) -> float:
    difference = (found.double() - expected.double()).abs().max()
    return (difference / expected.double().abs().max().clamp(min=1e-30)).item()


def _along(inputs: tuple[Tensor, ...], start: int, stop: int) -> tuple[list[Tensor], Tensor]:
    """Tokens start .. stop - 1 of a scan from the first token to the last, and their order."""
    part = [t[:, start:stop] for t in inputs[:OF_TOKENS]] + list(inputs[OF_TOKENS:])
    return part, torch.arange(stop - start, dtype=torch.int32, device=inputs[0].device)[None]


def _streamed(length: int, chunk: int, setup: Setup) -> Iterator[Check]:
    inputs = tuple(t.to(setup.device) for t in scan_inputs(1, length, 128, 16, 4, 1))
    everything, order = _along(inputs, 0, length)
    whole, last = selective_scan(*everything, order, None, True, backend=backend(setup))
    parts, state = [], None
    for start in range(0, length, chunk):
        part, order = _along(inputs, start, min(start + chunk, length))
        y, state = selective_scan(*part, order, state, True, backend=backend(setup))
        parts.append(y)
    name = f"L = {length} in chunks of {chunk}"
    yield bounded(f"{name}: values", _relative(torch.cat(parts, 1), whole), STREAMED)
    yield bounded(f"{name}: last state", _relative(state, last), STREAMED)


def _long(length: int, setup: Setup) -> Iterator[Check]:
    """Both directions of the curve, a backward pass, and the memory of both."""
    inputs = [t.to(setup.device).requires_grad_() for t in scan_inputs(1, length, 128, 16, 4, 2)]
    order, device = orders(length, 2).to(setup.device), torch.device(setup.device)
    results: list[Tensor] = []

    def forward() -> None:
        with torch.no_grad():
            results[:] = [selective_scan(*inputs, order, backend=backend(setup))]

    def both() -> None:
        y = selective_scan(*inputs, order, backend=backend(setup))
        results[:] = [y.detach(), *torch.autograd.grad(y.square().mean(), inputs)]

    for name, work in (("forward", forward), ("forward and backward", both)):
        work()
        peak = peak_bytes(work, device)
        bad = sum(int((~t.isfinite()).sum()) for t in results)
        yield bounded(f"L = {length}, {name}: numbers that are not finite", bad, 0)
        if peak is not None:
            yield told(f"L = {length}, {name}: memory", peak / 1e6, "MB")


def _extreme(bias: float, setup: Setup) -> Iterator[Check]:
    """Time steps near zero and huge ones, against float64."""
    x, *others = (t.to(setup.device) for t in scan_inputs(1, 300, 16, 16, 4, 2))
    x = x * min(1.0, 1 / abs(bias))
    others[4] = torch.full_like(others[4], bias)
    order = orders(300, 2).to(setup.device)
    found = selective_scan(x, *others, order, backend=backend(setup))
    exact = selective_scan(x.double(), *(t.double() for t in others), order, backend="reference")
    yield bounded(f"dt_bias {bias:g}", _relative(found, exact), STREAMED)


def _marked(setup: Setup) -> Iterator[Check]:
    """NaN in one channel of one token reaches this channel from there on, and nothing else."""
    inputs = [t.to(setup.device) for t in scan_inputs(1, 300, 16, 16, 4, 1)]
    inputs[0][0, 150, 3] = float("nan")
    part, order = _along(tuple(inputs), 0, 300)
    y = selective_scan(*part, order, backend=backend(setup)).isnan()
    wanted = torch.zeros_like(y)
    wanted[0, 150:, 3] = True
    yield bounded("NaN in one channel: places that differ from the rule", int((y != wanted).sum()), 0)


def run(setup: Setup) -> Iterator[Check]:
    """Lengths of a quick run are those that a CPU does in a moment."""
    streams = ((400, 150),) if setup.quick else ((1200, 500), (6000, 1024), (100_000, 12_500))
    for length, chunk in streams:
        yield from attempt(f"L = {length} in chunks", lambda n=length, c=chunk: _streamed(n, c, setup))
    for length in (400,) if setup.quick else (6000, 100_000):
        yield from attempt(f"L = {length}", lambda n=length: _long(n, setup))
    for bias in (-20.0, 40.0, 1e30):
        yield from attempt(f"dt_bias {bias:g}", lambda b=bias: _extreme(b, setup))
    yield from attempt("NaN", lambda: _marked(setup))
