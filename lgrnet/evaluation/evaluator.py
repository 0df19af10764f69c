"""One pass over predicted videos, any number of protocols."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np

import lgrnet
from lgrnet.evaluation.annotation import frames_hash, holds_ones, warn_of_grey
from lgrnet.evaluation.attributes import FrameShape
from lgrnet.evaluation.average_precision import AveragePrecision
from lgrnet.evaluation.intervals import UNKNOWN, Interval, encoded, intervals_of, statistics_of
from lgrnet.evaluation.packed_rows import PackedRows, as_json, from_json
from lgrnet.evaluation.protocols import ClipProtocol, ClipRow, FrameRow, LGRNetProtocol, Score, Sliced, overall
from lgrnet.evaluation.slices import Slice, VideoFacts, holds, slices_of, whole_videos
from lgrnet.evaluation.video_scorer import AnyProtocol, VideoScorer, check_prediction, counts_grey, needs_images
from lgrnet.records import BINARY, DataError, LabelMap, Prediction, benchmark_order, check_label_map


class Evaluator:
    """Collects the numbers of one data set.

    protocols     default: LGRNet's
    set_name      name of the data set; it stands beside every number
    weights_hash  of the model that predicts, None when it is not known
    resize        False: a prediction must have its mask's size; True: each protocol resizes by its own rule
    attributes    video -> what is known of it (`lgrnet.evaluation.attributes.read_attributes`); makes slices
    instances     a collector without videos, of the same set: its numbers are asked for, too; it needs `process`

    Raises ValueError when two protocols have one id.
    """

    def __init__(
        self,
        protocols: Sequence[AnyProtocol] | None = None,
        set_name: str = "unnamed",
        weights_hash: str | None = None,
        resize: bool = False,
        attributes: Mapping[str, Mapping[str, object]] | None = None,
        instances: AveragePrecision | None = None,
    ):
        given = protocols
        protocols = list(given or ()) if isinstance(given, Iterable | None) else [None]
        if not all(hasattr(protocol, "id") for protocol in protocols):
            raise ValueError(f"protocols is {given!r}; expected a list of protocols, such as [LGRNetProtocol()]")
        protocols = protocols or [LGRNetProtocol()]
        self.protocols = {protocol.id: protocol for protocol in protocols}
        if len(self.protocols) < len(protocols):
            raise ValueError(f"protocols are {[p.id for p in protocols]}; give every one once")
        self.set_name, self.weights_hash, self.resize = set_name, weights_hash, resize
        self._rows: dict[str, PackedRows] = {}
        self._clips: dict[str, list[ClipRow]] = {}
        self._annotated: dict[str, list[str]] = {}
        self._notes: dict[str, dict] = {}
        self._facts: dict[str, VideoFacts] = {}
        self._attributes, self.instances = attributes or {}, instances
        self._result: dict | None = None

    def process(
        self,
        prediction: Prediction,
        raw_masks: Sequence[np.ndarray | None],
        label_map: LabelMap = "binary",
        meta: Mapping[str, object] | None = None,
        images: Callable[[int], np.ndarray] | None = None,
        ones: bool | None = None,
    ) -> list[FrameRow]:
        """Scores one video and returns its rows, frames in the benchmark's order (`benchmark_key`) whatever order the
        model had them in: which frames are the ends of a clip, or neighbours, follows their names.

        raw_masks  one [H, W] per frame of what `VideoScorer.add` takes, None: not annotated (only protocols of videos
                   see the frame)
        meta       see `end`
        images     gives the image of a frame by its index, uint8 [H1, W1, 3]; only asked where a protocol needs it
        ones       whether masks of 0 and 1 stand for 0 and 255; None: where `holds_ones` says so of the arrays alone,
                   which cannot tell them from JPEGs of empty masks

        Raises DataError naming video and frame when a size, the number of masks or classes does not fit, or when
        the video was scored before.
        """
        label_map = check_label_map(label_map)
        check_prediction(prediction, raw_masks, label_map)
        scorer = self.begin(prediction.video, label_map)
        shown = images if images is not None and needs_images(self.protocols.values()) else lambda index: None
        ones = holds_ones(raw_masks) if ones is None else ones
        for index in benchmark_order(prediction.frame_names):
            maps = prediction.probability[:, index], prediction.mask[:, index]
            scorer.add(prediction.frame_names[index], *maps, raw_masks[index], shown(index), ones)
        if self.instances is not None:
            self.instances.process(prediction, raw_masks, label_map)
        return self.end(scorer, meta)

    def begin(self, video: str, label_map: LabelMap = "binary") -> VideoScorer:
        """A video that is to be scored frame by frame: `add` its frames, then `end` it.

        Raises DataError when the video was scored before.
        """
        if video in self._rows:
            raise DataError(f"video {video!r} was scored before in set {self.set_name!r}; give every video once")
        return VideoScorer(video, label_map, self.protocols, self.resize, self.instances is not None)

    def end(self, scorer: VideoScorer, meta: Mapping[str, object] | None = None) -> list[FrameRow]:
        """Takes in a video that has all its frames, and returns its rows. Raises DataError as `begin` does.

        meta  what is known of the video (of `VideoRecord.meta` what is a text, a number, True or False makes slices);
              the evaluator's attributes go before it
        """
        if scorer.video in self._rows:
            raise DataError(f"video {scorer.video!r} was scored before in set {self.set_name!r}; give it once")
        self._result = None
        self._rows[scorer.video] = PackedRows(scorer.rows)
        self._clips[scorer.video] = scorer.clips()
        self._annotated[scorer.video] = scorer.annotated
        self._notes[scorer.video] = scorer.notes
        known = {name: value for name, value in (meta or {}).items() if isinstance(value, (str, bool, int, float))}
        self._facts[scorer.video] = VideoFacts(tuple(scorer.shapes), tuple(scorer.shapes.values()), known)
        return scorer.rows

    @property
    def first(self) -> AnyProtocol:
        """The protocol that was given first."""
        return next(iter(self.protocols.values()))

    @property
    def rows(self) -> list[FrameRow]:
        """All rows, videos by name and frames in their order: the same list for any number of ranks."""
        return list(self.each_row())

    def each_row(self) -> Iterator[FrameRow]:
        """The same, one at a time, in the memory of one."""
        for video in sorted(self._rows):
            yield from self._rows[video]

    @property
    def clips(self) -> list[ClipRow]:
        """What the protocols of videos keep, videos by name: the same list for any number of ranks."""
        return [clip for video in sorted(self._clips) for clip in self._clips[video]]

    @property
    def split_hash(self) -> str:
        """SHA-256 of the names of all annotated frames: which frames the numbers are of, whoever predicts.

        Hashed are `<video>/<frame>` in UTF-8, each followed by a zero byte, sorted. The order of videos and frames and
        the folder they lie in make no difference.
        """
        return frames_hash(self._annotated)

    def state(self) -> dict:
        """Everything collected, as plain lists and numbers, for another rank's `merge`."""
        return {
            "set": self.set_name,
            "rows": {v: [[r.protocol, r.frame, r.class_id, r.values] for r in rows] for v, rows in self._rows.items()},
            "clips": {
                v: [[c.protocol, c.class_id, c.frames, {k: as_json(x) for k, x in c.values.items()}] for c in clips]
                for v, clips in self._clips.items()
            },
            "annotated": dict(self._annotated),
            "protocols": self._meaning(),
            "notes": dict(self._notes),
            "instances": None if self.instances is None else self.instances.state(),
            "facts": {
                v: [list(x.frames), [list(s) if s else s for s in x.shapes], dict(x.attributes)]
                for v, x in self._facts.items()
            },
        }

    def merge(self, state: Mapping) -> None:
        """Adds another rank's `state`. Raises ValueError when it is of another set, of other protocols (or settings of
        theirs), or holds a video twice."""
        if state["set"] != self.set_name:
            raise ValueError(f"state is of set {state['set']!r}, this evaluator is of {self.set_name!r}")
        if state["protocols"] != self._meaning():
            theirs = ", ".join(f"{name}: {meaning}" for name, meaning in state["protocols"].items())
            raise ValueError(f"state is of other protocols ({theirs}); give both evaluators the same")
        twice = sorted(set(state["rows"]) & set(self._rows))
        if twice:
            raise ValueError(
                f"videos scored twice in set {self.set_name!r}: {', '.join(twice[:5])}; split them by rank"
            )
        if (self.instances is None) != (state["instances"] is None):
            raise ValueError("instances were collected on one side only; give both evaluators a collector or none")
        if self.instances is not None:
            self.instances.merge(state["instances"])
        self._result = None
        for video, rows in state["rows"].items():
            self._rows[video] = PackedRows([FrameRow(p, video, frame, k, values) for p, frame, k, values in rows])
        for video, clips in state["clips"].items():
            self._clips[video] = [
                ClipRow(p, video, k, frames, {name: from_json(x) for name, x in values.items()})
                for p, k, frames, values in clips
            ]
        self._annotated.update(state["annotated"])
        self._notes.update(state["notes"])
        for video, (frames, shapes, attributes) in state["facts"].items():
            known = tuple(None if shape is None else FrameShape(*shape) for shape in shapes)
            self._facts[video] = VideoFacts(tuple(frames), known, attributes)

    def result(self) -> dict:
        """What was found.

        set, version, weights_hash, split_hash, videos, frames (annotated), frames_without_annotation, label_maps (as
                    texts), video_hashes (as split_hash, of one video)
        scores      protocol -> metric -> value over the set (several classes: the mean over classes)
        intervals   protocol -> metric -> [lower, upper], 95 % over videos (see `intervals.py`), or None: unknown
        slices      protocol -> part of the set -> videos, frames, scores and intervals: the protocol's own parts and
                    those of `slices_of`; scores is None for a part without frames
        statistics  protocol -> class -> video -> what `compare` needs, see `intervals.encoded`
        numbers     a list in which each number carries protocol, set, video (None: the set), slice (None: all frames),
                    class_id ("mean": over the classes, "all": of all at once), metric, value (None: no frames), lower
                    and upper (of its interval), frames, weights_hash, split_hash (of the whole set), version

        instances   average precision, see `AveragePrecision.result`; None: not asked for

        Raises DataError when no frame was scored. Warns when no annotation of the set shows a class but some show
        pixels that the label map ignores.
        """
        if self._result is None:
            self._result = self._found()
        return self._result

    def _found(self) -> dict:
        if not any(self._annotated.values()) and not any(clip.frames for clip in self.clips):
            raise DataError(
                f"set {self.set_name!r}: no frame was scored ({len(self._rows)} videos, "
                f"{self._noted('unannotated')} frames without annotation); evaluation needs annotated frames"
            )
        self._warn_of_ignored()
        warn_of_grey(
            self.set_name,
            {video: notes["grey"] for video, notes in self._notes.items()},
            [p.id for p in self.protocols.values() if counts_grey(p)],
            self.instances is not None,
        )
        tables = self._tables()
        split = {"split_hash": self.split_hash}
        return {
            "set": self.set_name,
            "version": lgrnet.__version__,
            "weights_hash": self.weights_hash,
            **split,
            "videos": len(self._rows),
            "frames": sum(map(len, self._annotated.values())),
            "frames_without_annotation": self._noted("unannotated"),
            "label_maps": sorted({notes["label_map"] for notes in self._notes.values()}),
            "video_hashes": {video: frames_hash({video: frames}) for video, frames in sorted(self._annotated.items())},
            "meaning": self._meaning(),
            **tables,
            "instances": None if self.instances is None else self.instances.result(),
            "numbers": [number | split for number in tables["numbers"]],
        }

    def _meaning(self) -> dict[str, str]:
        return {name: protocol.meaning for name, protocol in self.protocols.items()}

    def _noted(self, what: str) -> int:
        return sum(notes[what] for notes in self._notes.values())

    def _warn_of_ignored(self) -> None:
        ignored = self._noted("only_ignored")
        if ignored and not any(shape and shape.area for facts in self._facts.values() for shape in facts.shapes):
            frames = sum(map(len, self._annotated.values()))
            warnings.warn(
                f"set {self.set_name!r}: no mask shows a class, and {ignored} of {frames} annotated frames have pixels "
                f"that the label map ignores, and else background; set {BINARY} for masks of 0 and 255",
                stacklevel=3,
            )

    def _tables(self) -> dict[str, dict]:
        """What `result` holds of each protocol."""
        tables: dict = {name: {} for name in ("scores", "intervals", "slices", "statistics")}
        tables["numbers"] = []
        known = self._attributes
        parts = slices_of(
            {v: replace(x, attributes={**x.attributes, **known.get(v, {})}) for v, x in self._facts.items()}
        )
        for name, protocol in self.protocols.items():
            of_clips = isinstance(protocol, ClipProtocol)
            of_videos = {
                v: [c for c in self._clips[v] if c.protocol == name] if of_clips else list(self._rows[v].of(name))
                for v in sorted(self._rows)
            }
            own = [row for rows in of_videos.values() for row in rows]
            if not own:
                tables["scores"][name] = dict.fromkeys(protocol.metrics)
                continue
            of_set, statistics = _by_class(protocol, own), statistics_of(protocol, own)
            bounds = intervals_of(protocol, statistics)
            tables["scores"][name], tables["intervals"][name] = _plain_scores(of_set), _plain_intervals(bounds)
            tables["statistics"][name] = encoded(statistics)
            tables["numbers"] += self._numbers(name, of_set, bounds)
            tables["slices"][name] = {}
            for part, members, sums in _parts(protocol, own, statistics, parts):
                table = _by_class(protocol, members) if members else _without_frames(of_set)
                bounds = intervals_of(protocol, sums)
                tables["slices"][name][part] = {
                    "videos": len({row.video for row in members}),
                    "frames": _frames(members),
                    "scores": _plain_scores(table) if members else None,
                    "intervals": _plain_intervals(bounds),
                }
                tables["numbers"] += self._numbers(name, table, bounds, part=part)
            for video, rows in of_videos.items():
                if rows:
                    tables["numbers"] += self._numbers(name, _by_class(protocol, rows), {}, video)
        return tables

    def _numbers(
        self,
        protocol: str,
        by_class: Mapping[int | str, Mapping[str, Score]],
        intervals: Mapping[int | str, Mapping[str, Interval]],
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
                **asdict(intervals.get(class_id, {}).get(metric, UNKNOWN)),
                "frames": score.frames,
                "weights_hash": self.weights_hash,
                "version": lgrnet.__version__,
            }
            for class_id, scores in by_class.items()
            for metric, score in scores.items()
        ]


