"""Draws the Dice of several runs over the minutes that they trained, and prints their last values.

    python tools/compare_runs.py runs/vocalfolds/lgrnet_pvtv2_b0 runs/vocalfolds/plain_head_pvtv2_b0 \\
        --constant data/vocalfolds --videos seq4 seq8 --fit seq1 seq2 seq3 seq5 seq6 seq7 --out curves.png

Minutes are those of training alone: evaluations are left out. `--constant` adds the score of one mask for all frames,
the best level of the mean truth of the videos of `--fit`: what a method that looks at nothing can reach.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgrnet.engine.log import read_events, read_log  # noqa: E402
from lgrnet.evaluation.constant_mask import best_constant  # noqa: E402
from lgrnet.records import IMAGE_SUFFIXES, DataError, file_error, list_videos, read_mask, write_frame  # noqa: E402
from lgrnet.visualize import curves  # noqa: E402


def scores_over_time(run: Path, metric: str) -> list[tuple[float, float]]:
    """(minutes of training, mean score over the sets) of every evaluation of a run."""
    scores = {line["step"]: line["mean"] for line in read_log(run) if line["type"] == "evaluation"}
    begun, paused, points, resumed = None, 0.0, [], False
    for event in read_events(run):
        if event["type"] == "start":
            begun = event["time"]
        elif event["type"] == "resume":
            resumed = True
        elif event["type"] == "evaluated" and event["step"] in scores:
            if resumed:
                raise DataError(f"run {run} was interrupted and resumed; its minutes are not known")
            paused += event["seconds"]
            given = scores[event["step"]]
            if metric not in given:
                raise DataError(f"run {run} has no {metric!r}; it has {', '.join(given)}")
            if given[metric] is None or begun is None:
                lack = "no start of it" if begun is None else f"no {metric} at step {event['step']}"
                raise DataError(f"the log of run {run} has {lack}, so that there is no curve to draw")
            points.append(((event["time"] - begun - paused) / 60, float(given[metric])))
    if not points:
        raise DataError(f"run {run} has no evaluation yet; train with train.eval_every above 0")
    return points


def _truths(root: Path, videos: list[str]) -> list[np.ndarray]:
    return [read_mask(path) > 0 for record in list_videos(root, videos=videos or None) for path in record.masks]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; mistakes that a user can mend end in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--metric", default="dice", help="dice or iou")
    parser.add_argument("--constant", type=Path, metavar="ROOT", help="data for the best constant mask")
    parser.add_argument("--videos", nargs="*", default=[], help="videos of ROOT to score; all if left out")
    parser.add_argument("--fit", nargs="*", default=[], help="videos of ROOT to choose the mask from; all if left out")
    parser.add_argument("--out", type=Path, required=True, help="the picture to write, .png")
    options = parser.parse_args(arguments)
    if options.out.suffix.lower() not in IMAGE_SUFFIXES:
        parser.error(f"--out {options.out} is no picture; give a name that ends in .png")
    try:
        names = [run.resolve().name for run in options.runs]
        titles = [str(run) if names.count(name) > 1 else name for run, name in zip(options.runs, names, strict=True)]
        if len(set(titles)) < len(titles):
            raise DataError(f"the runs {', '.join(titles)} are not all different; give each once")
        lines = {name: scores_over_time(run, options.metric) for name, run in zip(titles, options.runs, strict=True)}
        if options.constant is not None:
            truths = _truths(options.constant, options.videos)
            level = best_constant(truths, _truths(options.constant, options.fit))
            end = max(minutes for points in lines.values() for minutes, _ in points)
            lines["constant mask"] = [(0.0, level), (end, level)]
        write_frame(options.out, curves(lines, "Unseen videos", "minutes of training", options.metric))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot use {file_error(error)}; give run folders and a picture", file=sys.stderr)
        return 2
    for name, points in lines.items():
        print(f"{name}: {options.metric} {points[-1][1]:.4f} after {points[-1][0]:.1f} minutes")
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
