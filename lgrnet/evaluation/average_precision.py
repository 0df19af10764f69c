"""Average precision of predicted objects, by pycocotools: per frame (COCO) or per video (YouTube-VIS). No torch.

Letters: Q queries, K classes (background not counted), T frames, H W pixels.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pycocotools import mask as rle_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

import lgrnet
from lgrnet.evaluation.annotation import raw_bytes
from lgrnet.records import (
    DataError,
    LabelMap,
    Prediction,
    benchmark_order,
    check_label_map,
    class_masks,
    num_classes,
)

FORMS = ("frame", "video")
OBJECTS = ("class", "component")
_MAX_PIXELS = 2**32 - 1  # pycocotools counts pixels in 32 bits, without a check


class AveragePrecision:
    """Collects predicted and annotated objects of one data set and rates them as COCO does.

    form            "frame": each annotated frame is an image, as in COCO;
                    "video": each video is one image, its annotated frames put below each other, so that the IoU of
                    two masks runs over all of them, as in YouTube-VIS (Yang et al., arXiv 1905.04804, section 5)
    max_detections  the detections kept of an image, all classes together, those with the highest scores
    objects         what is one annotated object: "class", all pixels of a class in an image, as LGRNet is trained;
                    "component", each connected piece (diagonals connect; in the video form neighbouring annotated
                    frames connect too, so that a lesion keeps its identity over time)
    set_name        name of the data set

    A detection is a query with a class, where its mask is not empty. A prediction without candidates has its mask
    of each class as the only detection of this class. The masks of detections are never split.

    Raises ValueError for an argument that is not one of these.
    """

    def __init__(
        self, form: str = "frame", max_detections: int = 100, objects: str = "class", set_name: str = "unnamed"
    ):
        if form not in FORMS or objects not in OBJECTS or max_detections < 1:
            raise ValueError(
                f"form is {form!r}, objects {objects!r}, max_detections {max_detections}; expected one of "
                f"{', '.join(FORMS)}, one of {', '.join(OBJECTS)}, and 1 or more"
            )
        self.form, self.max_detections, self.objects, self.set_name = form, max_detections, objects, set_name
        self._videos: dict[str, dict] = {}

    def process(
        self, prediction: Prediction, raw_masks: Sequence[np.ndarray | None], label_map: LabelMap = "binary"
    ) -> None:
        """Takes in one video.

        raw_masks  one uint8 [H, W] per frame, None: not annotated (the frame is left out of both sides and counted)
        label_map  see `lgrnet.records.class_masks`; of "soft" values a pixel belongs to the object from one half on

        Raises DataError, naming the video, when a size or a number of masks, frames or classes does not fit, a score
        is not a number, a mask holds an unknown value, or the video was taken in before.
        """
        label_map = check_label_map(label_map)
        masks, scores = detected(prediction)
        self._check(prediction, masks, scores, raw_masks, label_map)
        # Detections of one score rank by the order of their frames.
        annotated = [index for index in benchmark_order(prediction.frame_names) if raw_masks[index] is not None]
        groups = [[index] for index in annotated] if self.form == "frame" else [annotated] * bool(annotated)
        there = masks.any(axis=(2, 3))  # [Q, T]
        images = []
        for group in groups:
            name = prediction.frame_names[group[0]] if self.form == "frame" else None
            truth = np.stack([_truth(raw_masks[i], label_map, prediction, i) for i in group], axis=1)  # [K, T', H, W]
            images.append(
                {
                    "name": name,
                    "size": [len(group) * truth.shape[2], truth.shape[3]],
                    "truths": [
                        [class_index + 1, rle]
                        for class_index, of_class in enumerate(truth)
                        for rle in map(_encode, self._objects(of_class))
                    ],
                    "detections": [
                        [int(k) + 1, float(scores[q, k]), _encode(masks[q, group])]
                        for q, k in zip(*best(there[:, group].any(1), scores, self.max_detections), strict=True)
                    ],
                }
            )
        self._videos[prediction.video] = {
            "images": images,
            "classes": num_classes(label_map),
            "annotated": len(annotated),
            "unannotated": len(raw_masks) - len(annotated),
        }

    def state(self) -> dict:
        """Everything collected, as plain lists, texts and numbers, for another rank's `merge`."""
        return {**self._settings(), "videos": dict(self._videos)}

    def merge(self, state: Mapping) -> None:
        """Adds another rank's `state`. Raises ValueError when its settings differ or it holds a video twice."""
        theirs = {name: state[name] for name in self._settings()}
        if theirs != self._settings():
            raise ValueError(f"state was collected with {theirs}, this one with {self._settings()}")
        if twice := sorted(set(state["videos"]) & set(self._videos)):
            raise ValueError(f"videos taken in twice in set {self.set_name!r}: {', '.join(twice[:5])}; split by rank")
        self._videos.update(state["videos"])

    def result(self) -> dict:
        """What was found, the same for any order of the videos and any number of ranks.

        ap, ap50, ap75   average precision in 0..1: the mean over the IoU thresholds 0.50, 0.55 ... 0.95 and over
                         classes, and at 0.50 and 0.75
        ar               average recall over the same thresholds and classes
        ap_small, ap_medium, ap_large  frame form only: of objects below 32^2, up to 96^2, and of more pixels
        classes          class id (from 1) -> the same numbers of one class
        set, version, form, objects, max_detections
        videos, frames (annotated), frames_without_annotation, annotated_objects, detections

        A number is nan where no annotated object exists that it could be about: pycocotools gives -1 there, which
        would drag a mean down; a class without objects is left out of the means, as in pycocotools.

        Raises DataError when no frame was annotated.
        """
        held = [self._videos[name] for name in sorted(self._videos)]
        images = [image for video in held for image in video["images"]]
        unannotated = sum(video["unannotated"] for video in held)
        if not images:
            raise DataError(
                f"set {self.set_name!r}: no annotated frame ({len(held)} videos, {unannotated} frames without "
                "annotation); average precision needs annotated frames"
            )
        classes = range(1, max(video["classes"] for video in held) + 1)
        evaluated = self._evaluate(images, classes)
        return {
            **self._numbers(evaluated, slice(None)),
            "classes": {k: self._numbers(evaluated, slice(k - 1, k)) for k in classes},
            "version": lgrnet.__version__,
            **self._settings(),
            "videos": len(held),
            "frames": sum(video["annotated"] for video in held),
            "frames_without_annotation": unannotated,
            "annotated_objects": sum(len(image["truths"]) for image in images),
            "detections": sum(len(image["detections"]) for image in images),
        }

    def _settings(self) -> dict:
        return {
            "set": self.set_name,
            "form": self.form,
            "objects": self.objects,
            "max_detections": self.max_detections,
        }

    def _objects(self, mask: np.ndarray) -> Iterator[np.ndarray]:
        """The annotated objects of a class in an image, each bool [T', H, W], out of its mask [T', H, W]."""
        if self.objects == "component":
            pieces, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
            yield from (pieces == number for number in range(1, count + 1))
        elif mask.any():
            yield mask

    def _evaluate(self, images: Sequence[Mapping], classes: Sequence[int]) -> COCOeval:
        """pycocotools' evaluation, all but its summary."""
        truths = ([{"category_id": k, "segmentation": rle} for k, rle in image["truths"]] for image in images)
        detections = (
            [{"category_id": k, "score": score, "segmentation": rle} for k, score, rle in image["detections"]]
            for image in images
        )
        # It prints its progress. Only what it prints is dropped: its errors come through.
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(_coco(images, classes, truths), _coco(images, classes, detections), "segm")
            evaluation.params.maxDets = [self.max_detections]
            if self.form == "video":  # areas of whole videos have no customary ranges
                evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, math.inf]], ["all"]
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation

    def _numbers(self, evaluated: COCOeval, classes: slice) -> dict[str, float]:
        """The numbers of some classes."""
        precision = evaluated.eval["precision"][:, :, classes, :, 0]  # [IoU, recall, K, area]
        recall = evaluated.eval["recall"][:, classes, :, 0]  # [IoU, K, area]
        at = {f"{threshold:.2f}": index for index, threshold in enumerate(evaluated.params.iouThrs)}
        numbers = {
            "ap": _mean(precision[..., 0]),
            "ap50": _mean(precision[at["0.50"], ..., 0]),
            "ap75": _mean(precision[at["0.75"], ..., 0]),
            "ar": _mean(recall[..., 0]),
        }
        sizes = evaluated.params.areaRngLbl[1:]
        return numbers | {f"ap_{size}": _mean(precision[..., index]) for index, size in enumerate(sizes, start=1)}

    def _check(
        self,
        prediction: Prediction,
        masks: np.ndarray,
        scores: np.ndarray,
        raw_masks: Sequence[np.ndarray | None],
        label_map: LabelMap,
    ) -> None:
        video, frames, classes = prediction.video, len(prediction.frame_names), num_classes(label_map)
        if video in self._videos:
            raise DataError(f"video {video!r} was taken in before in set {self.set_name!r}; give every video once")
        if len(raw_masks) != frames:
            raise DataError(f"video {video!r} has {frames} predicted frames but {len(raw_masks)} masks; give one each")
        if masks.ndim != 4 or masks.shape[1] != frames or scores.shape != (len(masks), classes):
            raise DataError(
                f"video {video!r}: masks of detections have shape {masks.shape}, their scores {scores.shape}; expected "
                f"[Q, {frames}, H, W] and [Q, {classes}] (frames; classes of the label map)"
            )
        if self.form == "video" and math.prod(masks.shape[1:]) > _MAX_PIXELS:
            raise DataError(
                f"video {video!r} has {frames} frames of {masks.shape[2]} x {masks.shape[3]} pixels; run lengths of a "
                f'video hold at most {_MAX_PIXELS} pixels: take form="frame", or split or shrink the video'
            )
        if np.isnan(scores).any():
            raise DataError(f"video {video!r}: scores of detections hold nan; look at the model's weights")
        for frame, raw in zip(prediction.frame_names, raw_masks, strict=True):
            if raw is not None and np.shape(raw) != masks.shape[2:]:
                raise DataError(
                    f"video {video!r}, frame {frame!r}: the prediction has (height, width) {masks.shape[2:]} but the "
                    f"mask on disk {np.shape(raw)}; predict at the size on disk"
                )