def _parts(
    protocol: AnyProtocol, rows: Sequence, statistics: Mapping, parts: Mapping[str, Slice]
) -> Iterator[tuple[str, list, Mapping]]:
    """Name, rows and statistics of each slice of a protocol: its own ones, then those that all protocols share.

    Protocols that score a clip as a whole have no slices of frames.
    """
    if isinstance(protocol, Sliced):
        for name, members in protocol.slices(rows).items():
            yield name, members, statistics_of(protocol, members)
    for name, part in parts.items():
        if whole_videos(part):
            members = [row for row in rows if row.video in part]
            chosen = {k: {v: s for v, s in of.items() if v in part} for k, of in statistics.items()}
            sums = {class_id: of_videos for class_id, of_videos in chosen.items() if of_videos}
        elif isinstance(protocol, ClipProtocol):
            continue
        else:
            members = [row for row in rows if holds(part, row.video, row.frame)]
            sums = statistics_of(protocol, members)
        if members:
            yield name, members, sums


def _plain_intervals(by_class: Mapping[int | str, Mapping[str, Interval]]) -> dict[str, list[float]] | None:
    """Metric -> [lower, upper] of what `_plain_scores` shows; None: unknown."""
    if not by_class:
        return None
    return {metric: [bounds.lower, bounds.upper] for metric, bounds in overall(by_class).items()}


def _frames(rows: Sequence[FrameRow | ClipRow]) -> int:
    """How many frames some rows are of; clips of several classes are of the same frames."""
    clips = {row.video: row.frames for row in rows if isinstance(row, ClipRow)}
    return sum(clips.values()) + len({(row.video, row.frame) for row in rows if isinstance(row, FrameRow)})


def _by_class(protocol: AnyProtocol, rows: Sequence[FrameRow] | Sequence[ClipRow]) -> dict[int | str, dict[str, Score]]:
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
    return {metric: score.value for metric, score in overall(by_class).items()}


def _without_frames(by_class: Mapping[int | str, Mapping[str, Score]]) -> dict[int | str, dict[str, Score]]:
    """The same table where nothing was scored: a value that is neither 0 nor a number."""
    return {class_id: dict.fromkeys(scores, Score(None, 0)) for class_id, scores in by_class.items()}


def _mean(scores: Sequence[Score]) -> Score:
    defined = [score.value for score in scores if not math.isnan(score.value)]
    value = math.fsum(defined) / len(defined) if defined else math.nan
    return Score(value, max(score.frames for score in scores))
