"""Evaluation of a model on data sets: videos are split over the ranks, rank 0 writes reports, masks and pictures."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from lgrnet import distributed
from lgrnet.evaluation.evaluator import Evaluator
from lgrnet.evaluation.protocols import LGRNetProtocol
from lgrnet.evaluation.report import write_report
from lgrnet.inference.predictor import Predictor
from lgrnet.inference.writers import save_masks, save_overlays
from lgrnet.records import DataError, VideoRecord, read_mask

_LINES = 8


def evaluate_sets(
    model: nn.Module,
    sets: Mapping[str, Sequence[VideoRecord]],
    folder: str | Path,
    size: tuple[int, int],
    device: torch.device | str = "cpu",
    chunk: int | None = 16,
    pictures: int = 4,
    weights: Path | None = None,
    facts: Mapping[str, object] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, dict[str, float]]:
    """Dice and IoU of every set by LGRNet's protocol; to be called on all ranks.

    size      (height, width) that the model sees
    chunk     frames that pass the backbone together
    pictures  overlays of the worst and of the best frames, so many each
    weights   the file that the model came from, its hash stands in the report
    facts     more to keep in report.json
    say       told on rank 0 how far its share of a set is

    Returns set -> metric -> value on rank 0, {} on the others. `folder` then holds report.json, scores.csv,
    frames.csv, report.md, and per set web/<video>/<frame>.png and pictures/. Raises DataError for an empty set and
    for whatever is wrong with the files.
    """
    folder = Path(folder)
    evaluators = []
    for name, records in sets.items():
        if not records:
            raise DataError(f"evaluation set {name!r} holds no video; check data.eval.{name} and data.root")
        evaluator = Evaluator([LGRNetProtocol()], name, None if weights is None else file_hash(weights))
        predictor = Predictor(model, size=size, device=device, chunk=chunk if hasattr(model, "frame_chunk") else None)
        own = records[distributed.rank() :: distributed.world_size()]
        for number, record in enumerate(own, start=1):
            if number % math.ceil(len(own) / _LINES) == 0:
                _tell(say, f"{name}: video {number} of {len(own)}")
            _process(predictor, evaluator, record, folder / name / "web")
        if _collect(evaluator):
            save_overlays(evaluator.rows, records, folder / name / "web", folder / name, "pictures", pictures)
            evaluators.append(evaluator)
    if not evaluators:
        return {}
    write_report(evaluators, folder, facts)
    return {e.set_name: dict(e.result()["scores"][LGRNetProtocol.id]) for e in evaluators}


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _tell(say: Callable[[str], None], text: str) -> None:
    if distributed.is_main():
        shared = f" (1 of {distributed.world_size()} processes)" if distributed.world_size() > 1 else ""
        say(text + shared)


def _process(predictor: Predictor, evaluator: Evaluator, record: VideoRecord, masks: Path) -> None:
    prediction = predictor.predict(record)
    raw = [None if path is None else read_mask(path) for path in record.masks]
    evaluator.process(prediction, raw, record.label_map)
    save_masks(prediction, masks)


def _collect(evaluator: Evaluator) -> bool:
    """Brings the rows of all ranks to rank 0; True there, False elsewhere."""
    for number, state in enumerate(distributed.gather_objects(evaluator.state())):
        if number > 0:
            evaluator.merge(state)
    return distributed.is_main()
