"""Protocols whose numbers come from sums over videos, so that videos can be drawn again without their frames.

Letters: S statistics of a video, M metrics.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence

import numpy as np

if typing.TYPE_CHECKING:
    from lgrnet.evaluation.protocols import ClipRow, FrameRow


@typing.runtime_checkable
class Additive(typing.Protocol):
    """A protocol whose numbers are a function of sums over videos; one without this has no intervals."""

    def statistics(self, rows: Sequence[FrameRow] | Sequence[ClipRow]) -> np.ndarray:
        """What is added up over videos: float64 [S], of the rows of one class in one video."""

    def finish(self, sums: np.ndarray) -> np.ndarray:
        """The metrics [..., M] of sums [..., S], in the protocol's order; NaN where nothing was summed."""


class RatioOfSums:
    """`Additive` for means: each metric is a sum over what has a value, divided by their number.

    A subclass has `metrics` and `terms`.
    """

    metrics: tuple[str, ...]

    def terms(self, row: FrameRow | ClipRow) -> Sequence[tuple[float, float]]:
        """(what is added to the sum, what is added to the number) for each metric; by default a frame's own value."""
        values = [row.values[name] for name in self.metrics]
        return [(0.0, 0.0) if np.isnan(value) else (value, 1.0) for value in values]

    def statistics(self, rows: Sequence[FrameRow] | Sequence[ClipRow]) -> np.ndarray:
        """See `Additive.statistics`; all sums, then all numbers."""
        return (
            np.array([self.terms(row) for row in rows], np.float64).reshape(-1, len(self.metrics), 2).sum(0).T.ravel()
        )

    def finish(self, sums: np.ndarray) -> np.ndarray:
        """See `Additive.finish`."""
        return divide(*np.split(sums, 2, axis=-1))


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The ratio, NaN where it is divided by 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator == 0, np.nan, np.true_divide(numerator, denominator))
