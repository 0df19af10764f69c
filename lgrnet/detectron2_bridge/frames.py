"""Our data sets and predictions frame by frame, for what detectron2 has for images: its COCO evaluator, its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode
from pycocotools import mask as rle_masks

from lgrnet.detectron2_bridge.catalog import check_names, clip_dicts, record_of, register_dicts
from lgrnet.evaluation import read_annotation
from lgrnet.records import DataError, class_masks
from lgrnet.records.pictures import exif_orientation


def register_frames(name: str, videos: str) -> None:
    """Registers the annotated frames of the data set `videos` as one of images, in detectron2's standard format.

    In a frame all pixels of a class are one object, as LGRNet is trained; masks are run lengths, which detectron2's
    own mapper reads with MODEL.MASK_ON and INPUT.MASK_FORMAT "bitmask" (as `add_lgrnet_config` sets them), and a pixel
    of a soft mask counts from one half on. They are read when the catalog is asked; detectron2's COCOEvaluator keeps
    them in its output_dir: where masks have changed, make it with allow_cached_coco=False. Raises DataError when
    `videos` is not registered, ValueError for a name that somebody else registered.
    """
    check_names(videos)
    register_dicts(name, partial(frame_dicts, videos), MetadataCatalog.get(videos).thing_classes, "coco")


def frame_dicts(videos: str) -> list[dict]:
    """The annotated frames of a data set of videos, each with file_name, image_id, height, width and annotations.

    An image_id counts the frames of all videos, annotated or not. Raises DataError for files that cannot be used, and
    for frames with a mark to be turned: detectron2's mapper turns them, and masks have none.
    """
    dicts, first = [], 0
    for video in clip_dicts(videos):
        record = record_of(video)
        for index, raw in enumerate(read_annotation(record)):
            if raw is not None:
                if (turned := exif_orientation(record.frames[index])) != 1:
                    raise DataError(
                        f"{record.frames[index]} says that it is to be turned (EXIF orientation {turned}); detectron2 "
                        "would turn it and not its mask: save it as it is annotated, without that mark"
                    )
                masks = class_masks(raw, record.label_map, record.masks[index]) >= 0.5
                dicts.append(
                    {
                        "file_name": str(record.frames[index]),
                        "image_id": first + index,
                        "height": raw.shape[0],
                        "width": raw.shape[1],
                        "annotations": [_annotation(mask, k) for k, mask in enumerate(masks) if mask.any()],
                    }
                )
        first += record.num_frames
    return dicts


class FrameEvaluator(DatasetEvaluator):
    """Hands the frames of predicted videos one by one to an evaluator of images.

    evaluator  for example detectron2's COCOEvaluator(name, tasks=("segm",)) after `register_frames(name, videos)`
    videos     name of the data set of videos; frames without annotation are left out, as in `frame_dicts`
    """

    def __init__(self, evaluator: DatasetEvaluator, videos: str):
        self.evaluator, self.videos = evaluator, videos
        self.reset()

    def reset(self) -> None:
        """Forgets all videos."""
        self._images, first = {}, 0
        for video in clip_dicts(self.videos):
            ids = range(first, first + video["num_frames"])
            self._images[video["video_name"]] = [
                {"image_id": i, "file_name": file} if annotated else None
                for i, file, annotated in zip(ids, video["file_names"], record_of(video).annotated, strict=True)
            ]
            first = ids.stop
        self.evaluator.reset()

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """inputs with "video_name"; outputs with "instances", one `Instances` for each frame, or one of a still.

        Raises DataError for outputs without, and for a video that is not of the data set.
        """
        for video, output in zip(inputs, outputs, strict=True):
            if "instances" not in output or video.get("video_name") not in self._images:
                raise DataError(
                    f"video {video.get('video_name')!r} has {', '.join(output)}; expected instances "
                    f"(TEST.INSTANCE_ON) of a video of the data set {self.videos!r}"
                )
            found = output["instances"]
            frames = found if isinstance(found, list) else [found]
            for image, instances in zip(self._images[video["video_name"]], frames, strict=True):
                if image is not None:
                    height, width = instances.image_size
                    self.evaluator.process([{**image, "height": height, "width": width}], [{"instances": instances}])

    def evaluate(self) -> dict | None:
        """What the evaluator of images says."""
        return self.evaluator.evaluate()


def _annotation(mask: np.ndarray, class_index: int) -> dict:
    """One object, mask [H, W] bool, as detectron2 holds it."""
    rle = rle_masks.encode(np.asfortranarray(mask, np.uint8))
    return {
        "bbox": rle_masks.toBbox(rle).tolist(),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": class_index,
        "segmentation": {"size": [int(side) for side in rle["size"]], "counts": rle["counts"]},
        "iscrowd": 0,
    }
