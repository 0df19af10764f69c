"""Scores maps on disk, one frame in memory at a time, on one process or several."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lgrnet.evaluation.annotation import holds_ones
from lgrnet.evaluation.average_precision import AveragePrecision
from lgrnet.evaluation.evaluator import Evaluator
from lgrnet.evaluation.html_pictures import Picture, Pictures
from lgrnet.evaluation.maps import eight_bits
from lgrnet.evaluation.mask_trees import Frames, MaskPairs, read_map
from lgrnet.evaluation.metrics import resize_nearest
from lgrnet.evaluation.video_scorer import AnyProtocol, needs_images
from lgrnet.records import (
    IGNORE,
    DataError,
    LabelMap,
    Prediction,
    check_values,
    class_masks,
    frame_size,
    read_frame,
    read_mask,
)
from lgrnet.records.pictures import is_lossy

Paths = Mapping[str, tuple[Path, Path]]


def score_pairs(
    pairs: MaskPairs,
    protocols: Sequence[AnyProtocol],
    set_name: str,
    weights_hash: str | None = None,
    label_map: LabelMap = "binary",
    workers: int = 1,
    say: Callable[[str], None] = lambda text: None,
    attributes: Mapping[str, Mapping[str, object]] | None = None,
    images: Mapping[str, Frames] | None = None,
    instances: str | None = None,
    indexed: bool = False,
) -> Evaluator:
    """The numbers of all frames that have a prediction and an annotation; each protocol resizes by its own rule.

    workers  processes that share the videos; the numbers are the same for any number of them
    say      told now and then how far it is
    attributes  see `Evaluator`
    images     of `find_frames`, for protocols that need them
    instances  "frame" or "video": average precision in this form, too (see `AveragePrecision`). The one detection of a
               video is the mask above half of the range, its score the mean of the map in it. A whole video's masks
               are in memory then.

    indexed    maps hold the raw values of the label map, which is then a mapping, in place of grey values: of one class
               or several

    Raises DataError, naming the files, for maps and masks that cannot be read or scored, and where no map has a value
    above 1, although some have 1: they are masks of 0 and 1, of which nothing is above half of the range of a byte.
    Likewise where no map of 16 bits has a value above 255, although some are above 0, and where a label map that is a
    mapping has no class in any mask, although some have values above 0.
    """
    shown = images if needs_images(protocols) else None
    job = _Job(tuple(protocols), set_name, label_map, shown, instances, indexed, pairs.no_lesion)
    evaluator = job.evaluator(weights_hash, attributes)
    highest = _Levels()
    for number, (state, levels) in enumerate(_scored(job, pairs, workers), start=1):
        evaluator.merge(state)
        highest = _Levels(*map(max, highest, levels))
        if number % max(1, len(pairs.pairs) // 8) == 0:
            say(f"{set_name}: {number} of {len(pairs.pairs)} videos")
    if highest.map == 1:
        raise DataError("no predicted map has a value above 1, they are masks of 0 and 1; save them as 0 and 255")
    if 0 < highest.map_of_16 < 256:
        hint = "they hold values of 8 bits; save them with 8 bits, or times 257"
        raise DataError(f"no predicted map of 16 bits has a value above 255, {hint}")
    if 1 < highest.map <= 127 and highest.lesion and not indexed:
        warnings.warn(
            f"set {set_name!r}: no predicted map has a value above {highest.map}, so that nothing is above half of the "
            "range, where masks show a lesion; maps of percents, of classes or of 12 bits must be brought to 0..255",
            stacklevel=2,
        )
    if highest.mask and not highest.labelled:
        given = sorted(value for value, klass in label_map.items() if klass)
        raise DataError(f"no mask has one of the values {given}; the largest that masks have is {highest.mask}")
    return evaluator


def pair_pictures(
    pairs: MaskPairs,
    label_map: LabelMap = "binary",
    images: Mapping[str, Frames] | None = None,
    indexed: bool = False,
) -> Pictures:
    """What the HTML report shows of maps on disk: outlines of truth and of what is above half of the range, on the
    frame where its image is known.

    Arguments as for `score_pairs`. Raises what reading raises.
    """

    def picture(video: str, frame: str) -> Picture:
        prediction, annotation = pairs.pairs[video][frame]
        truth = class_masks(_raw_mask(annotation, label_map, pairs.no_lesion), label_map, annotation) > 0
        image = None if images is None else read_frame(images[video][frame])
        found = _read_prediction(prediction, label_map, indexed)[1] > 127
        return Picture(image, truth, found if indexed else found[None])

    return picture


class _Levels(NamedTuple):
    """The highest values.

    map        of maps, as bytes
    map_of_16  of maps of 16 bits, as they are
    mask       of masks, where the label map is a mapping
    labelled   of these masks, of those values that are of a class
    lesion     of all masks, of what is no background
    """

    map: int = 0
    map_of_16: int = 0
    mask: int = 0
    labelled: int = 0
    lesion: int = 0


@dataclass(frozen=True)
class _Job:
    """What every process does with its videos."""

    protocols: tuple[AnyProtocol, ...]
    set_name: str
    label_map: LabelMap
    images: Mapping[str, Frames] | None
    instances: str | None
    indexed: bool
    no_lesion: bool

    def evaluator(self, weights_hash: str | None = None, attributes: Mapping | None = None) -> Evaluator:
        """One without videos."""
        average = None if self.instances is None else AveragePrecision(self.instances, set_name=self.set_name)
        return Evaluator(self.protocols, self.set_name, weights_hash, True, attributes, average)

    def __call__(self, video: str, paths: Paths, annotated: Frames) -> tuple[dict, _Levels]:
        """The state of an evaluator with this one video, and the highest values in it.

        annotated  frame -> annotation of all frames, also of those without a map
        """
        evaluator, levels, maps, ones = self.evaluator(), _Levels(), [], None
        scorer, masks = evaluator.begin(video, self.label_map), list(annotated.values())
        for frame, annotation in annotated.items():
            if not isinstance(self.label_map, str) and not self.no_lesion and is_lossy(annotation):
                raise DataError(
                    f"{annotation} is stored with loss, so that its values are noisy; chosen values (--foreground, "
                    "--classes, --ignore) need exact ones: save the masks as PNG, or choose none"
                )
            raw = _raw_mask(annotation, self.label_map, self.no_lesion)
            check_values(raw, self.label_map, annotation)
            levels = _Levels(*map(max, levels, self._levels_of_mask(raw)))
            if ones is None and isinstance(self.label_map, str) and raw.max(initial=0) == 1:
                # Hardly ever so. Only then the other masks are read once more.
                ones = holds_ones((read_mask(path, label_map=self.label_map) for path in masks), masks)
            if frame not in paths:
                scorer.miss(frame, raw, bool(ones))
                continue
            values, probability = _read_prediction(paths[frame][0], self.label_map, self.indexed)
            of_16 = int(values.max()) if values.dtype == np.uint16 else 0
            levels = _Levels(*map(max, levels, _Levels(int(probability.max()), of_16)))
            image = None if self.images is None else read_frame(self.images[video][frame])
            scorer.add(frame, probability, raw=raw, image=image, ones=bool(ones))
            if evaluator.instances is not None:
                maps.append((resize_nearest(probability, raw.shape), raw))
        evaluator.end(scorer)
        if maps:
            found, raws = (list(part) for part in zip(*maps, strict=True))
            if len(sizes := {raw.shape for raw in raws}) > 1:
                raise DataError(
                    f"the frames of {video!r} have {len(sizes)} sizes, as {' and '.join(map(str, sorted(sizes)[:2]))}; "
                    "--instances takes a folder of one size: give pictures of other sizes folders of their own"
                )
            evaluator.instances.process(_detection(video, tuple(paths), np.stack(found)), raws, self.label_map)
        return evaluator.state(), levels

    def _levels_of_mask(self, raw: np.ndarray) -> _Levels:
        if isinstance(self.label_map, str):
            return _Levels(lesion=int(raw.max(initial=0)))
        values = np.flatnonzero(np.bincount(raw.ravel())).tolist()
        labelled = max((value for value in values if self.label_map.get(value, 0)), default=0)
        return _Levels(mask=max(values), labelled=labelled, lesion=labelled)


def _raw_mask(annotation: Path, label_map: LabelMap, no_lesion: bool) -> np.ndarray:
    """The raw mask uint8 [H, W]; of zeros, at the size of the image that stands for it, where there is no lesion."""
    return np.zeros(frame_size(annotation), np.uint8) if no_lesion else read_mask(annotation, label_map=label_map)


def _read_prediction(path: Path, label_map: LabelMap, indexed: bool) -> tuple[np.ndarray, np.ndarray]:
    """A map as it is on disk, and as uint8 [H, W]; one of raw values, among which none is to be ignored, as uint8
    [K, H, W] of 0 and 255."""
    if indexed:
        known = {value: klass for value, klass in label_map.items() if klass != IGNORE}
        raw = read_mask(path, label_map=known)
        return raw, class_masks(raw, known, path).astype(np.uint8) * np.uint8(255)
    values = read_map(path)
    return values, eight_bits(values, f"map {path}")


def _detection(video: str, frames: tuple[str, ...], maps: np.ndarray) -> Prediction:
    """The one detection of maps uint8 [T, H, W]: what is above half of the range, as sure as the maps are there."""
    mask = maps > 127
    score = maps[mask].mean() / 255 if mask.any() else 0.0
    return Prediction(video, frames, np.array([score], np.float32), maps[None], mask[None])


def _scored(job: _Job, pairs: MaskPairs, workers: int) -> Iterator[tuple[dict, _Levels]]:
    if workers == 1:
        yield from (job(video, paths, pairs.annotated[video]) for video, paths in pairs.pairs.items())
        return
    # Fresh processes: what a program that calls this has loaded (threads, a GPU) does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            yield from pool.map(job, pairs.pairs, pairs.pairs.values(), map(pairs.annotated.get, pairs.pairs))
        except BrokenProcessPool as error:
            raise DataError(f"a worker process ended ({error}); is memory short? try fewer workers") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
