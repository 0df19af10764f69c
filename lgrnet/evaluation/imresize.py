"""MATLAB's imresize for grey maps, with which programs in MATLAB bring maps to the size of their masks."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_TIE = 1e-9
"""What is so near below a half is one: sums of weights are exact to about 1e-13, and halves are frequent."""


def imresize(grey: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map uint8 [H, W] at `size` (height, width) as imresize does it by default.

    Bicubic (Keys 1981, a = -1/2); where an axis shrinks, the kernel is wider by as much, against aliasing; beyond the
    border the map is mirrored (the version of 2013 repeats the last pixel). The axis with the smaller scale comes
    first, height where both are equal, and after each axis values are rounded, halves up, and clamped to bytes. Written
    from what is documented of it, not compared with the output of a MATLAB.
    """
    for axis in sorted((0, 1), key=lambda axis: size[axis] / grey.shape[axis]):
        grey = _along(grey, size[axis]) if axis == 0 else _along(grey.T, size[axis]).T
    return np.ascontiguousarray(grey)


def _along(grey: np.ndarray, length: int) -> np.ndarray:
    """uint8 [H, W] as [length, W]."""
    if length == len(grey):
        return grey
    total = np.zeros((length, grey.shape[1]))
    for pixels, weights in zip(*_contributions(len(grey), length), strict=True):
        total += weights[:, None] * grey[pixels]
    return np.clip(np.floor(total + 0.5 + _TIE), 0, 255).astype(np.uint8)


@lru_cache(maxsize=32)
def _contributions(before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels int [P, after] that make each new pixel of an axis, and their weights float64, which have the sum 1."""
    scale = after / before
    squeeze = min(scale, 1.0)
    centres = np.arange(1, after + 1) / scale + 0.5 * (1 - 1 / scale) - 1
    pixels = np.floor(centres - 2 / squeeze) + np.arange(int(np.ceil(4 / squeeze)) + 2)[:, None]
    weights = _cubic(squeeze * (centres - pixels))
    mirrored = np.concatenate([np.arange(before), np.arange(before)[::-1]])
    return mirrored[pixels.astype(np.int64) % len(mirrored)], weights / weights.sum(0)


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
