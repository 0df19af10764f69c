"""Where the results of an evaluation go, and what must not be there already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lgrnet.checkpoint.checkpointer import Checkpoint, CheckpointError
from lgrnet.checkpoint.weights import WEIGHTS_FILE, weights_file
from lgrnet.evaluation.annotation import frames_hash
from lgrnet.records import VideoRecord, file_hash


def results_name(path: Path) -> str:
    """What results of these weights are called: a checkpoint's file is called as its folder."""
    if path.is_dir():
        return path.resolve().name
    folder = path.resolve().parent.name
    return folder if path.name == WEIGHTS_FILE and folder else path.stem


def check_target(path: Path, folder: Path, target: Path, sets: Mapping[str, Sequence[VideoRecord]]) -> None:
    """Raises CheckpointError where results of weights would replace others: those that other weights had under a
    checkpoint's name, and those of other frames.

    path    the weights
    folder  of the run or for the results; its own checkpoints may have changed
    target  where in it the results go
    sets    that are evaluated
    """
    there = _results(target)
    if there is None:
        return
    own = path.resolve().is_relative_to(folder.resolve()) or not Checkpoint.is_name(target.name)
    if not own and {result["weights_hash"] for result in there} != {file_hash(weights_file(path))}:
        raise CheckpointError(
            f"{target} has the results of other weights; give another folder with --out_dir for {path}"
        )
    lost = [result["set"] for result in there if result["split_hash"] != _frames_hash(sets.get(result["set"], ()))]
    if lost:
        raise CheckpointError(
            f"{target} has the results of other frames (set {', '.join(lost)}), which would be replaced; keep them and "
            f"evaluate with --eval_path {path} and another --out_dir, or remove that folder"
        )


def _results(target: Path) -> Sequence[Mapping[str, Any]] | None:
    """What a report says of each set; None where there is none that can be read."""
    try:
        sets = json.loads((target / "report.json").read_text(encoding="utf-8"))["sets"]
        return [{key: result[key] for key in ("set", "weights_hash", "split_hash")} for result in sets]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _frames_hash(records: Sequence[VideoRecord]) -> str:
    """As `Evaluator.split_hash` will be."""
    pairs = {record.name: zip(record.frame_names, record.annotated, strict=True) for record in records}
    return frames_hash({video: [name for name, annotated in frames if annotated] for video, frames in pairs.items()})
