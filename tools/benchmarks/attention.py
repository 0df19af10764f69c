"""Multi-head attention: PVTv2-B2's four stages and LGRNet's tokens and frame queries, at 352 x 352.

Inputs: q [T, N, C] and k, v [T, M, C], two halves of one projection. "SDPA" is our reference, torch's fused attention,
which timm calls; "explicit softmax" is how segmentation-models-pytorch has it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from benchmarks.contest import OURS, Case, Op, Peer, Problem
from lgrnet.ops import multi_head_attention
from lgrnet.ops.attention.reference import multi_head_attention_reference

SIZES = {  # queries, keys, heads, channels of a head
    "stage 1": (7744, 121, 1, 64),
    "stage 2": (1936, 121, 2, 64),
    "stage 3": (484, 121, 5, 64),
    "stage 4": (121, 121, 8, 64),
    "tokens to queries": (2541, 20, 8, 8),
    "queries to tokens": (20, 2541, 8, 8),
}


def cases(quick: bool) -> list[Case]:
    """Two frames, as many as LGRNet's inference takes at a time on a CPU."""
    if quick:
        return [Case("small", {"frames": 2, "queries": 30, "keys": 7, "heads": 2, "channels": 8})]
    names = ("queries", "keys", "heads", "channels")
    return [Case(name, {"frames": 2, **dict(zip(names, sizes, strict=True))}) for name, sizes in SIZES.items()]


def problem(case: Case, device: str) -> Problem:
    """Normal numbers."""
    frames, queries, keys, heads, channels = case.sizes.values()
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(frames, queries, heads * channels, generator=generator).to(device)
    kv = torch.randn(frames, keys, 2 * heads * channels, generator=generator).to(device)
    return Problem((q, kv), _with(multi_head_attention_reference, heads), {"heads": heads})


def _with(function: Callable[..., Tensor], heads: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda q, kv: function(q, *kv.chunk(2, -1), heads)


def _peer(function: Callable[..., Tensor]) -> Callable[[Problem], Callable[..., Tensor]]:
    return lambda problem: _with(function, problem.fixed["heads"])


def _explicit(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_explicit, dynamic=False)


OP = Op(
    "attention",
    cases,
    problem,
    (
        Peer(OURS, _peer(multi_head_attention)),
        Peer("SDPA", _peer(multi_head_attention_reference)),
        Peer("explicit softmax", _peer(_explicit)),
        Peer("compiled", _peer(lambda *inputs: _compiled()(*inputs)), "a C++ compiler for torch.compile"),
    ),
    modes=("fwd",),
)
