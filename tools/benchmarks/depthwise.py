"""The middle of PVTv2's MLPs: depthwise 3x3 convolution, bias and GELU of the tokens of one 352 x 352 frame.

Inputs: tokens [1, H * W, C], weight [C, 1, 3, 3], bias [C], of the hidden layer of each stage of PVTv2-B2.
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
    """The side of the map and the hidden channels of every stage."""
    if quick:
        return [Case("small", {"side": 5, "channels": 20})]
    return [Case(name, {"side": side, "channels": channels}) for name, (side, channels) in STAGES.items()]


def problem(case: Case, device: str) -> Problem:
    """Normal tokens, and weights that keep their size."""
    side, channels = case.sizes["side"], case.sizes["channels"]
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, side * side, channels), (channels, 1, 3, 3), (channels,))
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
