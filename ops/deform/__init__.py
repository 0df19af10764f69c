"""Multi-scale deformable attention.

Legend: B clips or frames, S tokens of all levels (row-major, one level after the other), Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lgrnet.ops import gpu
from lgrnet.ops.backends import Backend, check_tensors, choose
from lgrnet.ops.cpu import cannot_run
from lgrnet.ops.deform.cpu import ms_deform_attn_cpu
from lgrnet.ops.deform.reference import ms_deform_attn_reference

__all__ = ["ms_deform_attn"]

BACKENDS = {
    "cpu": Backend(ms_deform_attn_cpu, cannot_run),
    "triton": Backend(gpu.lazily("deform", "ms_deform_attn_triton"), gpu.cannot_run),
    "reference": Backend(ms_deform_attn_reference),
}


def ms_deform_attn(
    value: Tensor,
    offsets: Tensor,
    weight_logits: Tensor,
    reference: Tensor,
    shapes: Sequence[tuple[int, int]],
    *,
    backend: str = "auto",
) -> Tensor:
    """Samples a few learned places of every level for each query (Zhu et al., arXiv 2010.04159, equation 3).

    value          [B, S, heads, d]
    offsets        [B, Q, heads, levels, points, 2], (x, y) in pixels of each level
    weight_logits  [B, Q, heads, levels * points]; the softmax over the last axis is taken here
    reference      [B or 1, Q, levels, 2], (x, y) in 0..1
    shapes         ((h, w), ...) of the levels, sum of h * w = S
    backend        "auto" takes the fastest of ours that can; a name forces it: "cpu" (compiled, float32 inside),
                   "triton" (CUDA, float32 inside) or "reference"

    Sampling is bilinear with pixel centres at half numbers, and zero outside of a level.
    Returns [B, Q, heads * d]. Raises ValueError for shapes, types or devices that do not fit,
    and BackendError (a ValueError) for a backend that is unknown or cannot do this.
    """
    if min((side for shape in shapes for side in shape), default=0) < 0:
        raise ValueError(f"levels have shapes {tuple(shapes)}; expected no side below 0")
    if value.ndim != 4 or offsets.ndim != 6:
        raise ValueError(
            f"value has shape {tuple(value.shape)}, offsets {tuple(offsets.shape)}; "
            "expected [B, S, heads, d] and [B, Q, heads, levels, points, 2]"
        )
    batch, tokens, heads, _ = value.shape
    queries, levels, points = offsets.shape[1], len(shapes), offsets.shape[4]
    expected = {
        "value": (value, (batch, sum(h * w for h, w in shapes), heads, value.shape[3])),
        "offsets": (offsets, (batch, queries, heads, levels, points, 2)),
        "weight_logits": (weight_logits, (batch, queries, heads, levels * points)),
        "reference": (reference, (1 if reference.shape[0] == 1 else batch, queries, levels, 2)),
    }
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape} for levels {tuple(shapes)}")
    check_tensors(value=value, offsets=offsets, weight_logits=weight_logits, reference=reference)
    return choose(BACKENDS, backend, value)(value, offsets, weight_logits, reference, tuple(map(tuple, shapes)))
