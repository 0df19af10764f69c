"""The protocols of grey maps at 256 thresholds: the VPS toolbox for videos, and PraNet's table for still images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import cv2
import numpy as np

from lgrnet.evaluation import metrics
from lgrnet.evaluation.additive import divide
from lgrnet.evaluation.imresize import imresize
from lgrnet.evaluation.maps import at_size
from lgrnet.evaluation.threshold_curves import (
    THRESHOLDS,
    CurveFold,
    CurveMeans,
    FrameCurves,
    GreyPixels,
    alignment,
    f_measure,
    overlap_curves,
)
from lgrnet.evaluation.weighted_f import weighted_f

_LEVELS = np.arange(256) / 255
_BYTES = np.arange(255, -1, -1)
_RESIZE = {
    "bilinear": ("vps", "VPS toolbox (SUN-SEG)"),
    "imresize": ("miccai-vps", "MATLAB program of MICCAI-VPS, maps resized by imresize"),
}
"""How maps come to the size of the truth -> id of the protocol, and whose it is."""


class VPSProtocol(CurveMeans):
    """The VPS toolbox of SUN-SEG (Ji et al., Video Polyp Segmentation: A Deep Learning Perspective, 2022).

    Read as grey of 8 bits; a prediction of another size is resized bilinearly; truth is what is above 128; each map is
    stretched to 0..1 by its own minimum and maximum. Smeasure, wFmeasure, MAE, adpEm and adpFm are one number a frame.
    Em, Fm, Sen, Spe, Dice and IoU are curves over 256 thresholds. Frames are averaged to clips, clips (all the same
    weight) to the set, and only then mean... and max... are taken of a curve. The first and last annotated frame of
    every clip, with or without a prediction, have no part in it; nor has a clip of two frames. Masks of 0 and 1 come
    as 0 and 255, as to every protocol (`annotation.holds_ones`); to the toolbox they would be empty.

    Where a number degenerates it is the published one: Smeasure 0 for an object of one pixel, wFmeasure 0 for an empty
    truth, Sen, Spe, Dice and IoU 0 at thresholds without a true positive, Spe NaN for a full truth.

    The MATLAB program of MICCAI-VPS (Ji et al., Progressively Normalized Self-Attention Network, MICCAI 2021) prints
    the same Smeasure, wFmeasure, MAE, Em, Sen, Spe, Dice and IoU, but for `imresize`; each of the three test sets is
    averaged by itself. Where MATLAB differs in degenerate cases (the spread of one pixel, a map of one value) and in
    rounding (a value that meets a threshold), this is the toolbox.

    drop_ends  False: the first and last frames count, too, which no published table does
    resize     how a prediction comes to the truth's size: "bilinear" as OpenCV does it, or "imresize" as MATLAB does
               (bicubic), which is the protocol miccai-vps

    Raises ValueError for another `resize`.
    """

    metrics = (
        *("Smeasure", "wFmeasure", "MAE", "adpEm", "meanEm", "maxEm", "adpFm", "meanFm", "maxFm"),
        *(f"{kind}{name}" for name in ("Sen", "Spe", "Dice", "IoU") for kind in ("mean", "max")),
    )

    scalars = ("Smeasure", "wFmeasure", "MAE", "adpEm", "adpFm")
    curves = ("Em", "Fm", "Sen", "Spe", "Dice", "IoU")
    weigh = False

    def __init__(self, drop_ends: bool = True, resize: str = "bilinear"):
        if resize not in _RESIZE:
            raise ValueError(f'resize is "{resize}"; expected "bilinear" or "imresize"')
        self.drop_ends, self.resize = drop_ends, resize
        name, toolbox = _RESIZE[resize]
        self.id = name if drop_ends else f"{name}-all-frames"
        ends = "first and last frame of each clip dropped" if drop_ends else "all frames (published: without the ends)"
        self.meaning = (
            f"{toolbox}: grey maps stretched to 0..1 per frame, truth > 128, 256 thresholds, {ends}; "
            "curves averaged over frames, then clips, then mean or max over the thresholds. Papers print maxDice."
        )

    def begin(self) -> CurveFold:
        """See `ClipProtocol.begin`."""
        return CurveFold(partial(_stretched, resize=self.resize), self.summary, self.drop_ends)

    @staticmethod
    def summary(scalars: Mapping[str, np.ndarray], curves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `CurveMeans`."""
        of_curves = {f"{kind}{k}": getattr(curve, kind)(-1) for k, curve in curves.items() for kind in ("mean", "max")}
        return {**scalars, **of_curves}


