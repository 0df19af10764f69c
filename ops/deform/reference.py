"""Multi-scale deformable attention in plain torch: the truth that every kernel is tested against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn_reference(
    value: Tensor, offsets: Tensor, weight_logits: Tensor, reference: Tensor, shapes: tuple[tuple[int, int], ...]
) -> Tensor:
    """See `lgrnet.ops.ms_deform_attn`; half precision is computed in float32, as in the kernels."""
    kind, exact = value.dtype, torch.promote_types(value.dtype, torch.float32)
    value, offsets, weight_logits, reference = (t.to(exact) for t in (value, offsets, weight_logits, reference))
    batch, queries, heads, levels, points, _ = offsets.shape
    if batch * queries * heads * levels * points == 0:
        return value.new_zeros(batch, queries, heads * value.shape[3], dtype=kind)
    weights = weight_logits.softmax(-1).unflatten(-1, (levels, points))
    # Filled on the device: a copy from the host would wait for it.
    sizes = torch.stack([offsets.new_full((), side) for h, w in shapes for side in (w, h)]).view(levels, 2)
    places = (
        reference[:, :, None, :, None] + offsets / sizes.clamp(min=1)[:, None]
    )  # [B, Q, heads, levels, points, 2], 0..1
    grid = (2 * places - 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 1)  # [B*heads, levels, Q, points, 2]

    out = value.new_zeros(batch * heads, value.shape[3], queries)
    maps = value.permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in shapes], dim=-1)  # [B*heads, d, h*w]
    for level, (shape, level_map) in enumerate(zip(shapes, maps, strict=True)):
        if 0 in shape:  # zero everywhere, which grid_sample refuses
            continue
        sampled = F.grid_sample(level_map.unflatten(-1, shape), grid[:, level], align_corners=False)
        weight = weights[:, :, :, level].permute(0, 2, 1, 3).reshape(batch * heads, 1, queries, points)
        out = out + (sampled * weight).sum(-1)  # [B*heads, d, Q]
    return out.unflatten(0, (batch, heads)).permute(0, 3, 1, 2).flatten(2).to(kind)
