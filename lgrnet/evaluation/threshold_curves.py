"""Numbers of a grey map at many thresholds at once, from its histogram instead of a pass per threshold.

Letters: N thresholds. A curve's first entry is the highest threshold. Counts may be numbers or arrays [N].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lgrnet.evaluation.additive import divide
from lgrnet.evaluation.protocols import ClipRow, Score

THRESHOLDS = np.linspace(1, 0, 256)
"""Of the published programs. 66 of the values v / 255 are one rounding below theirs, and count one step later."""

EPS = np.finfo(np.float64).eps


@dataclass(frozen=True)
class GreyPixels:
    """The pixels of a map uint8 [H, W] by their grey level, on the object and beside it.

    levels       float64 [256], rising: the value that each grey level stands for
    true, false  int64 [256]
    """

    levels: np.ndarray
    true: np.ndarray
    false: np.ndarray

    @classmethod
    def of(cls, grey: np.ndarray, truth: np.ndarray, levels: np.ndarray) -> GreyPixels:
        """Of a map uint8 [H, W] and its mask bool [H, W]."""
        both = np.bincount((grey + np.uint16(256) * truth).ravel(), minlength=512)
        return cls(levels, both[256:], both[:256])

    @property
    def positive(self) -> int:
        """Pixels of the object."""
        return int(self.true.sum())

    @property
    def total(self) -> int:
        """All pixels."""
        return int(self.true.sum() + self.false.sum())

    def mae(self) -> float:
        """Mean absolute error."""
        return float(self.true @ (1 - self.levels) + self.false @ self.levels) / self.total

    def found(self, thresholds: np.ndarray | float, levels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Pixels whose value is at or above each threshold [N]: of the object, and of all, int64 [N].

        levels  other values of the grey levels, rising
        """
        places = np.searchsorted(self.levels if levels is None else levels, thresholds, "left")
        true, false = (np.append(np.cumsum(part[::-1])[::-1], 0)[places] for part in (self.true, self.false))
        return true, true + false


def overlap_curves(tp: np.ndarray, found: np.ndarray, positive: int, total: int) -> dict[str, np.ndarray]:
    """Sen, Spe, Dice and IoU, float64 [N]; all are 0 where nothing is found rightly, Spe is else NaN on a full truth.

    tp, found  pixels found rightly, and found, [N]
    """
    fp, negative = found - tp, total - positive
    with np.errstate(invalid="ignore", divide="ignore"):
        curves = {
            "Sen": tp / positive if positive else np.zeros(len(tp)),
            "Spe": np.where(tp > 0, (negative - fp) / np.float64(negative), 0.0),
            "Dice": np.where(tp > 0, 2 * tp / (positive + found), 0.0),
            "IoU": np.where(tp > 0, tp / (positive + fp), 0.0),
        }
    return curves


def alignment(tp: np.ndarray, found: np.ndarray, positive: int, total: int) -> np.ndarray:
    """E-measure (Fan et al., IJCAI 2018) of the masks that have these counts, divided by the pixels - 1, as published.

    Where the truth is empty (full), it is the share of pixels that are not found (found).
    """
    if positive == 0:
        aligned = total - found
    elif positive == total:
        aligned = found
    else:
        mean_true, mean_found, aligned = positive / total, found / total, 0.0
        fp, fn = found - tp, positive - tp
        for pixels, g, p in ((tp, 1, 1), (fp, 0, 1), (fn, 1, 0), (total - positive - fp, 0, 0)):
            a, b = p - mean_found, g - mean_true
            aligned = aligned + pixels * (2 * a * b / (a * a + b * b + EPS) + 1) ** 2 / 4
    return aligned / (total - 1 + EPS)


def f_measure(tp: np.ndarray, found: np.ndarray, positive: int, weight: float = 0.3) -> np.ndarray:
    """F-measure with beta^2 = weight; 0 where nothing is found rightly."""
    precision, recall = tp / np.maximum(found, 1), tp / max(positive, 1)
    return (1 + weight) * precision * recall / np.where(tp > 0, weight * precision + recall, 1.0)


