"""lgrnet's evaluation as an evaluator of detectron2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.evaluation import DatasetEvaluator

from lgrnet import distributed
from lgrnet.detectron2_bridge.catalog import clip_dicts, record_of
from lgrnet.evaluation import Evaluator, Protocol, holds_ones, read_annotation, write_report
from lgrnet.records import DataError


class ClipEvaluator(DatasetEvaluator):
    """Scores predicted videos of one registered data set by lgrnet's protocols.

    dataset_name  of the catalog; masks are read from disk video by video, at their size there
    output_dir    folder of the report (report.md, scores.csv, ...), written by rank 0; None: no report
    protocols     see `lgrnet.evaluation`; None: LGRNet's Dice and IoU

    Videos may be split over processes in any way, each video once.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        protocols: Sequence[Protocol] | None = None,
    ):
        self.dataset_name = dataset_name
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.protocols = protocols
        self.reset()

    def reset(self) -> None:
        """Forgets all videos."""
        self._records = {video["video_name"]: record_of(video) for video in clip_dicts(self.dataset_name)}
        self._evaluator = Evaluator(self.protocols, self.dataset_name)

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Scores some videos.

        inputs   dicts with "video_name"
        outputs  dicts with "prediction", a `lgrnet.records.Prediction`, as our models give in evaluation

        Raises DataError for a video that is not of the data set or was scored before, and for masks that cannot be
        used, ValueError for outputs of another model.
        """
        for video, output in zip(inputs, outputs, strict=True):
            record = self._records.get(video.get("video_name"))
            if record is None:
                raise DataError(
                    f"video {video.get('video_name')!r} is not in the data set {self.dataset_name!r} of "
                    f"{len(self._records)} videos; the loader and the evaluator must name the same data set"
                )
            if "prediction" not in output:
                raise ValueError(
                    f'the output for video {video["video_name"]!r} has {", ".join(output)} but no "prediction"; '
                    "expected a model of lgrnet, others need an evaluator of detectron2"
                )
            raw = read_annotation(record)
            told = {"label_map": record.label_map, "ones": holds_ones(raw, record.masks)}
            self._evaluator.process(output["prediction"], raw, **told)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Protocol -> metric -> mean over the set, in percent as detectron2's own metrics; None but on rank 0.

        The report in `output_dir` has the numbers in 0..1, as all reports of lgrnet. Raises DataError when no frame
        was scored.
        """
        for number, state in enumerate(distributed.gather_objects(self._evaluator.state())):
            if number > 0:
                self._evaluator.merge(state)
        if not distributed.is_main():
            return None
        scores = self._evaluator.result()["scores"]
        if self.output_dir is not None:
            write_report(self._evaluator, self.output_dir)
        return {name: {metric: 100 * value for metric, value in row.items()} for name, row in scores.items()}
