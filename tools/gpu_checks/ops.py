"""Every kernel of the ops against the reference in float64, forward and backward, at real and odd sizes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks import deform
from benchmarks.runner import DTYPES, error_of, work_of
from gpu_checks.check import FAILED, Check, Setup, attempt, bounded
from lgrnet.layers.deformable import token_centres
from lgrnet.layers.hilbert import hilbert_order
from lgrnet.ops import cpu, depthwise_gelu, ms_deform_attn, neighborhood_attention, selective_scan

PYRAMID, ODD = ((11, 11), (22, 22), (44, 44)), ((3, 4), (5, 6), (9, 7))
VALUE = {"fp32": 1e-5, "bf16": 1e-2}
GRADIENT = {"fp32": 1e-4, "bf16": 2e-2}
"""Errors against float64, of values relative to the largest one, of gradients in the L2 norm."""
DEFORM_VALUE = {"fp32": 1e-4, "bf16": 2e-2}
"""A place is a sum of numbers up to the width of the map: in float32 it is known to 1e-6 pixels."""


@dataclass(frozen=True)
class Case:
    """A problem of an op: call(backend, *inputs) -> outputs, in the type of the inputs."""

    name: str
    inputs: tuple[Tensor, ...]
    call: Callable[..., tuple[Tensor, ...]]


def backend(setup: Setup) -> str:
    """What is checked: Triton's kernels on a GPU, the compiled ones on a CPU where they are."""
    if setup.device == "cuda":
        return "triton"
    return "cpu" if cpu.missing() is None else "reference"


