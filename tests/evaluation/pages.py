"""Evaluated sets for the tests of the HTML report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lgrnet.evaluation import Evaluator, FrameRow, LGRNetProtocol, Picture, ScoredSet, StudyProtocol
from lgrnet.evaluation.html_report import AREAS
from lgrnet.records import Prediction

HOSTILE = (
    '"><script>document.title = "owned"</script>',
    "</script><img src=x onerror=\"document.title='owned'\">",
    "it's <b>&amp;\n{data} {script}\u2028",
    "\u202etfel ot thgir",
    "long_" + "ü" * 120,
    "no text in UTF-8 \udcff",
)


def masks(frames: int, seed: int = 0, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A disc that wanders, and the same a bit beside it: truth and prediction, bool [T, H, W]."""
    y, x = np.mgrid[:size, :size]
    draws = np.random.default_rng(seed)
    discs = []
    for t in range(frames):
        at, off, radius = size / 3 + t % (size // 3), draws.integers(-4, 5), 4 + t % 9
        discs.append([np.hypot(x - at - d, y - at) < radius for d in (0, off)])
    both = np.array(discs)
    return both[:, 0], both[:, 1]


def scored(
    videos: Sequence[str], frames: int = 6, set_name: str = "test", areas: bool = True, pictures: bool = True
) -> ScoredSet:
    """A set of these videos by two protocols; frames are called 000, 001, ..., or odd names in odd videos."""
    evaluator = Evaluator([LGRNetProtocol(), StudyProtocol()], set_name, weights_hash="feed" * 16)
    shown, extra = {}, []
    for number, video in enumerate(videos):
        truth, found = masks(frames, number)
        names = tuple(f"{video[:9]}<i>{t}" if "<" in video else f"{t:03d}" for t in range(frames))
        shown |= {(video, name): (truth[None, t], found[None, t]) for t, name in enumerate(names)}
        prediction = Prediction(video, names, np.ones(1, np.float32), found[None] * np.uint8(255), found[None])
        evaluator.process(prediction, list(truth * np.uint8(255)))
        extra += area_rows(video, names, truth, found) if areas else []

    def picture(video: str, frame: str) -> Picture:
        truth, found = shown[video, frame]
        return Picture(np.full((64, 64, 3), (190, 110, 90), np.uint8), truth, found)

    return ScoredSet(evaluator.result(), [*evaluator.rows, *extra], picture if pictures else None)


def area_rows(video: str, names: Sequence[str], truth: np.ndarray, found: np.ndarray) -> list[FrameRow]:
    """The areas of a video's frames, as a protocol over time gives them."""
    kinds = {"truth": truth, "found": found, "sure": 0.9 * found}
    return [
        FrameRow("over-time", video, frame, 1, {key: kinds[kind][t].mean() for key, kind in AREAS.items()})
        for t, frame in enumerate(names)
    ]
