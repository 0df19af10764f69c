"""Protocols: each is one way to turn masks into numbers, with its own threshold, resize and average.

Two numbers of different protocols are different quantities and never stand in one column. A protocol is any class
with the members of `Protocol`, which sees one class in one frame, of `WholeFrameProtocol`, which sees all classes of a
frame, or of `ClipProtocol`, which follows one class through a video. One that is also `Sliced` has its numbers for
parts of a set, too.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lgrnet.evaluation import metrics
from lgrnet.evaluation.additive import RatioOfSums

_OfClass = typing.TypeVar("_OfClass")

ALL_CLASSES = "all"
"""The class_id of rows and numbers that are of all classes at once."""


@dataclass(frozen=True)
class FrameRow:
    """The numbers of one class in one frame by one protocol; class_id counts from 1, or is ALL_CLASSES."""

    protocol: str
    video: str
    frame: str
    class_id: int | str
    values: dict[str, float]


@dataclass(frozen=True)
class ClipRow:
    """What a `ClipProtocol` keeps of one class in one video; class_id counts from 1.

    frames  how many frames the values come from
    values  floats and float64 arrays of a fixed, small size
    """

    protocol: str
    video: str
    class_id: int
    frames: int
    values: dict[str, float | np.ndarray]


@dataclass(frozen=True)
class Score:
    """An averaged number and how many frames it comes from; the value is None where there is no frame to score."""

    value: float | None
    frames: int


LOW_IS_GOOD = (
    *("mae", "MAE", "published_mae", "area_flicker", "mask_flicker", "excess_flicker", "warped_flicker"),
    *("missed_frames", "dropout_longest", "dropout_mean", "never_detected", "frames_to_detection"),
    *("seconds_to_detection", "false_alarms_per_minute"),
)
"""Numbers of any protocol of which a high one is bad."""


class Protocol(typing.Protocol):
    """What the evaluator asks of a protocol.

    id       stands beside every number
    meaning  one sentence for reports
    metrics  names of the numbers that `aggregate` gives, in the order of a table; the values of a frame hold the first
             one, too, by which pictures are chosen

    One with a true attribute `of_sets` is of still images; several sets of these have the plain mean of their numbers.
    One with a true attribute `counts_grey` takes every value of an annotation above 0 for the lesion.
    """

    id: str
    meaning: str
    metrics: tuple[str, ...]

    def per_frame(self, probability: np.ndarray, mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """Numbers of one class in one frame.

        probability  uint8 [H, W], 255 is certain
        mask         bool [H, W], by the model's own rule
        truth        uint8 [H0, W0] raw grey values of the annotation (an indexed class and a mask of 0 and 1 come as 0
                     and 255); where it has another size than the prediction, the protocol resizes by its own rule
        """

    def aggregate(self, rows: Sequence[FrameRow]) -> dict[str, Score]:
        """Numbers of a video or a whole set from the rows of one class, at least one; metric -> score."""


@typing.runtime_checkable
class WholeFrameProtocol(typing.Protocol):
    """A protocol whose numbers need all classes of a frame at once; id, meaning and metrics are those of `Protocol`."""

    id: str
    meaning: str
    metrics: tuple[str, ...]

    def whole_frame(
        self, probability: np.ndarray, mask: np.ndarray, truth: np.ndarray, ignored: np.ndarray
    ) -> dict[str, float]:
        """Numbers of one frame.

        probability  uint8 [K, H, W], 255 is certain
        mask         bool [K, H, W], by the model's own rule; classes may overlap
        truth        uint8 [K, H0, W0] grey values of each class, as in `Protocol.per_frame`
        ignored      bool [H0, W0], pixels that the label map ignores; they belong to no class in `truth`
        """

    def aggregate(self, rows: Sequence[FrameRow]) -> dict[str, Score]:
        """Numbers of a video, a slice or a whole set from its rows, at least one; metric -> score."""


class ClipFold(typing.Protocol):
    """One class of one video on its way through a `ClipProtocol`; its memory does not grow with the frames."""

    def add(
        self, probability: np.ndarray, mask: np.ndarray, truth: np.ndarray | None, image: np.ndarray | None = None
    ) -> dict[str, float]:
        """Takes in the next frame, in temporal order, and returns the numbers that it has by itself.

        They become a `FrameRow`; {}: this frame has none. Arguments as in `Protocol.per_frame`; truth is None where
        the frame is not annotated, image [H1, W1, 3] uint8 where no protocol has asked for it by `needs_images`.
        """

    def miss(self) -> None:
        """The next frame is annotated but has no prediction; it takes its place in the video, and has no numbers."""

    def end(self) -> tuple[int, dict[str, float | np.ndarray]]:
        """`frames` and `values` of the `ClipRow`; called once, after the last frame."""


@typing.runtime_checkable
class ClipProtocol(typing.Protocol):
    """A protocol whose numbers are made per video first; id, meaning and metrics are those of `Protocol`.

    One with a true attribute `needs_images` is shown the frames themselves, too. One with a true attribute `drop_ends`
    makes nothing of the first and last annotated frame of a video, which then need no prediction.
    """

    id: str
    meaning: str
    metrics: tuple[str, ...]

    def begin(self) -> ClipFold:
        """A new fold, for one class of one video."""

    def aggregate(self, clips: Sequence[ClipRow]) -> dict[str, Score]:
        """Numbers of a video, a slice or a whole set from the clips of one class, at least one; metric -> score.

        A clip of 0 frames has no say; where no clip has a frame, the values are NaN.
        """


@typing.runtime_checkable
class Sliced(typing.Protocol):
    """A protocol that has its numbers for parts of a set, too."""

    def slices(self, rows: Sequence[FrameRow | ClipRow]) -> dict[str, list[FrameRow | ClipRow]]:
        """Name of a part -> those of `rows` in it; parts may overlap, and one without rows is an empty list.

        rows  what the protocol's `aggregate` takes: frames, or clips of a `ClipProtocol`
        """


class LGRNetProtocol(RatioOfSums):
    """LGRNet's evaluator: smoothed Dice and IoU (+1) of the model's mask, averaged over all frames of all videos.

    A truth pixel is foreground where its raw value is above 0. No frame is dropped, long videos weigh more, and an
    empty mask on an empty truth scores 1. A prediction of another size is brought to the truth's by nearest
    neighbour. `extended` adds the unsmoothed numbers of its second metric function.
    """

    id = "lgrnet"
    counts_grey = True
    meaning = (
        "Dice (2 I + 1) / (P + G + 1) and IoU (I + 1) / (U + 1) of the model's mask at the size on disk, truth > 0, "
        "plain mean over all frames of all videos."
    )

    def __init__(self, extended: bool = False):
        self.extended = extended
        more = ("plain_dice", "plain_iou", "sensitivity", "mae", "s_measure") if extended else ()
        self.metrics = ("dice", "iou", *more)

    def per_frame(self, probability: np.ndarray, mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """See `Protocol.per_frame`; plain_dice, plain_iou and sensitivity are NaN where they are 0 / 0."""
        there = truth > 0
        if mask.shape != there.shape:
            mask = metrics.resize_nearest(mask, there.shape)
        counts = metrics.count(mask, there)
        values = {"dice": metrics.dice(counts), "iou": metrics.iou(counts)}
        if self.extended:
            values["plain_dice"] = metrics.dice(counts, smooth=0)
            values["plain_iou"] = metrics.iou(counts, smooth=0)
            values["sensitivity"] = metrics.sensitivity(counts)
            values["mae"] = metrics.mae(counts)
            values["s_measure"] = metrics.s_measure(mask, there)
        return values

    def aggregate(self, rows: Sequence[FrameRow]) -> dict[str, Score]:
        """Mean over the frames where the number is defined (Dice and IoU always are)."""
        return {name: mean_score(row.values[name] for row in rows) for name in self.metrics}


def overall(by_class: Mapping[int | str, _OfClass]) -> _OfClass:
    """What stands for several classes together, their "mean", or for the one class that there is."""
    return by_class["mean"] if "mean" in by_class else next(iter(by_class.values()))


def mean_score(values: Iterable[float]) -> Score:
    """The mean of the values that are numbers; exact summing makes it independent of their order."""
    defined = [value for value in values if not math.isnan(value)]
    return Score(math.fsum(defined) / len(defined) if defined else math.nan, len(defined))


def mean_scores(sets: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of every metric that all sets have, over the sets where it is defined; NaN where it is in none."""
    if not sets:
        return {}
    shared = [name for name in next(iter(sets.values())) if all(name in scores for scores in sets.values())]
    return {name: mean_score(scores[name] for scores in sets.values()).value for name in shared}
