"""How far a result is from the exact one."""

from __future__ import annotations

from torch import Tensor


def relative(found: Tensor, expected: Tensor, least: float = 1e-30) -> float:
    """The largest error over the largest value of `expected`, or over `least` where that is more."""
    expected = expected.detach()
    return float((found.detach().double() - expected).abs().max() / expected.abs().max().clamp(min=least))
