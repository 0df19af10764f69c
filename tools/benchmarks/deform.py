"""Multi-scale deformable attention over three levels of a 352 x 352 frame: every token is a query, 4 points a level.

Inputs: value [T, S, 8, 8], offsets [T, S, 8, 3, 4, 2] in pixels, weight logits [T, S, 8, 12]; softmax and reference
points are part of what is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from benchmarks.contest import OURS, Absent, Case, Op, Peer, Problem, only_on
from lgrnet.layers.deformable import token_centres
from lgrnet.ops import ms_deform_attn
from lgrnet.ops.deform.reference import ms_deform_attn_reference

HEADS, CHANNELS, POINTS = 8, 8, 4
SHAPES, SMALL = ((11, 11), (22, 22), (44, 44)), ((3, 4), (5, 6), (8, 7))
CLEARANCE = 1e-3
"""Pixels between a sampled place and the nearest pixel centre, at least: see `clear`."""
STEP = 1 / 16
"""Pixels by which a place is moved that is too near, at least."""


def cases(quick: bool) -> list[Case]:
    """A training clip, and a longer one; the longest only on request."""
    frames = (2,) if quick else (6, 24, 60)
    return [Case(f"T={n}", {"frames": n, "small": int(quick)}, n, full=n <= 24) for n in frames]


def problem(case: Case, device: str) -> Problem:
    """Offsets of about two pixels in every direction, none to the very centre of a pixel."""
    shapes = SMALL if case.sizes["small"] else SHAPES
    frames, tokens = case.sizes["frames"], sum(h * w for h, w in shapes)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(frames, tokens, HEADS, *shape, generator=generator).to(device)

    reference = token_centres(shapes, device)[None, :, None].expand(-1, -1, len(shapes), -1)
    offsets = clear(2 * normal(len(shapes), POINTS, 2), reference, shapes)
    inputs = (normal(CHANNELS), offsets, normal(len(shapes) * POINTS))
    fixed = {"shapes": shapes, "reference": reference}

    def truth(value, offsets, logits):
        return ms_deform_attn_reference(value, offsets, logits, reference.double(), shapes)

    return Problem(inputs, truth, fixed)


def clear(offsets: Tensor, reference: Tensor, shapes: tuple[tuple[int, int], ...]) -> Tensor:
    """Offsets [T, Q, heads, levels, points, 2], moved so that no place lies within CLEARANCE of a pixel's centre.

    The bilinear surface has a kink there, and so the offset two right gradients. Which of them an implementation gives
    is a matter of its last bits, and one place in a million would make it "wrong". All are numbers of bfloat16, which
    has the same places then.
    """
    sizes = torch.tensor([(w, h) for h, w in shapes], device=offsets.device).double()
    rounded = offsets.bfloat16().float()
    places = (reference.double() * sizes - 0.5)[:, :, None, :, None] + rounded
    near = (places - places.round()).abs() < CLEARANCE
    spacing = torch.ldexp(torch.ones_like(rounded), rounded.frexp().exponent - 8)  # of bfloat16's numbers there
    return torch.where(near, rounded + spacing.clamp(min=STEP), rounded).bfloat16().float()


def _op(backend: str) -> Callable[[Problem], Callable[..., Tensor]]:
    def build(problem: Problem) -> Callable[..., Tensor]:
        shapes, reference = problem.fixed["shapes"], problem.fixed["reference"]

        def call(value, offsets, logits):
            return ms_deform_attn(value, offsets, logits, reference, shapes, backend=backend)

        return call

    return build


@cache
def _compiled_reference() -> Callable[..., Tensor]:
    return torch.compile(ms_deform_attn_reference, dynamic=False)


def _compiled(problem: Problem) -> Callable[..., Tensor]:
    shapes, reference = problem.fixed["shapes"], problem.fixed["reference"]
    return lambda value, offsets, logits: _compiled_reference()(value, offsets, logits, reference, shapes)


def _places(problem: Problem, offsets: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """What other implementations take, in float32: places in 0..1 [T, Q, heads, levels, points, 2] and weights.

    In half precision places would be off by a tenth of a pixel.
    """
    shapes, reference = problem.fixed["shapes"], problem.fixed["reference"]
    sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32, device=offsets.device)
    places = reference[:, :, None, :, None] + offsets / sizes[:, None]
    return places, logits.float().softmax(-1).unflatten(-1, (len(shapes), -1))


def _transformers(problem: Problem) -> Callable[..., Tensor]:
    """The function of transformers' Mask2Former."""
    from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

    def call(value, offsets, logits):
        places, weights = _places(problem, offsets, logits)
        found = multi_scale_deformable_attention(value.float(), problem.fixed["shapes"], places, weights)
        return found.to(value.dtype)

    return call


def _mmcv(problem: Problem) -> Callable[..., Tensor]:
    """The CUDA kernel of Deformable DETR, as mmcv ships it."""
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    shapes = torch.tensor(problem.fixed["shapes"], device=problem.inputs[0].device)
    starts = torch.cat((shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]))
    frames = len(problem.inputs[0])
    if frames % min(frames, 64):
        raise Absent(f"{frames} frames are no multiple of its step of 64")

    def call(value, offsets, logits):
        places, weights = _places(problem, offsets, logits)
        found = MultiScaleDeformableAttnFunction.apply(value.float(), shapes, starts, places, weights, 64)
        return found.to(value.dtype)

    return call


MMCV = "MSDeformAttn's CUDA kernel comes with mmcv: pip install mmcv with nvcc (openmmlab.com), float32 only"
OP = Op(
    "deform",
    cases,
    problem,
    (
        Peer(OURS, _op("auto")),
        Peer("grid_sample", _op("reference")),
        Peer("compiled grid_sample", _compiled, "a C++ compiler for torch.compile"),
        Peer("transformers", _transformers, "pip install transformers"),
        Peer("mmcv MSDeformAttn", _mmcv, MMCV, refuses=only_on("cuda")),
    ),
)
