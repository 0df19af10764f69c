"""The middle of PVTv2's MLPs: depthwise 3x3 convolution, bias and GELU of the tokens of 352 x 352 frames.

Inputs: tokens [T, H * W, C], weight [C, 1, 3, 3], bias [C], of the hidden layer of each stage of PVTv2-B2. "as timm" is
our reference. With bf16 everything is in bf16.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contest import OURS, Case, Op, Peer, Problem
from lgrnet.ops import depthwise_gelu
from lgrnet.ops.depthwise.reference import depthwise_gelu_reference

STAGES = {"stage 1": (88, 512), "stage 2": (44, 1024), "stage 3": (22, 1280), "stage 4": (11, 2048)}


def cases(quick: bool) -> list[Case]:
    """Frames, the side of the map and the hidden channels of every stage; one frame alone leaves a GPU idle."""
    if quick:
        return [Case("small", {"frames": 1, "side": 5, "channels": 20})]
    sizes = {name: {"side": side, "channels": channels} for name, (side, channels) in STAGES.items()}
    one = [Case(name, {"frames": 1, **size}) for name, size in sizes.items()]
    return one + [Case(f"{name} T=6", {"frames": 6, **size}, full=False) for name, size in sizes.items()]


def problem(case: Case, device: str) -> Problem:
    """Normal tokens, and weights that keep their size."""
    frames, side, channels = (case.sizes[key] for key in ("frames", "side", "channels"))
    generator = torch.Generator().manual_seed(0)
    shapes = ((frames, side * side, channels), (channels, 1, 3, 3), (channels,))
    x, weight, bias = (torch.randn(shape, generator=generator).to(device) for shape in shapes)
    shape = (side, side)
    return Problem((x, weight / 3, bias), lambda *inputs: depthwise_gelu_reference(*inputs, shape), {"shape": shape})


def _with(function: Callable[..., Tensor]) -> Callable[[Problem], Callable[..., Tensor]]:
    return lambda problem: lambda *inputs: function(*inputs, problem.fixed["shape"])


def _channels_last(x: Tensor, weight: Tensor, bias: Tensor, shape: tuple[int, int]) -> Tensor:
    """Tokens are a map whose channels come last: without a copy, for a convolution that takes it so."""
    maps = x.unflatten(1, shape).permute(0, 3, 1, 2)
    weight = weight.contiguous(memory_format=torch.channels_last)
    return F.gelu(F.conv2d(maps, weight, bias, padding=1, groups=x.shape[2]).permute(0, 2, 3, 1).flatten(1, 2))


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(depthwise_gelu_reference, dynamic=False)


OP = Op(
    "depthwise",
    cases,
    problem,
    (
        Peer(OURS, _with(depthwise_gelu)),
        Peer("as timm", _with(depthwise_gelu_reference)),
        Peer("channels_last", _with(_channels_last)),
        Peer("compiled", _with(lambda *inputs: _compiled()(*inputs)), "a C++ compiler for torch.compile"),
    ),
)
