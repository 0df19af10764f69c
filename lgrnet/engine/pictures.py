"""Training to look at: curves of a run and the same validation frames after every evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lgrnet.engine.hooks import Hook, evaluation_due
from lgrnet.engine.log import RunLog, read_log
from lgrnet.engine.trainer import StepRecord, Trainer
from lgrnet.records import read_frame, write_frame
from lgrnet.visualize import curves

CURVES_FILE = "curves.png"
MOST_POINTS = 200
"""Points of a line in a chart; more steps are averaged in groups."""

Line = list[tuple[float, float]]


class PictureHook(Hook):
    """Draws <run>/curves.png after every evaluation and at the end, and shows it and the frames to the log's sinks.

    log   of the run; for rank 0
    eval  folder with the results of each evaluation, <eval>/step_<step>/<set>/pictures/frames.png
    """

    def __init__(self, log: RunLog, eval: Path):
        self.log, self.eval = log, eval

    def before(self, trainer: Trainer) -> None:
        """The evaluation before training, or the one that a kill had cut off."""
        if evaluation_due(trainer.settings, trainer.step):
            self._draw(trainer)

    def after_step(self, trainer: Trainer, record: StepRecord) -> None:
        """The evaluation of this step."""
        if evaluation_due(trainer.settings, record.step) and not trainer.stopping:
            self._draw(trainer)

    def after(self, trainer: Trainer) -> None:
        """The whole run."""
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        with trainer.clock.paused():
            chart = draw_curves(read_log(self.log.folder))
            write_frame(self.log.folder / CURVES_FILE, chart)
            self.log.picture(trainer.step, "curves", chart)
            for path in sorted(self.eval.glob(f"step_{trainer.step:08d}/*/pictures/frames.png")):
                self.log.picture(trainer.step, f"{path.parents[1].name}/frames", read_frame(path))


def draw_curves(lines: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """Losses, scores and learning rate over the steps of a run, one chart below the other: uint8 [H, W, 3].

    lines  of its log.jsonl, see `lgrnet.engine.log.read_log`
    """
    losses: dict[str, Line] = {}
    scores: dict[str, Line] = {}
    rate: Line = []
    for line in lines:
        step = line["step"]
        if line["type"] == "step":
            for name, value in {"total": line["total"], **line["losses"]}.items():
                losses.setdefault(name, []).append((step, float(value)))
            rate.append((step, float(line["lr"])))
        else:
            for name, values in line["sets"].items():
                for metric, value in values.items():
                    scores.setdefault(f"{name} {metric}", []).append((step, float(value)))
    charts = [
        curves({name: _thinned(points) for name, points in losses.items()}, "Losses (total is weighted)", "step"),
        curves(scores, "Scores", "step"),
        curves({"largest of the groups": _thinned(rate)}, "Learning rate", "step"),
    ]
    return np.concatenate(charts)


def _thinned(points: Sequence[tuple[float, float]]) -> Line:
    """At most MOST_POINTS means of neighbouring points; steps without a finite value are left out of a mean."""
    groups = np.array_split(np.asarray(points, float), min(len(points), MOST_POINTS)) if points else []
    means = []
    for group in groups:
        finite = group[np.isfinite(group[:, 1])]
        means.append((float(group[-1, 0]), float(finite[:, 1].mean()) if len(finite) else float("nan")))
    return means
