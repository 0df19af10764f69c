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
    return _grid_sample(maps, 2 * points - 1)


def sample_upsampled(logits: Tensor, points: Tensor, scale: int = 4) -> Tensor:
    """What `sample_points` reads from the bilinear enlargement of `logits`, without making it.

    The enlargement is F.interpolate(scale_factor=scale, mode="bilinear", align_corners=False). Along an axis, what is
    read from it is a chain of straight lines between the centres of its pixels; all of them are on the lines between
    the centres of `logits`, but for the one across each of these centres, when scale is even. So the two ends of that
    one are all that is made of the enlargement: a map of twice the height and width, whatever the scale.

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
    grid = torch.empty_like(points)
    grid[..., 0] = _place_among_ends(points[..., 0], width, scale)
    grid[..., 1] = _place_among_ends(points[..., 1], height, scale)
    if scale % 2 == 0:
        logits = _ends(_ends(logits, 2, 0.5 / scale), 1, 0.5 / scale)
    return _grid_sample(logits, grid)


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


def _ends(maps: Tensor, dim: int, reach: float) -> Tensor:
    """Maps of 2n pixels along an axis of n: the lines' values at `reach` of a pixel before and after each centre."""
    before, after = maps.clone(), maps.clone()
    rest = maps.shape[dim] - 1  # the outermost half of a pixel is as its centre
    before.narrow(dim, 1, rest).lerp_(maps.narrow(dim, 0, rest), reach)
    after.narrow(dim, 0, rest).lerp_(maps.narrow(dim, 1, rest), reach)
    ends = maps.new_empty(*maps.shape[: dim + 1], 2, *maps.shape[dim + 1 :])
    for side, values in enumerate((before, after)):
        ends.select(dim + 1, side).copy_(values)
    return ends.flatten(dim, dim + 1)


@torch.no_grad()
def _place_among_ends(position: Tensor, size: int, scale: int) -> Tensor:
    """Where in -1..1 positions of 0..1 are on an axis of `size` pixels, each made two by `_ends` if scale is even.

    Beyond the outermost centres of the enlargement the way to the zeros around it begins.
    """
    beyond = position * (size * scale) - 0.5
    pixel = beyond.clamp(0, size * scale - 1)
    beyond -= pixel
    pixel.add_(0.5).div_(scale).sub_(0.5)
    if scale % 2:
        return pixel.clamp_(0, size - 1).add_(beyond).add_(0.5).mul_(2 / size).sub_(1)
    half = 0.5 / scale
    pixel.clamp_(-half, size - 1 + half)
    place = pixel.round()
    pixel -= place
    # From one end of a pixel to the other it is one step, and one more to the next pixel.
    between = scale / (scale - 1)
    place.mul_(2).add_(pixel, alpha=between).add_(pixel.clamp_(-half, half), alpha=scale - between)
    return place.add_(beyond).add_(1).div_(size).sub_(1)


def _grid_sample(maps: Tensor, grid: Tensor) -> Tensor:
    """Values [M, P] of maps [M, h, w] at grid [M or 1, P, 2] in -1..1, zeros outside."""
    if maps.shape[0] == 0:
        return maps.flatten(1)[:, :1].expand(-1, grid.shape[1])
    # Maps that share their points are channels of one image: the kernel finds each point's pixels once.
    images = maps[None] if grid.shape[0] == 1 else maps[:, None]
    values = F.grid_sample(images, grid[:, None], align_corners=False)
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
