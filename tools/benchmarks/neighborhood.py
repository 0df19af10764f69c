"""Cyclic neighborhood attention over three levels: q, k, v [1, T, S, 8, 8] of a 352 x 352 clip, window 5."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contest import OURS, Case, Op, Peer, Problem, only_on
from lgrnet.ops import neighborhood_attention
from lgrnet.ops.neighborhood.reference import neighborhood_attention_reference, window_indices, window_starts

HEADS, CHANNELS, WINDOW = 8, 8, 5
SHAPES, SMALL = ((11, 11), (22, 22), (44, 44)), ((5, 5), (6, 7))
Shape = tuple[int, int]


def cases(quick: bool) -> list[Case]:
    """A training clip, and a longer one; the longest only on request."""
    frames = (2,) if quick else (6, 24, 60)
    return [Case(f"T={n}", {"frames": n, "small": int(quick)}, n, full=n <= 24) for n in frames]


def problem(case: Case, device: str) -> Problem:
    """Normal values; q is scaled."""
    shapes = SMALL if case.sizes["small"] else SHAPES
    tokens = sum(h * w for h, w in shapes)
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, case.sizes["frames"], tokens, HEADS, CHANNELS, generator=generator).to(device)
    fixed = {"shapes": shapes}
    return Problem((q * CHANNELS**-0.5, k, v), _op(shapes, "reference"), fixed)


def _op(shapes: tuple[Shape, ...], backend: str) -> Callable[..., Tensor]:
    return lambda q, k, v: neighborhood_attention(q, k, v, shapes, WINDOW, backend=backend)


def _by_level(attend: Callable[[Tensor, Tensor, Tensor, Shape], Tensor]) -> Callable[[Problem], Callable[..., Tensor]]:
    """Keys of the frame before by a roll, and one call of `attend` for each level, [B, T, h * w, heads, d] each."""

    def build(problem: Problem) -> Callable[..., Tensor]:
        shapes = problem.fixed["shapes"]
        sizes = [h * w for h, w in shapes]

        def call(q, k, v):
            k, v = (t.roll(1, dims=1) for t in (k, v))
            levels = zip(*(t.split(sizes, dim=2) for t in (q, k, v)), shapes, strict=True)
            return torch.cat([attend(*level) for level in levels], dim=2)

        return call

    return build


@cache
def _starts(side: int, device: torch.device) -> Tensor:
    return window_starts(side, WINDOW, 1, device)


@cache
def _allowed(shape: Shape, device: torch.device) -> Tensor:
    """Which keys a query sees: [h * w, h * w] bool."""
    rows, columns = (
        (torch.arange(side, device=device) >= _starts(side, device)[:, None])
        & (torch.arange(side, device=device) < _starts(side, device)[:, None] + WINDOW)
        for side in shape
    )
    return (rows[:, None, :, None] & columns[None, :, None, :]).reshape(shape[0] * shape[1], -1)


def unfolded(q: Tensor, k: Tensor, v: Tensor, shape: Shape) -> Tensor:
    """All windows of the map by Tensor.unfold; at borders the windows of the nearest queries inside are taken."""
    rows, columns = (_starts(side, q.device) for side in shape)

    def windows(t: Tensor) -> Tensor:  # [B, T, h * w, heads, d, window ** 2]
        view = t.unflatten(2, shape).unfold(2, WINDOW, 1).unfold(3, WINDOW, 1)
        return view[:, :, rows[:, None], columns].flatten(2, 3).flatten(-2)

    weights = (q[..., None] * windows(k)).sum(-2).softmax(-1)  # [B, T, h * w, heads, window ** 2]
    return (windows(v) @ weights[..., None]).squeeze(-1)


def masked(q: Tensor, k: Tensor, v: Tensor, shape: Shape) -> Tensor:
    """Attention to all tokens of the level, with a mask."""
    q, k, v = (t.transpose(2, 3).flatten(0, 1) for t in (q, k, v))  # [B * T, heads, h * w, d]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=_allowed(shape, q.device), scale=1.0)
    return out.transpose(1, 2)[None]


@cache
def _windows(shape: Shape, device: torch.device) -> Tensor:
    return window_indices(*shape, WINDOW, 1, device)[0]


def _gather(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
    """In sums of products, which a compiler fuses with the gather; q, k, v [B, T, h * w, heads, d]."""
    weights = (q[:, :, :, None] * k[:, :, keys]).sum(-1).softmax(3)  # [B, T, h * w, window ** 2, heads]
    return (weights[..., None] * v[:, :, keys]).sum(3)


@cache
def _compiled_reference() -> Callable[..., Tensor]:
    return torch.compile(neighborhood_attention_reference, dynamic=False)


def compiled_reference(problem: Problem) -> Callable[..., Tensor]:
    """torch.compile of our reference as it stands: what a user gets who changes nothing."""
    shapes = problem.fixed["shapes"]
    return lambda q, k, v: _compiled_reference()(q, k, v, shapes, WINDOW, 1, 1)


@cache
def _compiled_gather() -> Callable[..., Tensor]:
    return torch.compile(_gather, dynamic=False)


def compiled(q: Tensor, k: Tensor, v: Tensor, shape: Shape) -> Tensor:
    """torch.compile of a gather that was written for it."""
    return _compiled_gather()(*(t.contiguous() for t in (q, k, v)), _windows(shape, q.device))


@cache
def _block_mask(shape: Shape, device: torch.device):
    from torch.nn.attention.flex_attention import create_block_mask

    allowed = _allowed(shape, device)
    length = len(allowed)
    return create_block_mask(lambda b, h, i, j: allowed[i, j], None, None, length, length, device=str(device))


@cache
def _flex_attention() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def flex(q: Tensor, k: Tensor, v: Tensor, shape: Shape) -> Tensor:
    """FlexAttention with a block mask; heads are padded to 16 channels, the least that it takes."""
    missing = max(0, 16 - q.shape[-1])
    padded = (F.pad(t.transpose(2, 3).flatten(0, 1), (0, missing)) for t in (q, k, v))
    out = _flex_attention()(*padded, block_mask=_block_mask(shape, q.device), scale=1.0)
    return out[..., : q.shape[-1]].transpose(1, 2)[None]


OP = Op(
    "neighborhood",
    cases,
    problem,
    (
        Peer(OURS, lambda problem: _op(problem.fixed["shapes"], "auto")),
        Peer("gather", lambda problem: _op(problem.fixed["shapes"], "reference")),
        Peer("unfold", _by_level(unfolded)),
        Peer("masked SDPA", _by_level(masked)),
        Peer("compiled reference", compiled_reference, "a C++ compiler for torch.compile"),
        Peer("compiled gather", _by_level(compiled), "a C++ compiler for torch.compile"),
        Peer("natten", lambda problem: _op(problem.fixed["shapes"], "natten")),
        Peer("flex attention", _by_level(flex), refuses=only_on("cuda")),
    ),
)
