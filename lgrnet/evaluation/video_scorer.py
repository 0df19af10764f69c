"""One video, scored frame by frame."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from lgrnet.evaluation.annotation import raw_bytes
from lgrnet.evaluation.attributes import FrameShape, frame_shape
from lgrnet.evaluation.maps import eight_bits
from lgrnet.evaluation.protocols import (
    ALL_CLASSES,
    ClipFold,
    ClipProtocol,
    ClipRow,
    FrameRow,
    Protocol,
    WholeFrameProtocol,
)
from lgrnet.records import (
    DataError,
    LabelMap,
    Prediction,
    check_label_map,
    class_masks,
    ignored_pixels,
    num_classes,
    only_ignored,
)

AnyProtocol = Protocol | WholeFrameProtocol | ClipProtocol


def needs_images(protocols: Iterable[AnyProtocol]) -> bool:
    """Whether one of the protocols has to see the frames themselves."""
    return any(getattr(protocol, "needs_images", False) for protocol in protocols)


def drop_ends(protocols: Iterable[AnyProtocol]) -> bool:
    """Whether all of the protocols make nothing of the first and the last annotated frame of a video."""
    return all(getattr(protocol, "drop_ends", False) for protocol in protocols)


def counts_grey(protocol: AnyProtocol) -> bool:
    """Whether every value above 0 of a mask is the lesion to a protocol, whatever a label map of greys says."""
    return getattr(protocol, "counts_grey", False)


class VideoScorer:
    """The numbers of one video on their way; `Evaluator.begin` makes it, `Evaluator.end` takes it.

    Between two frames nothing is kept but numbers. `shapes` are those of the annotated lesions (above 127, so that grey
    edges do not widen them), by the frames' names, None: not annotated.

    label_map  of the masks
    resize     whether maps of another size than the truth are brought to it; False: they are an error
    instances  whether objects are counted beside the protocols, to which a binary label map is what it says
    """

    def __init__(
        self,
        video: str,
        label_map: LabelMap,
        protocols: Mapping[str, AnyProtocol],
        resize: bool,
        instances: bool = False,
    ):
        self.video, self.label_map, self.protocols, self.resize = video, check_label_map(label_map), protocols, resize
        self.rows: list[FrameRow] = []
        self._only_ignored = self._grey = self._brightest = 0
        greedy = any(map(counts_grey, protocols.values())) or (instances and self.label_map == "binary")
        self._watches_grey = greedy and isinstance(self.label_map, str)
        self.shapes: dict[str, FrameShape | None] = {}
        self._missed: set[str] = set()
        self._folds: dict[tuple[str, int], ClipFold] = {
            (name, class_id): protocol.begin()
            for class_id in range(1, num_classes(label_map) + 1)
            for name, protocol in protocols.items()
            if isinstance(protocol, ClipProtocol)
        }

    @property
    def annotated(self) -> list[str]:
        """The annotated frames that the numbers are of, in order; where all protocols drop the ends of a video, these
        are among them without a prediction, too."""
        frames = [frame for frame, shape in self.shapes.items() if shape is not None]
        dropped = frames[:1] + frames[-1:] if drop_ends(self.protocols.values()) else []
        return [frame for frame in frames if frame not in self._missed or frame in dropped]

    @property
    def notes(self) -> dict[str, int | str]:
        """Of its annotations.

        unannotated   how many frames are without one
        only_ignored  how many of them show pixels to ignore, and no class
        grey          how many pixels `counts_grey` speaks of that the label map does not make the lesion; of a binary
                      one those between 0 and the maximum of their mask
        label_map     as a text
        """
        of_values = self.label_map
        if not isinstance(of_values, str):
            of_values = str({value: klass for value, klass in sorted(of_values.items()) if klass})
        return {
            "unannotated": sum(shape is None for shape in self.shapes.values()),
            "only_ignored": self._only_ignored,
            "grey": self._grey,
            "label_map": of_values,
        }

    def add(
        self,
        frame: str,
        probability: np.ndarray,
        mask: np.ndarray | None = None,
        raw: np.ndarray | None = None,
        image: np.ndarray | None = None,
        ones: bool = True,
    ) -> None:
        """Scores the next frame, in temporal order.

        frame        its name, once in a video
        probability  [K, H, W] or, of one class, [H, W]: uint8, or what `eight_bits` takes
        mask         bool, the same shape, by the model's own rule; None: where the map is above half of its range
        raw          uint8 [H0, W0] of the annotation (or bool, or other integers 0..255); None: not annotated
        image        uint8 [H1, W1, 3], the frame itself, for protocols that need it
        ones         whether a mask of 0 and 1 stands for 0 and 255, see `annotation.holds_ones`; a label map that is a
                     mapping says so itself

        Raises DataError, naming video and frame, when a size or the number of classes does not fit, a value is no
        probability or unknown to the label map, or the frame came before. The frame has then not been scored.
        """
        source = f"video {self.video!r}, frame {frame!r}"
        if image is None and needs_images(self.protocols.values()):
            raise DataError(f"{source} came without its image, which a protocol needs; give it, or take flow=False")
        if frame in self.shapes:
            raise DataError(f"{source} was given before; give every frame once")
        probability = eight_bits(np.asarray(probability), f"map of {source}")
        mask = probability > 127 if mask is None else np.asarray(mask)
        probability, mask = (array[None] if array.ndim == 2 else array for array in (probability, mask))
        raw = None if raw is None else raw_bytes(raw, self.label_map, source)
        self._check(source, probability, mask, raw)
        truth = None if raw is None else _truth(raw, self.label_map, f"mask of {self.video}/{frame}", ones)
        ignored = None if raw is None else ignored_pixels(raw, self.label_map)
        for name, class_id, values in self._values(probability, mask, truth, ignored, image):
            if values:
                self.rows.append(FrameRow(name, self.video, frame, class_id, values))
        self._note(frame, truth, raw)

    def miss(self, frame: str, raw: np.ndarray, ones: bool = True) -> None:
        """Takes in the next frame where it is annotated but has no prediction: its place in the video counts.

        Arguments as in `add`. Raises DataError for a frame that came before, and values unknown to the label map.
        """
        if frame in self.shapes:
            raise DataError(f"video {self.video!r}, frame {frame!r} was given before; give every frame once")
        raw = raw_bytes(raw, self.label_map, f"video {self.video!r}, frame {frame!r}")
        truth = _truth(raw, self.label_map, f"mask of {self.video}/{frame}", ones)
        for fold in self._folds.values():
            fold.miss()
        self._missed.add(frame)
        self._note(frame, truth, raw)

    def clips(self) -> list[ClipRow]:
        """What the protocols of videos keep; to be called once, after the last frame.

        Warns of masks without white: some protocols see nothing in them, as published.
        """
        if self.label_map == "binary" and 1 < self._brightest < 255:
            warnings.warn(
                f"masks have {self._brightest} as their largest value, not 255: protocols that compare values, such as "
                "vps, ssformer-test and study, see less of them, or nothing; save them as 0 and 255, or say which "
                f"values are foreground (label_map={ {self._brightest: 1} }; tools/score_masks.py: --foreground)",
                stacklevel=3,
            )
        return [ClipRow(name, self.video, class_id, *fold.end()) for (name, class_id), fold in self._folds.items()]

    def _note(self, frame: str, truth: np.ndarray | None, raw: np.ndarray | None) -> None:
        self.shapes[frame] = None if truth is None else frame_shape(truth > 127)
        if raw is not None:
            self._only_ignored += only_ignored(raw, self.label_map)
            self._brightest = max(self._brightest, int(raw.max(initial=0)))
            if self._watches_grey:
                (grey,) = truth  # masks of ones have become 255
                end = {"binary": int(grey.max(initial=0)), "full": 255}.get(self.label_map, 128)
                self._grey += int(np.count_nonzero((grey > 0) & (grey < end)))

    def _values(
        self,
        probability: np.ndarray,
        mask: np.ndarray,
        truth: np.ndarray | None,
        ignored: np.ndarray | None,
        image: np.ndarray | None,
    ) -> Iterator[tuple[str, int | str, dict[str, float]]]:
        """Protocol, class and numbers of one frame; the arrays are [K, H, W], `ignored` [H, W]."""
        for index in range(len(probability)):
            there = None if truth is None else truth[index]
            for name, protocol in self.protocols.items():
                if isinstance(protocol, ClipProtocol):
                    fold = self._folds[name, index + 1]
                    yield name, index + 1, fold.add(probability[index], mask[index], there, image)
                elif there is not None and not isinstance(protocol, WholeFrameProtocol):
                    yield name, index + 1, protocol.per_frame(probability[index], mask[index], there)
        for name, protocol in self.protocols.items():
            if truth is not None and isinstance(protocol, WholeFrameProtocol):
                yield name, ALL_CLASSES, protocol.whole_frame(probability, mask, truth, ignored)

    def _check(self, source: str, probability: np.ndarray, mask: np.ndarray, raw: np.ndarray | None) -> None:
        classes = num_classes(self.label_map)
        for name, array in (("probability", probability), ("mask", mask)):
            if array.ndim != 3 or len(array) != classes or array.shape != probability.shape or not array.size:
                raise DataError(
                    f"{source}: {name} has shape {array.shape}, expected [{classes}, H, W] (classes of the label map), "
                    "the same for probability and mask"
                )
        if mask.dtype != bool:
            raise DataError(f"{source}: mask is of {mask.dtype}, expected bool, such as map > 127")
        if raw is not None and raw.shape != mask.shape[1:] and not self.resize:
            raise DataError(
                f"{source}: the prediction is {mask.shape[1]} x {mask.shape[2]} but the mask on disk is "
                f"{raw.shape[0]} x {raw.shape[1]} (height x width); predict at the size on disk"
            )


def check_prediction(prediction: Prediction, raw_masks: Sequence, label_map: LabelMap) -> None:
    """Raises DataError, naming the video, unless a prediction has a frame per mask and the classes of the label map."""
    video, frames = prediction.video, len(prediction.frame_names)
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


def _truth(raw: np.ndarray, label_map: LabelMap, source: str, ones: bool) -> np.ndarray:
    """Grey values uint8 [K, H, W] per class, so that each protocol may apply its own threshold.

    A mask of 0 and 1 that stands for 0 and 255 comes as these: some thresholds are near 255.
    """
    if isinstance(label_map, str):
        return raw[None] * np.uint8(255) if ones and raw.max(initial=0) == 1 else raw[None]
    return (class_masks(raw, label_map, source) * 255).astype(np.uint8)
