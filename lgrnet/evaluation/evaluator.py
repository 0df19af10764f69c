"""One pass over predicted videos, any number of protocols."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

import lgrnet
from lgrnet.evaluation.protocols import FrameRow, LGRNetProtocol, Protocol, Score
from lgrnet.records import DataError, LabelMap, Prediction, class_masks, num_classes


class Evaluator:
    """Collects the numbers of one data set.

    protocols     default: LGRNet's
    set_name      name of the data set; it stands beside every number
    weights_hash  of the model that predicts, None when it is not known
    resize        False: a prediction must have its mask's size; True: each protocol resizes by its own rule
    """

    def __init__(
        self,
        protocols: Sequence[Protocol] | None = None,
        set_name: str = "unnamed",
        weights_hash: str | None = None,
        resize: bool = False,
    ):
        self.protocols = {protocol.id: protocol for protocol in protocols or (LGRNetProtocol(),)}
        self.set_name, self.weights_hash, self.resize = set_name, weights_hash, resize
        self._rows: dict[str, list[FrameRow]] = {}
        self._unannotated: dict[str, int] = {}

    def process(
        self, prediction: Prediction, raw_masks: Sequence[np.ndarray | None], label_map: LabelMap = "binary"
    ) -> list[FrameRow]:
        """Scores one video and returns its rows.

        raw_masks  one uint8 [H, W] per frame, None: not annotated (the frame is skipped and counted)

        Raises DataError naming video and frame when a size, the number of masks or classes does not fit, or when
        the video was scored before.
        """
        self._check_video(prediction, raw_masks, label_map)
        rows: list[FrameRow] = []
        for index, (frame, raw) in enumerate(zip(prediction.frame_names, raw_masks, strict=True)):
            if raw is None:
                continue
            self._check_size(prediction, frame, raw)
            for class_index, truth in enumerate(_truths(raw, label_map, f"mask of {prediction.video}/{frame}")):
                shown = (prediction.probability[class_index, index], prediction.mask[class_index, index], truth)
                for name, protocol in self.protocols.items():
                    values = protocol.per_frame(*shown)
                    rows.append(FrameRow(name, prediction.video, frame, class_index + 1, values))
        self._rows[prediction.video] = rows
        self._unannotated[prediction.video] = sum(raw is None for raw in raw_masks)
        return rows

    @property
    def first(self) -> Protocol:
        """The protocol that was given first."""
        return next(iter(self.protocols.values()))

    @property
    def rows(self) -> list[FrameRow]:
        """All rows, videos by name and frames in their order: the same list for any number of ranks."""
        return [row for video in sorted(self._rows) for row in self._rows[video]]

    def state(self) -> dict:
        """Everything collected, as plain lists and numbers, for another rank's `merge`."""
        rows = {v: [[r.protocol, r.frame, r.class_id, r.values] for r in rows] for v, rows in self._rows.items()}
        return {"set": self.set_name, "rows": rows, "unannotated": dict(self._unannotated)}

    def merge(self, state: Mapping) -> None:
        """Adds another rank's `state`. Raises ValueError when it is of another set or holds a video twice."""
        if state["set"] != self.set_name:
            raise ValueError(f"state is of set {state['set']!r}, this evaluator is of {self.set_name!r}")
        twice = sorted(set(state["rows"]) & set(self._rows))
        if twice:
            raise ValueError(
                f"videos scored twice in set {self.set_name!r}: {', '.join(twice[:5])}; split them by rank"
            )
        for video, rows in state["rows"].items():
            self._rows[video] = [FrameRow(p, video, frame, int(k), dict(values)) for p, frame, k, values in rows]
        self._unannotated.update(state["unannotated"])

    def result(self) -> dict:
        """What was found.

        set, version, weights_hash, videos, frames (scored), frames_without_annotation
        scores   protocol -> metric -> value over the set (several classes: the mean over classes)
        numbers  a list in which each number carries protocol, set, video (None: the set), class_id ("mean": over
                 the classes), metric, value, frames, weights_hash, version

        Raises DataError when no frame was scored.
        """
        rows = self.rows
        if not rows:
            raise DataError(
                f"set {self.set_name!r}: no frame was scored ({len(self._rows)} videos, "
                f"{sum(self._unannotated.values())} frames without annotation); evaluation needs annotated frames"
            )
        scores, numbers = self._tables(rows)
        return {
            "set": self.set_name,
            "version": lgrnet.__version__,
            "weights_hash": self.weights_hash,
            "videos": len(self._rows),
            "frames": len({(row.video, row.frame) for row in rows}),
            "frames_without_annotation": sum(self._unannotated.values()),
            "meaning": {name: protocol.meaning for name, protocol in self.protocols.items()},
            "scores": scores,
            "numbers": numbers,
        }

    def _tables(self, rows: Sequence[FrameRow]) -> tuple[dict, list]:
        """The scores of the set per protocol, and all numbers of the set and of each video."""
        scores, numbers = {}, []
        for name, protocol in self.protocols.items():
            overall = _by_class(protocol, [row for row in rows if row.protocol == name])
            scores[name] = {metric: score.value for metric, score in overall.get("mean", overall[1]).items()}
            numbers += self._numbers(name, None, overall)
            for video in sorted(self._rows):
                of_video = [row for row in self._rows[video] if row.protocol == name]
                if of_video:
                    numbers += self._numbers(name, video, _by_class(protocol, of_video))
        return scores, numbers

    def _numbers(self, protocol: str, video: str | None, by_class: Mapping[int | str, Mapping[str, Score]]) -> list:
        return [
            {
                "protocol": protocol,
                "set": self.set_name,
                "video": video,
                "class_id": class_id,
                "metric": metric,
                "value": score.value,
                "frames": score.frames,
                "weights_hash": self.weights_hash,
                "version": lgrnet.__version__,
            }
            for class_id, scores in by_class.items()
            for metric, score in scores.items()
        ]

    def _check_video(self, prediction: Prediction, raw_masks: Sequence, label_map: LabelMap) -> None:
        video, frames = prediction.video, len(prediction.frame_names)
        if video in self._rows:
            raise DataError(f"video {video!r} was scored before in set {self.set_name!r}; give every video once")
        if len(raw_masks) != frames:
            raise DataError(f"video {video!r} has {frames} predicted frames but {len(raw_masks)} masks; give one each")
        expected = (num_classes(label_map), frames)
        for name in ("mask", "probability"):
            shape = getattr(prediction, name).shape
            if len(shape) != 4 or shape[:2] != expected:
                raise DataError(
                    f"video {video!r}: {name} has shape {shape}, expected [{expected[0]}, {frames}, H, W] "
                    "(classes of the label map, frames)"
                )

    def _check_size(self, prediction: Prediction, frame: str, raw: np.ndarray) -> None:
        height, width = prediction.mask.shape[-2:]
        if raw.shape != (height, width) and not self.resize:
            raise DataError(
                f"video {prediction.video!r}, frame {frame!r}: the prediction is {height} x {width} but the mask on "
                f"disk is {' x '.join(map(str, raw.shape))} (height x width); predict at the size on disk"
            )


def _truths(raw: np.ndarray, label_map: LabelMap, source: str) -> list[np.ndarray]:
    """Grey values uint8 [H, W] per class, so that each protocol may apply its own threshold."""
    if isinstance(label_map, str):
        return [raw]
    return list((class_masks(raw, label_map, source) * 255).astype(np.uint8))


def _by_class(protocol: Protocol, rows: Sequence[FrameRow]) -> dict[int | str, dict[str, Score]]:
    """Class -> metric -> score; with several classes also "mean", over the classes where the number is defined."""
    classes = sorted({row.class_id for row in rows})
    table: dict[int | str, dict[str, Score]] = {
        class_id: protocol.aggregate([row for row in rows if row.class_id == class_id]) for class_id in classes
    }
    if len(classes) > 1:
        table["mean"] = {name: _mean([table[c][name] for c in classes]) for name in protocol.metrics}
    return table


def _mean(scores: Sequence[Score]) -> Score:
    defined = [score.value for score in scores if not math.isnan(score.value)]
    value = math.fsum(defined) / len(defined) if defined else math.nan
    return Score(value, max(score.frames for score in scores))
