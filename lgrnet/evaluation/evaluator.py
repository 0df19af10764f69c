"""One pass over predicted videos, any number of protocols."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

import lgrnet
from lgrnet.evaluation.protocols import (
    ALL_CLASSES,
    FrameRow,
    LGRNetProtocol,
    Protocol,
    Score,
    Sliced,
    WholeFrameProtocol,
)
from lgrnet.records import DataError, LabelMap, Prediction, class_masks, ignored_pixels, num_classes

AnyProtocol = Protocol | WholeFrameProtocol


class Evaluator:
    """Collects the numbers of one data set.

    protocols     default: LGRNet's
    set_name      name of the data set; it stands beside every number
    weights_hash  of the model that predicts, None when it is not known
    resize        False: a prediction must have its mask's size; True: each protocol resizes by its own rule
    """

    def __init__(
        self,
        protocols: Sequence[AnyProtocol] | None = None,
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
            truth = _truth(raw, label_map, f"mask of {prediction.video}/{frame}")
            shown = (prediction.probability[:, index], prediction.mask[:, index], truth)
            for name, class_id, values in self._values(shown, ignored_pixels(raw, label_map)):
                rows.append(FrameRow(name, prediction.video, frame, class_id, values))
        self._rows[prediction.video] = rows
        self._unannotated[prediction.video] = sum(raw is None for raw in raw_masks)
        return rows

    @property
    def first(self) -> AnyProtocol:
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
            self._rows[video] = [FrameRow(p, video, frame, k, dict(values)) for p, frame, k, values in rows]
        self._unannotated.update(state["unannotated"])

    def result(self) -> dict:
        """What was found.

        set, version, weights_hash, videos, frames (scored), frames_without_annotation
        scores   protocol -> metric -> value over the set (several classes: the mean over classes)
        slices   protocol -> part of the set -> frames and scores, of protocols that have parts; scores is None for a
                 part without frames
        numbers  a list in which each number carries protocol, set, video (None: the set), slice (None: all frames),
                 class_id ("mean": over the classes, "all": of all at once), metric, value (None: no frames), frames,
                 weights_hash, version

        Raises DataError when no frame was scored.
        """
        rows = self.rows
        if not rows:
            raise DataError(
                f"set {self.set_name!r}: no frame was scored ({len(self._rows)} videos, "
                f"{sum(self._unannotated.values())} frames without annotation); evaluation needs annotated frames"
            )
        scores, slices, numbers = self._tables(rows)
        return {
            "set": self.set_name,
            "version": lgrnet.__version__,
            "weights_hash": self.weights_hash,
            "videos": len(self._rows),
            "frames": len({(row.video, row.frame) for row in rows}),
            "frames_without_annotation": sum(self._unannotated.values()),
            "meaning": {name: protocol.meaning for name, protocol in self.protocols.items()},
            "scores": scores,
            "slices": slices,
            "numbers": numbers,
        }

    def _values(
        self, shown: tuple[np.ndarray, np.ndarray, np.ndarray], ignored: np.ndarray
    ) -> Iterator[tuple[str, int | str, dict[str, float]]]:
        """Protocol, class and numbers of one frame; `shown` is its probability, mask and truth, [K, H, W] each."""
        for class_id, of_class in enumerate(zip(*shown, strict=True), start=1):
            for name, protocol in self.protocols.items():
                if not isinstance(protocol, WholeFrameProtocol):
                    yield name, class_id, protocol.per_frame(*of_class)
        for name, protocol in self.protocols.items():
            if isinstance(protocol, WholeFrameProtocol):
                yield name, ALL_CLASSES, protocol.whole_frame(*shown, ignored)

    def _tables(self, rows: Sequence[FrameRow]) -> tuple[dict, dict, list]:
        """The scores of the set and of its slices per protocol, and all numbers of the set, its slices and videos."""
        scores, slices, numbers = {}, {}, []
        for name, protocol in self.protocols.items():
            own = [row for row in rows if row.protocol == name]
            overall = _by_class(protocol, own)
            scores[name] = _plain_scores(overall)
            numbers += self._numbers(name, overall)
            if isinstance(protocol, Sliced):
                slices[name] = {}
                for part, members in protocol.slices(own).items():
                    table = _by_class(protocol, members) if members else _without_frames(overall)
                    frames = len({(row.video, row.frame) for row in members})
                    slices[name][part] = {"frames": frames, "scores": _plain_scores(table) if members else None}
                    numbers += self._numbers(name, table, part=part)
            for video in sorted(self._rows):
                of_video = [row for row in self._rows[video] if row.protocol == name]
                if of_video:
                    numbers += self._numbers(name, _by_class(protocol, of_video), video)
        return scores, slices, numbers

    def _numbers(
        self,
        protocol: str,
        by_class: Mapping[int | str, Mapping[str, Score]],
        video: str | None = None,
        part: str | None = None,
    ) -> list:
        return [
            {
                "protocol": protocol,
                "set": self.set_name,
                "video": video,
                "slice": part,
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


def _truth(raw: np.ndarray, label_map: LabelMap, source: str) -> np.ndarray:
    """Grey values uint8 [K, H, W] per class, so that each protocol may apply its own threshold.

    A mask of 0 and 1 comes as 0 and 255: it has no grey values, and some thresholds are near 255.
    """
    if isinstance(label_map, str):
        return raw[None] * np.uint8(255) if raw.max(initial=0) == 1 else raw[None]
    return (class_masks(raw, label_map, source) * 255).astype(np.uint8)


def _by_class(protocol: AnyProtocol, rows: Sequence[FrameRow]) -> dict[int | str, dict[str, Score]]:
    """Class -> metric -> score; with several classes also "mean", over the classes where the number is defined."""
    classes = sorted({row.class_id for row in rows})
    table: dict[int | str, dict[str, Score]] = {
        class_id: protocol.aggregate([row for row in rows if row.class_id == class_id]) for class_id in classes
    }
    if len(classes) > 1:
        table["mean"] = {name: _mean([table[c][name] for c in classes]) for name in protocol.metrics}
    return table


def _plain_scores(by_class: Mapping[int | str, Mapping[str, Score]]) -> dict[str, float]:
    """Metric -> value of the mean over classes, or of the one class that there is."""
    scores = by_class["mean"] if "mean" in by_class else next(iter(by_class.values()))
    return {metric: score.value for metric, score in scores.items()}


def _without_frames(by_class: Mapping[int | str, Mapping[str, Score]]) -> dict[int | str, dict[str, Score]]:
    """The same table where nothing was scored: a value that is neither 0 nor a number."""
    return {class_id: dict.fromkeys(scores, Score(None, 0)) for class_id, scores in by_class.items()}


def _mean(scores: Sequence[Score]) -> Score:
    defined = [score.value for score in scores if not math.isnan(score.value)]
    value = math.fsum(defined) / len(defined) if defined else math.nan
    return Score(value, max(score.frames for score in scores))
