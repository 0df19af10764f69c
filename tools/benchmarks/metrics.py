"""All numbers of the VPS protocol of one frame, a grey map of 352 x 352.

Inputs: the map [H, W] in 0..1. Every peer gives the 17 numbers, in one order. lgrnet.evaluation is imported where it is
used: it needs OpenCV, which a machine that only checks its GPU may lack.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import convolve, distance_transform_edt
from torch import Tensor

from benchmarks.contest import OURS, Case, Op, Peer, Problem, only_on

EPS = np.finfo(np.float64).eps
OTHER_STEPS = 2e-3
"""How far a mean over thresholds may be when 66 of the 256 are met one step earlier."""


def cases(quick: bool) -> list[Case]:
    """One object; the side of the frame."""
    if quick:
        return [Case("32 x 32", {"side": 32})]
    return [Case("352 x 352", {"side": 352})]


def problem(case: Case, device: str) -> Problem:
    """A noisy disc, found a little beside where it is."""
    side = case.sizes["side"]
    axis = torch.linspace(-1, 1, side)
    truth = axis[:, None].square() + axis.square() < 0.15
    distance = ((axis[:, None] - 0.05).square() + axis.square()).sqrt()
    noise = torch.randn(side, side, generator=torch.Generator().manual_seed(0)) / 20
    found = torch.sigmoid((0.4 - distance) * 12) + noise
    found = (found.clamp(0, 1) * 255).round() / 255
    fixed = {"truth": truth.numpy()}
    return Problem((found.to(device),), lambda x: _numbers(x, fixed, _by_pixels), fixed)


def _grey(found: Tensor) -> np.ndarray:
    return np.rint(found.double().numpy() * 255).astype(np.uint8)


def _ours(problem: Problem) -> Callable[[Tensor], Tensor]:
    from lgrnet.evaluation.vps_protocol import VPSProtocol

    truth = problem.fixed["truth"].astype(np.uint8) * np.uint8(255)

    def call(found: Tensor) -> Tensor:
        values = VPSProtocol().begin().add(_grey(found), None, truth)
        return torch.tensor([values[name] for name in VPSProtocol.metrics], dtype=torch.float64)

    return call


def _by_pixels(found: np.ndarray, truth: np.ndarray) -> tuple[float, ...]:
    """E-measure, F, Sen, Spe, Dice and IoU of two masks, each by its definition; the E-measure from every pixel."""
    a, b = found - found.mean(), truth - truth.mean()
    aligned = ((2 * a * b / (a * a + b * b + EPS) + 1) ** 2 / 4).sum() / (truth.size - 1)
    return aligned, *_overlaps(found, truth)


def _by_counts(found: np.ndarray, truth: np.ndarray) -> tuple[float, ...]:
    """The same; the E-measure from the four numbers of pixels that agree or not."""
    aligned, places = 0.0, ((True, True), (True, False), (False, True), (False, False))
    for p, g in places:
        pixels = np.count_nonzero((found == p) & (truth == g))
        a, b = p - found.mean(), g - truth.mean()
        aligned += pixels * (2 * a * b / (a * a + b * b + EPS) + 1) ** 2 / 4
    return aligned / (truth.size - 1), *_overlaps(found, truth)


def _overlaps(found: np.ndarray, truth: np.ndarray) -> tuple[float, ...]:
    tp = np.count_nonzero(found & truth)
    if tp == 0:
        return (0.0,) * 5
    number, true = np.count_nonzero(found), np.count_nonzero(truth)
    tn = np.count_nonzero(~found & ~truth)
    precision, recall = tp / number, tp / true
    f = 1.3 * precision * recall / (0.3 * precision + recall)
    return f, recall, tn / (truth.size - true), 2 * tp / (number + true), tp / np.count_nonzero(found | truth)


def _numbers(found: Tensor, fixed: dict, measure: Callable[[np.ndarray, np.ndarray], tuple[float, ...]]) -> Tensor:
    """The 17 numbers with a pass over the pixels for every threshold."""
    from lgrnet.evaluation.metrics import s_measure

    truth, p = fixed["truth"], _grey(found) / 255
    p = (p - p.min()) / (p.max() - p.min())
    levels = np.floor(p * 255)
    bytes_ = np.array([measure(levels >= level, truth)[:2] for level in range(255, -1, -1)])
    steps = np.array([_overlaps(p >= threshold, truth)[1:] for threshold in np.linspace(1, 0, 256)])
    adaptive = measure(p >= min(2 * p.mean(), 1), truth)
    e, f = ((bytes_[:, i].mean(), bytes_[:, i].max()) for i in range(2))
    overlaps = np.stack([steps.mean(0), steps.max(0)], axis=1).ravel()
    frame = (s_measure(p, truth), _weighted_f(p, truth), np.abs(p - truth).mean())
    return torch.tensor([*frame, adaptive[0], *e, adaptive[1], *f, *overlaps], dtype=torch.float64)


def _weighted_f(p: np.ndarray, truth: np.ndarray) -> float:
    """Margolin's weighted F over the whole frame, as its paper writes it."""
    distance, (rows, columns) = distance_transform_edt(~truth, return_indices=True)
    axis = np.exp(-(np.arange(-3, 4) ** 2) / 50)
    error = np.abs(p - truth)
    smooth = convolve(
        np.where(truth, error, error[rows, columns]), np.outer(axis, axis) / axis.sum() ** 2, mode="constant"
    )
    weighed = np.where(truth, np.minimum(error, smooth), error * (2 - np.exp(np.log(0.5) / 5 * distance)))
    found = truth.sum() - weighed[truth].sum()
    recall, precision = 1 - weighed[truth].mean(), found / (EPS + found + weighed[~truth].sum())
    return 2 * recall * precision / (EPS + recall + precision)