class PraNetProtocol(CurveMeans):
    """The table of PraNet's line of work (UACANet's evaluation program; the published tables of SSFormer have it).

    Maps are read as grey of 8 bits and not stretched; one of another size is resized bilinearly; truth is what is above
    one half. Dice, IoU, E-measure, sensitivity and specificity at 256 thresholds, means over all images, then the mean
    (m...) or the maximum (max...) over the thresholds. As published, Dice, IoU, Sen and Spe are 0 at thresholds where
    nothing is found rightly, and an image with a full truth leaves Spe without a value. weighted_f takes the border's
    values for what lies beyond the image, and an image without truth has none; s_measure divides the spread by n.

    The published tables were made from masks that were binary already: then maxDice is the Dice of the mask, and mDice
    nearly so. PraNet's own MATLAB program stretches maps to 0..1; this one does not.

    extended  adds mPre and maxPre, the precision (0 where nothing is found), which the program has and no table shows;
              its F has beta 1 and is Dice
    """

    id = "pranet"
    of_sets = True
    scalars = ("weighted_f", "objects", "s_measure", "mae")
    curves = ("E", "Dice", "IoU", "Sen", "Spe")
    weigh = True
    metrics = (
        *("mDice", "mIoU", "weighted_f", "s_measure", "mE", "maxE", "mae", "maxDice", "maxIoU"),
        *("mSen", "maxSen", "mSpe", "maxSpe"),
    )
    meaning = (
        "PraNet's table as in UACANet's program and SSFormer's published tables: grey maps, truth > 0.5, Dice, IoU, "
        "E-measure, Sen and Spe at 256 thresholds, mean over all images, then mean (m) or max over the thresholds."
    )

    def __init__(self, extended: bool = False):
        self.extended = extended
        if extended:
            self.curves, self.metrics = (*self.curves, "Pre"), (*self.metrics, "mPre", "maxPre")

    def begin(self) -> CurveFold:
        """See `ClipProtocol.begin`."""
        return CurveFold(partial(_unstretched, precision=self.extended), self.summary, drop_ends=False)

    @staticmethod
    def summary(scalars: Mapping[str, np.ndarray], curves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `CurveMeans`."""
        return {
            **{f"m{name}": curve.mean(-1) for name, curve in curves.items()},
            **{f"max{name}": curve.max(-1) for name, curve in curves.items()},
            "weighted_f": divide(scalars["weighted_f"], scalars["objects"]),
            "s_measure": scalars["s_measure"],
            "mae": scalars["mae"],
        }


def stretched_levels(grey: np.ndarray) -> np.ndarray:
    """float64 [256]: what each grey level stands for when the map's own range becomes 0..1; v / 255 where constant."""
    low, high = int(grey.min()), int(grey.max())
    if low == high:
        return _LEVELS
    return (_LEVELS - _LEVELS[low]) / (_LEVELS[high] - _LEVELS[low])


def _stretched(probability: np.ndarray, truth: np.ndarray, resize: str = "bilinear") -> FrameCurves:
    brought = imresize if resize == "imresize" else at_size
    grey, there = brought(probability, truth.shape), truth > 128
    levels = stretched_levels(grey)
    pixels, values = GreyPixels.of(grey, there, levels), levels[grey]
    sizes = pixels.positive, pixels.total
    adaptive = pixels.found(min(2 * float(values.mean()), 1.0))
    bytes_ = pixels.found(_BYTES, np.floor(np.clip(levels, 0, 1) * 255))
    scalars = {
        "Smeasure": metrics.s_measure(values, there),
        "wFmeasure": weighted_f(values, there) if pixels.positive else 0.0,
        "MAE": pixels.mae(),
        "adpEm": float(alignment(*adaptive, *sizes)),
        "adpFm": float(f_measure(*adaptive, pixels.positive)),
    }
    curves = {
        "Em": alignment(*bytes_, *sizes),
        "Fm": f_measure(*bytes_, pixels.positive),
        **overlap_curves(*pixels.found(THRESHOLDS), *sizes),
    }
    return FrameCurves(scalars, curves)


def _unstretched(probability: np.ndarray, truth: np.ndarray, precision: bool) -> FrameCurves:
    grey, there = at_size(probability, truth.shape), truth > 127
    pixels, values = GreyPixels.of(grey, there, _LEVELS), _LEVELS[grey]
    sizes, at_thresholds = (pixels.positive, pixels.total), pixels.found(THRESHOLDS)
    scalars = {
        "weighted_f": weighted_f(values, there, cv2.BORDER_REPLICATE) if pixels.positive else 0.0,
        "objects": float(pixels.positive > 0),
        "s_measure": metrics.s_measure(values, there, freedom=0, beyond=0),
        "mae": pixels.mae(),
    }
    curves = {"E": alignment(*at_thresholds, *sizes), **overlap_curves(*at_thresholds, *sizes)}
    if precision:
        curves["Pre"] = at_thresholds[0] / np.maximum(at_thresholds[1], 1)
    return FrameCurves(scalars, curves)
