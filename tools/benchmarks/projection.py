"""Linear layers of the sizes in LGRNet with PVTv2-B2 at 352 x 352, two frames at a time.

A call goes through `TURNS` inputs one after the other, each with weights of its own: as between the layers of a net,
the nearest caches hold none of them. "torch" is our reference, F.linear.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from benchmarks.contest import OURS, Case, Op, Peer, Problem
from lgrnet.ops import linear
from lgrnet.ops.projection.reference import linear_reference

TURNS = 8
SIZES = {  # tokens of a frame, channels in and out
    "stage 1: 64 to 64": (7744, 64, 64),
    "stage 2: 128 to 256": (1936, 128, 256),
    "stage 2: 256 to 128": (1936, 256, 128),
    "stage 3: 320 to 1024": (484, 320, 1024),
    "stage 3: 1024 to 320": (484, 1024, 320),
    "stage 4: 512 to 2048": (121, 512, 2048),
    "encoder: 64 to 1024": (2541, 64, 1024),
    "encoder: 1024 to 64": (2541, 1024, 64),
}


def cases(quick: bool) -> list[Case]:
    """Of the backbone's stages and the encoder's feed-forward blocks."""
    sizes = {"small": (30, 20, 10)} if quick else SIZES
    return [Case(name, dict(zip(("tokens", "inputs", "outputs"), s, strict=True))) for name, s in sizes.items()]


def problem(case: Case, device: str) -> Problem:
    """Normal numbers: tokens [TURNS, 2, N, C], weights [TURNS, D, C], biases [TURNS, D]."""
    tokens, inputs, outputs = case.sizes.values()
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, tokens, inputs), (outputs, inputs), (outputs,))
    drawn = tuple(torch.randn(TURNS, *shape, generator=generator).to(device) for shape in shapes)
    return Problem(drawn, _in_turns(_reference))


def _in_turns(one: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., list[Tensor]]:
    return lambda *inputs: [one(*each) for each in zip(*inputs, strict=True)]


def _reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return linear_reference(x, weight, bias, None, None)


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_reference, dynamic=False)


OP = Op(
    "projection",
    cases,
    problem,
    (
        Peer(OURS, lambda problem: _in_turns(linear)),
        Peer("torch", lambda problem: _in_turns(_reference)),
        Peer("compiled", lambda problem: _in_turns(_compiled()), "a C++ compiler for torch.compile"),
    ),
    modes=("fwd",),
)
