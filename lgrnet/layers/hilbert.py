"""The order in which frame queries are scanned: a generalised Hilbert curve over the grid of frames and queries."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=256)
def hilbert_order(num_frames: int, num_queries: int) -> np.ndarray:
    """The curve's visiting order of the cells of a (num_frames, num_queries) grid.

    Returns int32 [num_frames * num_queries], flat indices frame * num_queries + query; read-only, since it is shared.
    The generalised Hilbert curve for rectangles, always started along the queries even where there are more
    frames than queries, as published.
    Raises ValueError for a grid without cells.
    """
    if num_frames < 1 or num_queries < 1:
        raise ValueError(f"grid is {num_frames} frames x {num_queries} queries, expected at least one of each")
    cells = _walk((0, 0), (num_queries, 0), (0, num_frames))
    order = np.fromiter((y * num_queries + x for x, y in cells), np.int32, num_frames * num_queries)
    order.flags.writeable = False
    return order


def zigzag_order(num_frames: int, num_queries: int) -> np.ndarray:
    """Frame after frame, queries in order: int32 [num_frames * num_queries]."""
    return np.arange(num_frames * num_queries, dtype=np.int32)


Vector = tuple[int, int]


def _walk(start: Vector, major: Vector, minor: Vector) -> Iterator[Vector]:
    """The cells (query, frame) of the rectangle spanned by two axis-parallel vectors, in the curve's order."""
    length, breadth = abs(major[0] + major[1]), abs(minor[0] + minor[1])
    along, across = _unit(major), _unit(minor)
    if breadth == 1 or length == 1:
        step = along if breadth == 1 else across
        for i in range(max(length, breadth)):
            yield start[0] + i * step[0], start[1] + i * step[1]
        return
    half_major, half_minor = (major[0] // 2, major[1] // 2), (minor[0] // 2, minor[1] // 2)
    if 2 * length > 3 * breadth:
        if (half_major[0] + half_major[1]) % 2 and length > 2:
            half_major = _add(half_major, along)
        yield from _walk(start, half_major, minor)
        yield from _walk(_add(start, half_major), _subtract(major, half_major), minor)
        return
    if (half_minor[0] + half_minor[1]) % 2 and breadth > 2:
        half_minor = _add(half_minor, across)
    yield from _walk(start, half_minor, half_major)
    yield from _walk(_add(start, half_minor), major, _subtract(minor, half_minor))
    corner = _add(_add(start, _subtract(major, along)), _subtract(half_minor, across))
    yield from _walk(corner, _negate(half_minor), _negate(_subtract(major, half_major)))


def _unit(v: Vector) -> Vector:
    return (v[0] > 0) - (v[0] < 0), (v[1] > 0) - (v[1] < 0)


def _add(a: Vector, b: Vector) -> Vector:
    return a[0] + b[0], a[1] + b[1]


def _subtract(a: Vector, b: Vector) -> Vector:
    return a[0] - b[0], a[1] - b[1]


def _negate(v: Vector) -> Vector:
    return -v[0], -v[1]