def _pysodmetrics(problem: Problem) -> Callable[[Tensor], Tensor]:
    """The library of this field; its numbers of overlap have other thresholds."""
    import py_sod_metrics as library

    truth = problem.fixed["truth"].astype(np.uint8) * np.uint8(255)
    handlers = ("RecallHandler", "SpecificityHandler", "DICEHandler", "IOUHandler")

    def call(found: Tensor) -> Tensor:
        made = {name: getattr(library, name)(with_dynamic=True, with_adaptive=False) for name in handlers}
        s, w, mae, e, f = (
            getattr(library, name)() for name in ("Smeasure", "WeightedFmeasure", "MAE", "Emeasure", "Fmeasure")
        )
        overlaps = library.FmeasureV2(metric_handlers=made)
        for metric in (s, w, mae, e, f, overlaps):
            metric.step(pred=_grey(found), gt=truth)
        numbers = [s.get_results()["sm"], w.get_results()["wfm"], mae.get_results()["mae"]]
        for found_ in (e.get_results()["em"], f.get_results()["fm"]):
            numbers += [found_["adp"], found_["curve"].mean(), found_["curve"].max()]
        curves = overlaps.get_results()
        for name in handlers:
            numbers += [curves[name]["dynamic"].mean(), curves[name]["dynamic"].max()]
        return torch.tensor(np.array(numbers, np.float64))

    return call


def _passes(measure: Callable) -> Callable[[Problem], Callable[[Tensor], Tensor]]:
    return lambda problem: lambda found: _numbers(found, problem.fixed, measure)


ON_CPU = only_on("cpu")
OP = Op(
    "metrics",
    cases,
    problem,
    (
        Peer(OURS, _ours, refuses=ON_CPU, tolerance=1e-6),
        Peer("256 passes", _passes(_by_pixels), refuses=ON_CPU, tolerance=1e-6),
        Peer("256 passes by counts", _passes(_by_counts), refuses=ON_CPU, tolerance=1e-6),
        Peer("pysodmetrics", _pysodmetrics, "pip install pysodmetrics", ON_CPU, tolerance=OTHER_STEPS),
    ),
    modes=("step",),
    dtypes=("fp32",),
)
