"""How steady a prediction is over time, and how long a lesion goes unseen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lgrnet.evaluation.additive import RatioOfSums
from lgrnet.evaluation.metrics import resize_nearest
from lgrnet.evaluation.motion import FrameMotion
from lgrnet.evaluation.protocols import ClipRow, Score

_FLICKER = ("area_flicker", "true_area_flicker", "mask_flicker", "true_mask_flicker", "excess_flicker")
_DROPOUT = ("missed_frames", "dropout_longest", "dropout_mean", "never_detected", "frames_to_detection")
_NEGATIVE = ("specificity",)
_WARPED = ("warped_flicker", "true_warped_flicker")


class OverTimeProtocol(RatioOfSums):
    """Flicker, dropouts and false alarms of the model's mask, one class at a time.

    Neighbours are frames that follow each other; a pair in which both masks are empty has no flicker to measure.

    area_flicker         |a - b| / max(a, b) of the areas of neighbouring predicted masks: 0 steady, 1 where a lesion
                         comes or goes
    mask_flicker         1 - IoU of neighbouring predicted masks
    true_area_flicker, true_mask_flicker   the same of the annotation: what motion alone does (both frames annotated)
    excess_flicker       mask_flicker minus true_mask_flicker, mean over the pairs that have both: the flicker that is
                         not the lesion's own motion
    missed_frames        share of the frames with a lesion in which nothing of it is found
    dropout_longest      frames in the longest run of such frames, which a frame without the lesion ends; 0 where none
                         is missed
    dropout_mean         mean frames of these runs, not defined where there is none
    never_detected       share of the clips with a lesion in which it is never found
    frames_to_detection  from the first frame that shows the lesion to the first that finds it, 0: at once; clips in
                         which it is never found are left out, see never_detected
    specificity          share of the frames without a lesion in which nothing is predicted

    With `flow` also warped_flicker and true_warped_flicker: mask_flicker after the mask before was moved by the optical
    flow between the two frames (see `motion.FrameMotion`), so that what the camera does is not counted. Frames' images
    are needed then.

    With `fps` also seconds_to_detection, and false_alarms_per_minute: frames without a lesion in which something is
    predicted, in a minute of such frames.

    A lesion is found in a frame where the predicted mask and the annotation (above 127) have an IoU above `min_iou`; by
    default one common pixel is enough. Frames without annotation count for the flicker of the prediction and in
    frames_to_detection, and are passed over in the rest. A clip is one value, and the mean over the clips in which it
    is defined is the set's; but missed_frames, dropout_mean, specificity and false_alarms_per_minute are of all
    frames, or runs, of the set together. Truth of another size than the prediction is brought to it by nearest
    neighbour.

    fps      frames a second (SUN: 30), None: not known
    min_iou  0 to 1
    flow     whether neighbouring masks are also compared along the motion between their frames

    Raises ValueError for other values.
    """

    id = "over-time"

    def __init__(self, fps: float | None = None, min_iou: float = 0.0, flow: bool = False):
        if (fps is not None and not 0 < fps < math.inf) or not 0 <= min_iou < 1:
            raise ValueError(f"fps is {fps}, min_iou {min_iou}; expected frames a second or None, and 0 to below 1")
        self.fps, self.min_iou, self.needs_images = fps, min_iou, flow
        timed = () if fps is None else ("seconds_to_detection", "false_alarms_per_minute")
        self.metrics = (*_FLICKER, *(_WARPED if flow else ()), *_DROPOUT, *_NEGATIVE, *timed)
        self.meaning = (
            "The model's mask over time. Flicker: of neighbouring frames, 0 is steady; true_: of the annotation, "
            "excess_: beyond its. A lesion is found where the masks have "
            + ("a common pixel" if min_iou == 0 else f"an IoU above {min_iou:g}")
            + "; dropouts are runs of frames in which it is not. Mean over clips; missed_frames, dropout_mean, "
            "specificity"
            + ("" if fps is None else f" and false alarms ({fps:g} frames a second)")
            + " over all frames."
        )

    def begin(self) -> _OverTimeFold:
        """See `ClipProtocol.begin`."""
        return _OverTimeFold(self.min_iou, self.needs_images)

    def terms(self, row: ClipRow) -> Sequence[tuple[float, float]]:
        """See `RatioOfSums.terms`."""
        v = row.values
        negatives, alarms, runs = v["negatives"], v["false_alarms"], v["runs"]
        pooled = {
            "missed_frames": (v["missed"], v["positives"]),
            "dropout_mean": (v["missed"], runs),
            "specificity": (negatives - alarms, negatives),
            "false_alarms_per_minute": (60 * (self.fps or 0) * alarms, negatives),
        }
        own = {**v, "seconds_to_detection": v["frames_to_detection"] / (self.fps or 1)}
        means = {name: (own[name], 1.0) for name in own if not math.isnan(own[name])}
        return [pooled.get(name, means.get(name, (0.0, 0.0))) for name in self.metrics]

    def aggregate(self, clips: Sequence[ClipRow]) -> dict[str, Score]:
        """See `ClipProtocol.aggregate`; frames are those that were annotated."""
        terms = [self.terms(clip) for clip in clips]
        frames = sum(clip.frames for clip in clips)
        sums = [[math.fsum(part) for part in zip(*of_metric, strict=True)] for of_metric in zip(*terms, strict=True)]
        values = (total / number if number else math.nan for total, number in sums)
        return {name: Score(value, frames) for name, value in zip(self.metrics, values, strict=True)}


class _OverTimeFold:
    """See `ClipFold`; keeps the last frame's masks and image, and some numbers."""

    def __init__(self, min_iou: float, flow: bool):
        self.min_iou, self.flow = min_iou, flow
        self.image: np.ndarray | None = None
        self.mask: np.ndarray | None = None
        self.truth: np.ndarray | None = None
        self.flicker: dict[str, list[float]] = {name: [] for name in (*_FLICKER, *_WARPED)}
        self.index = self.annotated = self.positives = self.negatives = self.false_alarms = 0
        self.missed = self.run = self.runs = self.longest = 0
        self.shown: int | None = None
        self.found: int | None = None

    def add(
        self, probability: np.ndarray, mask: np.ndarray, truth: np.ndarray | None, image: np.ndarray | None = None
    ) -> dict[str, float]:
        """See `ClipFold.add`."""
        there = None if truth is None else truth > 127
        area, flicker = neighbour_flicker(self.mask, mask)
        true_area, true_flicker = neighbour_flicker(self.truth, there)
        values = dict(zip(_FLICKER, (area, true_area, flicker, true_flicker, flicker - true_flicker), strict=True))
        if self.flow:
            values |= self._warped(mask, there, image)
        for name, value in values.items():
            if not math.isnan(value):
                self.flicker[name].append(value)
        values |= {"predicted_area": float(mask.mean()), "confidence": _confidence(probability, mask)}
        if there is not None:
            self.annotated += 1
            values["truth_area"] = float(there.mean())
            # At the size of the annotation, of which a small lesion might not be left at another.
            values |= self._count(mask if mask.shape == there.shape else resize_nearest(mask, there.shape), there)
        self.mask, self.truth, self.image = mask, there, image
        self.index += 1
        return values

    def miss(self) -> None:
        """See `ClipFold.miss`; the frames before and after it become neighbours, and time goes on."""
        self.index += 1

    def end(self) -> tuple[int, dict[str, float]]:
        """See `ClipFold.end`."""
        waited = math.nan if self.found is None else float(self.found - self.shown)
        ill = self.positives > 0
        return self.annotated, {
            **{name: math.fsum(x) / len(x) if x else math.nan for name, x in self.flicker.items()},
            "dropout_longest": float(self.longest) if ill else math.nan,
            "never_detected": float(self.found is None) if ill else math.nan,
            "frames_to_detection": waited,
            **{
                name: float(getattr(self, name))
                for name in ("missed", "positives", "runs", "negatives", "false_alarms")
            },
        }

    def _warped(self, mask: np.ndarray, there: np.ndarray | None, image: np.ndarray) -> dict[str, float]:
        """Flicker of neighbouring masks along the motion between their frames."""
        if self.image is None:
            return dict.fromkeys(_WARPED, math.nan)
        motion = FrameMotion(self.image, image)
        pairs = ((self.mask, mask), (self.truth, there))
        moved = [
            (None, None) if before is None or after is None else (motion.follow(before), motion.resized(after))
            for before, after in pairs
        ]
        return {name: neighbour_flicker(*pair)[1] for name, pair in zip(_WARPED, moved, strict=True)}

    def _count(self, mask: np.ndarray, there: np.ndarray) -> dict[str, float]:
        """Takes in an annotated frame; "missed" or "false_alarm" of it, 0 or 1."""
        if not there.any():
            alarm = bool(mask.any())
            self.negatives += 1
            self.run = 0
            self.false_alarms += alarm
            return {"false_alarm": float(alarm)}
        both = np.count_nonzero(mask & there)
        missed = both <= self.min_iou * np.count_nonzero(mask | there)
        self.positives += 1
        self.missed += missed
        self.runs += missed and not self.run
        self.run = self.run + 1 if missed else 0
        self.longest = max(self.longest, self.run)
        self.shown = self.index if self.shown is None else self.shown
        if not missed and self.found is None:
            self.found = self.index
        return {"missed": float(missed)}


def _confidence(probability: np.ndarray, mask: np.ndarray) -> float:
    """Mean of a map uint8 [H, W] in the predicted mask, in 0..1; 0 where nothing is predicted."""
    return float(probability[mask].mean()) / 255 if mask.any() else 0.0


def neighbour_flicker(before: np.ndarray | None, after: np.ndarray | None) -> tuple[float, float]:
    """|a - b| / max(a, b) of the areas of two masks bool [H, W], and 1 - their IoU.

    NaN where both are empty or one is None. A mask of another size is brought to that of `after` by nearest neighbour.
    """
    if before is None or after is None:
        return math.nan, math.nan
    if before.shape != after.shape:
        before = resize_nearest(before, after.shape)
    a, b, both = (int(np.count_nonzero(x)) for x in (before, after, before & after))
    if not a and not b:
        return math.nan, math.nan
    return abs(a - b) / max(a, b), 1 - both / (a + b - both)