@dataclass(frozen=True)
class FrameCurves:
    """What one frame has: numbers and curves float64 [N], all such that means over frames mean something."""

    scalars: dict[str, float]
    curves: dict[str, np.ndarray]


class CurveFold:
    """A `ClipFold` that keeps the sums of numbers and curves over the frames of a video.

    measure    probability uint8 [H, W], truth uint8 [H0, W0] -> what the frame has
    summary    its scalars and curves as the named numbers of a protocol
    drop_ends  the first and the last annotated frame have their numbers, but no part in the sums
    """

    def __init__(
        self,
        measure: Callable[[np.ndarray, np.ndarray], FrameCurves],
        summary: Callable[[Mapping[str, float], Mapping[str, np.ndarray]], Mapping[str, float | np.ndarray]],
        drop_ends: bool,
    ):
        self._measure, self._summary, self._drop_ends = measure, summary, drop_ends
        self._frames, self._seen = 0, 0
        self._sums: dict[str, float | np.ndarray] = {}
        self._last: FrameCurves | None = None

    def add(
        self, probability: np.ndarray, mask: np.ndarray, truth: np.ndarray | None, image: np.ndarray | None = None
    ) -> dict[str, float]:
        """See `ClipFold.add`; neither the mask nor the image is looked at."""
        if truth is None:
            return {}
        frame = self._measure(probability, truth)
        self._next(frame)
        return {name: float(value) for name, value in self._summary(frame.scalars, frame.curves).items()}

    def miss(self) -> None:
        """See `ClipFold.miss`; as the first or the last annotated frame it is the one that is dropped."""
        self._next(None)

    def end(self) -> tuple[int, dict[str, float | np.ndarray]]:
        """The number of frames and the means over them, see `ClipFold.end`."""
        return self._frames, {name: total / self._frames for name, total in self._sums.items()}

    def _next(self, frame: FrameCurves | None) -> None:
        if not self._drop_ends:
            self._take(frame)
        elif self._seen > 0:  # the frame before turns out not to be the last one
            self._take(self._last)
            self._last = frame
        self._seen += 1

    def _take(self, frame: FrameCurves | None) -> None:
        if frame is None:
            return
        self._frames += 1
        for name, value in {**frame.scalars, **frame.curves}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value


class CurveMeans:
    """Means over clips of what `CurveFold` keeps, and their `Additive` sums; a clip without frames has no say.

    scalars, curves  names of what a clip has
    weigh            clips count by their frames; else all the same
    summary          means [...] and mean curves [..., N] as the named numbers of a protocol
    """

    metrics: tuple[str, ...]
    scalars: tuple[str, ...]
    curves: tuple[str, ...]
    weigh: bool
    summary: Callable[[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], dict[str, np.ndarray]]

    def aggregate(self, clips: Sequence[ClipRow]) -> dict[str, Score]:
        """See `ClipProtocol.aggregate`."""
        values, frames = self.finish(self.statistics(clips)), sum(clip.frames for clip in clips)
        return {name: Score(float(value), frames) for name, value in zip(self.metrics, values, strict=True)}

    def statistics(self, rows: Sequence[ClipRow]) -> np.ndarray:
        """See `Additive.statistics`; the weight, the numbers and the curves."""
        sums = np.zeros(1 + len(self.scalars) + len(self.curves) * len(THRESHOLDS))
        for clip in rows:
            if clip.frames:
                parts = (1.0, *(clip.values[name] for name in (*self.scalars, *self.curves)))
                sums += (clip.frames if self.weigh else 1) * np.hstack(parts)
        return sums

    def finish(self, sums: np.ndarray) -> np.ndarray:
        """See `Additive.finish`."""
        means, first = divide(sums[..., 1:], sums[..., :1]), len(self.scalars)
        curves = np.split(means[..., first:], len(self.curves), axis=-1)
        scalars = {name: means[..., i] for i, name in enumerate(self.scalars)}
        numbers = self.summary(scalars, dict(zip(self.curves, curves, strict=True)))
        return np.stack([numbers[name] for name in self.metrics], axis=-1)
