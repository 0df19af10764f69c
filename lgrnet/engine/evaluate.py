"""Evaluation of a model on data sets: videos are split over the ranks, rank 0 writes reports, masks and pictures."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from lgrnet import distributed
from lgrnet.evaluation import (
    AveragePrecision,
    Evaluator,
    Protocol,
    ScoredSet,
    holds_ones,
    means_over_sets,
    read_annotation,
    write_html,
    write_report,
)
from lgrnet.inference.predictor import Predictor
from lgrnet.inference.writers import remove_other_masks, report_pictures, save_frames_sheet, save_masks, save_overlays
from lgrnet.records import DataError, VideoRecord, file_hash, read_frame

_LINES = 8


def evaluate_sets(
    model: nn.Module,
    sets: Mapping[str, Sequence[VideoRecord]],
    folder: str | Path,
    size: tuple[int, int],
    device: torch.device | str = "cpu",
    chunk: int | None = None,
    pictures: int = 4,
    weights: Path | None = None,
    facts: Mapping[str, object] | None = None,
    origin: Mapping[str, object] | None = None,
    say: Callable[[str], None] = lambda text: None,
    protocols: Sequence[Protocol] | None = None,
    resize: str = "bilinear",
    attributes: Mapping[str, Mapping[str, object]] | None = None,
    instances: str | None = None,
) -> dict[str, dict[str, float]]:
    """The scores of every set; to be called on all ranks.

    size       (height, width) that the model sees
    chunk      frames that pass the model together; None: as many as the model says
    pictures   overlays of the worst and of the best frames, so many each, and three times as many frames that are the
               same at every evaluation
    weights    the file that the model came from, its hash stands in the report
    facts      more to keep in report.json
    origin     still more for report.html: config, command, versions
    say        told on rank 0 how far its share of a set is
    protocols  all stand in the reports; the first one's scores are returned, its first metric chooses the pictures.
               None: the evaluator's own, LGRNet's Dice and IoU
    attributes  video -> what is known of it, for slices, see `lgrnet.evaluation.attributes`; goes before record.meta
    instances  "frame" or "video": average precision in this form stands in the report, too; None: it does not
    resize     how frames come to `size`, see `lgrnet.data.transforms.resize_for_eval`

    Returns set -> metric -> value on rank 0, {} on the others. `folder` then holds report.json, scores.csv,
    frames.csv, report.md, report.html, and per set web/<video>/<frame>.png and pictures/. Raises DataError for a set
    without annotated frames before anything is predicted, and for wrong files of a video before that video is.
    """
    folder = Path(folder)
    for name, records in sets.items():
        check_set(name, records)
    hashed = None if weights is None else file_hash(weights)
    evaluators = []
    for name, records in sets.items():
        average = None if instances is None else AveragePrecision(instances, set_name=name)
        evaluator = Evaluator(protocols, name, hashed, attributes=attributes, instances=average)
        frames_at_once = chunk if hasattr(model, "frame_chunk") else None
        predictor = Predictor(model, size=size, device=device, chunk=frames_at_once, resize=resize)
        own = records[distributed.rank() :: distributed.world_size()]
        for number, record in enumerate(own, start=1):
            if number % math.ceil(len(own) / _LINES) == 0:
                _tell(say, f"{name}: video {number} of {len(own)}")
            _process(predictor, evaluator, record, folder / name / "web")
        if _collect(evaluator):
            _draw(evaluator, records, folder / name, pictures)
            evaluators.append(evaluator)
    if not evaluators:
        return {}
    return _write(evaluators, sets, folder, facts or {}, origin or {})


def _draw(evaluator: Evaluator, records: Sequence[VideoRecord], folder: Path, pictures: int) -> None:
    """Pictures of a set, all of whose masks are in `folder`; what an earlier evaluation has left there goes."""
    remove_other_masks(folder / "web", records)
    chosen = {"count": pictures, "protocol": evaluator.first.id, "metric": evaluator.first.metrics[0]}
    save_overlays(evaluator.rows, records, folder / "web", folder, "pictures", **chosen)
    save_frames_sheet(records, folder / "web", folder, "pictures", 3 * pictures)


def check_set(name: str, records: Sequence[VideoRecord]) -> None:
    """Raises DataError unless the set has videos, each once, and an annotated frame; reads no file."""
    if not records:
        raise DataError(f"evaluation set {name!r} holds no video; check data.eval.{name} and data.root")
    twice = sorted(video for video, times in Counter(record.name for record in records).items() if times > 1)
    if twice:
        raise DataError(f"evaluation set {name!r} holds videos twice: {', '.join(twice[:5])}; list every video once")
    if not any(annotated for record in records for annotated in record.annotated):
        frames = sum(record.num_frames for record in records)
        raise DataError(
            f"evaluation set {name!r}: none of its {frames} frames in {len(records)} videos is annotated (the first is "
            f'{records[0].frames[0]}); evaluation needs masks, or masks="empty" where no frame shows a lesion; '
            "tools/predict_video.py does without"
        )


def _tell(say: Callable[[str], None], text: str) -> None:
    if distributed.is_main():
        shared = f" (1 of {distributed.world_size()} processes)" if distributed.world_size() > 1 else ""
        say(text + shared)


def _process(predictor: Predictor, evaluator: Evaluator, record: VideoRecord, masks: Path) -> None:
    raw = read_annotation(record)
    # Models of still images have one mask per class, and no others to offer.
    offered = "candidates" in inspect.signature(predictor.model.predict).parameters
    prediction = predictor.predict(record, candidates=offered and evaluator.instances is not None)
    told = {"images": lambda index: read_frame(record.frames[index]), "ones": holds_ones(raw, record.masks)}
    evaluator.process(prediction, raw, record.label_map, record.meta, **told)
    save_masks(prediction, masks)


def _collect(evaluator: Evaluator) -> bool:
    """Brings the rows of all ranks to rank 0; True there, False elsewhere."""
    for number, state in enumerate(distributed.gather_objects(evaluator.state())):
        if number > 0:
            evaluator.merge(state)
    return distributed.is_main()


def _write(
    evaluators: Sequence[Evaluator],
    sets: Mapping[str, Sequence[VideoRecord]],
    folder: Path,
    facts: Mapping[str, object],
    origin: Mapping[str, object],
) -> dict[str, dict[str, float]]:
    """The reports of all sets; returns the scores of the first protocol."""
    means = means_over_sets([evaluator.result() for evaluator in evaluators], _apart(sets.values()))
    facts = {**facts, "mean_over_sets": means}
    write_report(evaluators, folder, facts)
    pages = []
    for evaluator in evaluators:
        name = evaluator.set_name
        pictures = report_pictures(sets[name], folder / name / "web")
        pages.append(ScoredSet(evaluator.result(), evaluator.each_row(), pictures))
    write_html(folder / "report.html", pages, {**facts, **origin})
    first = evaluators[0].first.id
    return {page.result["set"]: dict(page.result["scores"][first]) for page in pages}


def _apart(sets: Iterable[Sequence[VideoRecord]]) -> bool:
    """Whether no frame is in two sets."""
    frames = [{path for record in records for path in record.frames} for records in sets]
    return len(set().union(*frames)) == sum(map(len, frames))
