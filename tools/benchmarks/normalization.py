"""Layer norm of tokens: the stages of PVTv2-B2 and LGRNet's encoder, two frames of 352 x 352 at a time."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F

from benchmarks.contest import OURS, Case, Op, Peer, Problem
from lgrnet.ops import layer_norm

SIZES = {  # tokens of a frame, channels
    "stage 1": (7744, 64),
    "stage 2": (1936, 128),
    "stage 3": (484, 320),
    "stage 4": (121, 512),
    "encoder": (2541, 64),
}


def cases(quick: bool) -> list[Case]:
    """Two frames, as many as LGRNet's inference takes at a time on a CPU."""
    sizes = {"small": (30, 20)} if quick else SIZES
    return [Case(name, {"frames": 2, "tokens": n, "channels": c}) for name, (n, c) in sizes.items()]


def problem(case: Case, device: str) -> Problem:
    """Normal numbers: tokens [2, N, C], weight and bias [C]."""
    frames, tokens, channels = case.sizes.values()
    generator = torch.Generator().manual_seed(0)
    shapes = ((frames, tokens, channels), (channels,), (channels,))
    return Problem(tuple(torch.randn(shape, generator=generator).to(device) for shape in shapes), _torch)


def _torch(x, weight, bias):
    return F.layer_norm(x, weight.shape, weight, bias)


@cache
def _compiled():
    return torch.compile(_torch, dynamic=False)


OP = Op(
    "normalization",
    cases,
    problem,
    (
        Peer(OURS, lambda problem: layer_norm),
        Peer("torch", lambda problem: _torch),
        Peer("compiled", lambda problem: lambda *inputs: _compiled()(*inputs), "a C++ compiler for torch.compile"),
    ),
    modes=("fwd",),
)