def normal(seed: int, *shape: int) -> Tensor:
    """Normal numbers, the same on every machine."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scan_inputs(clips: int, length: int, dim: int, states: int, rank: int, directions: int) -> tuple[Tensor, ...]:
    """x, dt, B, C, dt_weight, dt_bias, A and skip of `selective_scan`, as at the start of a training."""
    uniform = torch.rand(directions, dim, generator=torch.Generator().manual_seed(9))
    return (
        normal(0, clips, length, dim),
        normal(1, clips, length, directions, rank),
        normal(2, clips, length, directions, states),
        normal(3, clips, length, directions, states),
        normal(4, directions, dim, rank) * rank**-0.5,
        4 * uniform - 6,
        -torch.arange(1.0, states + 1).expand(directions, dim, -1) * (1 + 0.1 * uniform[..., None]),
        normal(5, directions, dim),
    )


def orders(length: int, directions: int) -> Tensor:
    """The Hilbert curve and its reverse in turns, over frames of 20 queries where the length has whole ones."""
    queries = 20 if length % 20 == 0 else 1
    curve = torch.from_numpy(hilbert_order(length // queries, queries).copy())
    return torch.stack([curve if g % 2 == 0 else curve.flip(0) for g in range(directions)])


SCANS = {
    # clips, tokens, channels, states, rank, directions, whether a state is given and returned
    "T=6 as in LGRNet": (1, 120, 128, 16, 4, 2, False),
    "four clips, four directions": (4, 120, 128, 16, 4, 4, False),
    "T=60, in chunks": (1, 1200, 128, 16, 4, 2, True),
    "T=60, four directions": (2, 1200, 128, 16, 4, 4, False),
}
ODD_SCANS = {
    "one token": (2, 1, 128, 16, 4, 2, True),
    "odd sizes, three directions": (2, 67, 100, 13, 9, 3, True),
    "one token more than a short sequence": (1, 257, 72, 16, 4, 2, True),
    "odd sizes in chunks": (1, 777, 37, 20, 3, 1, True),
    "rank above what is projected inside": (1, 300, 40, 8, 17, 2, False),
    "many states": (1, 40, 24, 64, 4, 2, False),
    "one state, one channel": (1, 33, 1, 1, 1, 1, True),
}
QUICK_SCANS = {"odd sizes": (2, 9, 6, 5, 3, 2, True)}
QUICK_ODD_SCANS = {"one token": (1, 1, 4, 2, 1, 1, False)}


def scan_cases(setup: Setup) -> Iterator[Case]:
    """The scan."""
    return _scan_cases(QUICK_SCANS if setup.quick else SCANS, setup)


def odd_scan_cases(setup: Setup) -> Iterator[Case]:
    """The scan of other sizes: each has kernels of its own, which take more than a second to compile."""
    return _scan_cases(QUICK_ODD_SCANS if setup.quick else ODD_SCANS, setup)


def _scan_cases(scans: Mapping[str, tuple], setup: Setup) -> Iterator[Case]:
    for name, (*sizes, with_state) in scans.items():
        clips, length, dim, states, _, directions = sizes
        inputs = scan_inputs(*sizes)
        if with_state:
            inputs += (normal(6, clips, directions, dim, states),)
        order = orders(length, directions).to(setup.device)

        def call(backend, *given, order=order, with_state=with_state):
            state = given[8].float() if with_state and given[0].dtype != torch.float64 else (*given, None)[8]
            result = selective_scan(*given[:8], order, state, with_state, backend=backend)
            return result if with_state else (result,)

        yield Case(name, tuple(t.to(setup.device) for t in inputs), call)


NEIGHBORHOODS = {
    # frames, heads, channels of a head, window, dilation, shift, levels
    "T=6 as in LGRNet": (6, 8, 8, 5, 1, 1, PYRAMID),
    "dilated, as for fibroids": (6, 8, 8, 5, 2, 1, PYRAMID),
    "one frame": (1, 8, 8, 5, 1, 1, PYRAMID),
    "levels below the window": (3, 8, 8, 5, 1, 1, ODD),
    "wide window, same frame": (2, 4, 32, 7, 1, 0, PYRAMID),
    "odd heads, dilated, two frames back": (5, 3, 20, 3, 2, 2, ODD),
    "one head, tiny levels": (2, 1, 5, 3, 1, 1, ((1, 1), (2, 9))),
}


def neighborhood_cases(setup: Setup) -> Iterator[Case]:
    """Neighborhood attention."""
    names = ("levels below the window", "one head, tiny levels") if setup.quick else NEIGHBORHOODS
    for name in names:
        frames, heads, dim, window, dilation, shift, shapes = NEIGHBORHOODS[name]
        tokens = sum(h * w for h, w in shapes)
        q, k, v = (normal(i, 1, frames, tokens, heads, dim).to(setup.device) for i in range(3))

        def call(backend, *qkv, settings=(shapes, window, dilation, shift)):
            return (neighborhood_attention(*qkv, *settings, backend=backend),)

        yield Case(name, (q * dim**-0.5, k, v), call)


DEFORMS = {
    # clips, heads, channels of a head, points, spread of the offsets in pixels, levels
    "T=6 as in LGRNet": (6, 8, 8, 4, 2.0, PYRAMID),
    "offsets all over the map": (2, 8, 8, 4, 20.0, PYRAMID),
    "wide heads": (2, 8, 32, 4, 2.0, PYRAMID),
    "odd sizes": (3, 3, 20, 3, 2.0, ODD),
    "one head, one point": (1, 1, 5, 1, 1.0, ((1, 1), (2, 9))),
}


def deform_cases(setup: Setup) -> Iterator[Case]:
    """Deformable attention."""
    names = ("odd sizes", "one head, one point") if setup.quick else DEFORMS
    for name in names:
        clips, heads, dim, points, spread, shapes = DEFORMS[name]
        tokens, levels = sum(h * w for h, w in shapes), len(shapes)
        centres = token_centres(shapes, setup.device)[None, :, None].expand(-1, -1, levels, -1)
        offsets = spread * normal(1, clips, tokens, heads, levels, points, 2).to(setup.device)
        inputs = (
            normal(0, clips, tokens, heads, dim),
            deform.clear(offsets, centres, shapes),
            normal(2, clips, tokens, heads, levels * points),
        )

        def call(backend, *given, centres=centres, shapes=shapes):
            # In float32 whatever the others are, as the layer gives them.
            return (ms_deform_attn(*given, centres, shapes, backend=backend),)

        yield Case(name, tuple(t.to(setup.device) for t in inputs), call)


DEPTHWISES = {
    # images, height, width, channels, whether weight and bias stay in float32
    "stage 1 of PVTv2-B2, T=6": (6, 88, 88, 512, False),
    "stage 2 of PVTv2-B2, T=6": (6, 44, 44, 1024, False),
    "stage 3 of PVTv2-B2, T=6": (6, 22, 22, 1280, False),
    "stage 4 of PVTv2-B2, T=6": (6, 11, 11, 2048, False),
    "weights in float32, as under autocast": (6, 44, 44, 1024, True),
    "odd sizes": (3, 9, 7, 70, False),
    "one row": (2, 1, 33, 20, False),
    "one column": (2, 33, 1, 130, True),
    "one token": (2, 1, 1, 3, False),
}


def depthwise_cases(setup: Setup) -> Iterator[Case]:
    """Depthwise convolution and GELU."""
    names = ("odd sizes", "one column") if setup.quick else DEPTHWISES
    for name in names:
        images, height, width, channels, full = DEPTHWISES[name]
        shapes = ((images, height * width, channels), (channels, 1, 3, 3), (channels,))
        x, weight, bias = (normal(i, *shape).to(setup.device) for i, shape in enumerate(shapes))

        def call(backend, x, weight, bias, shape=(height, width), full=full):
            if full:
                weight, bias = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (weight, bias))
            return (depthwise_gelu(x, weight, bias, shape, backend=backend),)

        yield Case(name, (x, weight / 3, bias), call)


def _compared(case: Case, dtype: str, setup: Setup, value: float, gradient: float) -> Iterable[Check]:
    """Values and gradients against float64 on the same rounded inputs, and the same bits in a second call."""
    name = f"{case.name}, {dtype}"
    inputs = [t.to(DTYPES[dtype]) for t in case.inputs]
    truth = work_of(lambda *x: case.call("reference", *x), [t.double() for t in inputs], "fwdbwd")()
    work = work_of(lambda *x: case.call(backend(setup), *x), inputs, "fwdbwd")
    found, values = work(), len(truth) - len(inputs)
    yield bounded(f"{name}: values", error_of(found[:values], truth[:values], values), value)
    yield bounded(f"{name}: gradients", error_of(found[values:], truth[values:], 0), gradient)
    apart = sum(not torch.equal(a, b) for a, b in zip(found, work(), strict=True))
    yield bounded(f"{name}: tensors that differ in a second call", apart, 0)


def section(cases: Callable[[Setup], Iterator[Case]], value=VALUE, gradient=GRADIENT):
    """A section's `run` over an op's cases in fp32 and bf16."""

    def run(setup: Setup) -> Iterator[Check]:
        longest = 0.0
        for case in cases(setup):
            for dtype in DTYPES:
                if (begun := time.monotonic()) + longest > setup.deadline:
                    yield Check(f"{case.name}, {dtype}", status=FAILED, note="not checked: no time was left")
                    continue
                limits = (value[dtype], gradient[dtype])
                yield from attempt(
                    f"{case.name}, {dtype}", lambda c=case, d=dtype, e=limits: _compared(c, d, setup, *e)
                )
                longest = max(longest, time.monotonic() - begun)

    return run