def precisions(found: Mapping[str, object]) -> dict[str, float]:
    """Of `AveragePrecision.result` what it measured, by the names that stand there: ap, ap50, ..., ar."""
    return {name: value for name, value in found.items() if name.startswith(("ap", "ar"))}


def detected(prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
    """The masks [Q, T, H, W] and scores [Q, K] of a prediction; -inf: this mask is no detection of that class."""
    if prediction.candidates is not None:
        return prediction.candidates.masks, prediction.candidates.scores
    # The mask of class k is the only detection of this class.
    own = np.eye(len(prediction.scores), dtype=bool)
    return prediction.mask, np.where(own, prediction.scores[:, None], -np.inf)


def best(there: np.ndarray, scores: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The detections of an image: queries [N] and classes [N], best first, equal ones in order of the queries.

    there   [Q] bool, whose mask is not empty in the image
    scores  [Q, K] as `detected` gives them
    limit   of all classes together, the most that are kept
    """
    queries, classes = np.nonzero(there[:, None] & (scores > -np.inf))
    order = np.argsort(-scores[queries, classes], kind="stable")[:limit]
    return queries[order], classes[order]


def _truth(raw: np.ndarray, label_map: LabelMap, prediction: Prediction, index: int) -> np.ndarray:
    """What is annotated in a frame, bool [K, H, W]."""
    source = f"mask of {prediction.video}/{prediction.frame_names[index]}"
    raw = raw_bytes(raw, label_map, source)
    # Small values may be noise of a file stored with loss; whether it is one, only its reader knew.
    return class_masks(raw, label_map, None if isinstance(label_map, str) else source) >= 0.5


def _encode(mask: np.ndarray) -> dict:
    """A mask [T', H, W] as the run lengths of one tall image [T' * H, W], in plain values."""
    rle = rle_masks.encode(np.asfortranarray(mask.reshape(-1, mask.shape[-1]), dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _coco(images: Sequence[Mapping], classes: Sequence[int], annotations: Iterator[list[dict]]) -> COCO:
    """A data set as pycocotools holds it; ids count from 1, because 0 means "no match" to it."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "height": im["size"][0], "width": im["size"][1]} for i, im in enumerate(images, start=1)],
        "categories": [{"id": k, "name": str(k)} for k in classes],
        "annotations": [],
    }
    for image_id, of_image in enumerate(annotations, start=1):
        for annotation in of_image:
            area = int(rle_masks.area(annotation["segmentation"]))
            number = len(coco.dataset["annotations"]) + 1
            coco.dataset["annotations"].append(
                {"id": number, "image_id": image_id, "iscrowd": 0, "area": area, **annotation}
            )
    coco.createIndex()
    return coco


def _mean(values: np.ndarray) -> float:
    """The mean of the values that are defined (not -1), nan where none is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan
