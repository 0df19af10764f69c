"""Maps read at a few points instead of everywhere.

PointRend (Kirillov et al., 2020, section 3.1): a mask loss needs its logits at some thousand points, most of
them where the prediction is uncertain. Points are (x, y) in 0..1 over the whole map, pixel i covers
[i / n, (i + 1) / n].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points; outside of the map are zeros (grid_sample, align_corners False).

    maps    [M, h, w] float
    points  [M, P, 2] (x, y) in 0..1, or [1, P, 2]: the same points for every map

    Returns [M, P]. Raises ValueError when the shapes do not fit.
    """
    maps, points = _checked(maps, points)
    return _grid_sample(maps, 2 * points - 1, "zeros")


def sample_upsampled(logits: Tensor, points: Tensor, scale: int = 4) -> Tensor:
    """What `sample_points` reads from the bilinear enlargement of `logits`, without making it.

    The enlargement is F.interpolate(scale_factor=scale, mode="bilinear", align_corners=False). A point lies
    between four of its pixels; each of them is a bilinear value of `logits` at that pixel's centre. Both
    stencils together are a weighted sum of four readings of the small map.

    logits  [M, h, w] float
    points  [M, P, 2] (x, y) in 0..1, or [1, P, 2]: the same points for every map

    Returns [M, P]. Raises ValueError when the shapes do not fit or scale is less than 1.
    """
    if scale < 1:
        raise ValueError(f"scale is {scale}, expected a whole number of at least 1")
    if scale == 1:
        return sample_points(logits, points)
    logits, points = _checked(logits, points)
    height, width = logits.shape[-2:]
    columns = _enlarged_neighbours(points[..., 0], width * scale)
    rows = _enlarged_neighbours(points[..., 1], height * scale)
    total = logits.new_zeros(())
    for y, weight_y in rows:
        for x, weight_x in columns:
            # "border" is how F.interpolate treats the outermost half of a small pixel.
            total = total + _grid_sample(logits, torch.stack((x, y), -1), "border") * (weight_x * weight_y)
    return total


def uncertain_points(
    logits: Tensor, candidates: Tensor, count: int, scale: int = 4, usable: Tensor | None = None
) -> Tensor:
    """Of each map's candidates the `count` whose logit is nearest to 0 (PointRend's importance sampling).

    logits      [M, h, w] float, read at `scale` as by `sample_upsampled`
    candidates  [M, C, 2] (x, y) in 0..1
    count       how many to keep, at most C
    usable      [M, C] bool, False: a candidate that is taken only when nothing else is left

    Returns [M, count, 2], outside the graph of gradients. Raises ValueError when count is more than C.
    """
    if count > candidates.shape[1]:
        raise ValueError(f"asked for {count} uncertain points of {candidates.shape[1]} candidates; oversample more")
    with torch.no_grad():
        certainty = sample_upsampled(logits, candidates, scale).abs()
        if usable is not None:
            certainty = certainty.masked_fill(~usable, torch.inf)
        chosen = certainty.topk(count, dim=1, largest=False, sorted=False).indices
        return candidates.gather(1, chosen[..., None].expand(-1, -1, 2))


def _enlarged_neighbours(position: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The two pixel centres around positions in 0..1 on an axis of `size` pixels: (place in -1..1, weight) each."""
    pixel = position * size - 0.5
    lower = pixel.floor()
    weight = pixel - lower
    neighbours = []
    for index, share in ((lower, 1 - weight), (lower + 1, weight)):
        inside = (index >= 0) & (index < size)
        neighbours.append(((2 * index + 1) / size - 1, share * inside))
    return neighbours


def _grid_sample(maps: Tensor, grid: Tensor, padding: str) -> Tensor:
    """Values [M, P] of maps [M, h, w] at grid [M or 1, P, 2] in -1..1."""
    if maps.shape[0] == 0:
        return maps.flatten(1)[:, :1].expand(-1, grid.shape[1])
    # Maps that share their points are channels of one image: the kernel finds each point's pixels once.
    images = maps[None] if grid.shape[0] == 1 else maps[:, None]
    values = F.grid_sample(images, grid[:, None], padding_mode=padding, align_corners=False)
    return values[0, :, 0] if grid.shape[0] == 1 else values[:, 0, 0]


def _checked(maps: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Maps and points in one dtype of at least 32 bits: half precision cannot place a point in a pixel."""
    fits = maps.dim() == 3 and points.dim() == 3 and points.shape[-1] == 2 and points.shape[0] in (1, maps.shape[0])
    if not fits:
        raise ValueError(
            f"maps {tuple(maps.shape)} and points {tuple(points.shape)} do not fit; "
            "expected [M, h, w] and [M, P, 2], or [1, P, 2] for points that all maps share"
        )
    dtype = torch.promote_types(maps.dtype, torch.float32)
    return maps.to(dtype), points.to(dtype)
