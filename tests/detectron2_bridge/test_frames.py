"""Videos as images: detectron2's COCO evaluator says of our predictions what our own average precision says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from PIL import Image
from pycocotools import mask as rle_masks

from lgrnet.detectron2_bridge.catalog import clip_dicts, record_of, register_folder
from lgrnet.detectron2_bridge.frames import FrameEvaluator, register_frames
from lgrnet.detectron2_bridge.outputs import frame_instances
from lgrnet.evaluation import AveragePrecision, read_annotation
from lgrnet.records import Candidates, DataError, Prediction, write_frame, write_image

VALUES = {0: 0, 100: 1, 200: 2}


@pytest.fixture
def videos(tmp_path):
    """Two videos of 4 frames with two classes, one frame without annotation and one without an object."""
    for v, video in enumerate("ab"):
        for t in range(4):
            raw = np.zeros((40, 50), np.uint8)
            if (v, t) != (1, 3):
                raw[4 : 20 + t, 5 : 25 - v] = 100
                raw[28:36, 10 + t : 40] = 200 if t < 2 else 0
            write_frame(tmp_path / "Frame" / video / f"{t}.png", np.zeros((40, 50, 3), np.uint8))
            if (v, t) != (0, 2):
                write_image(tmp_path / "GT" / video / f"{t}.png", Image.fromarray(raw))
    register_folder("frames_videos", tmp_path, ("polyp", "tool"), label_map=VALUES, require_masks=False)
    return "frames_videos"


def guess(record) -> Prediction:
    """Six queries whose masks are the truth, shifted more and more."""
    rng = np.random.default_rng(len(record.name) + ord(record.name[-1]))
    masks = np.zeros((6, record.num_frames, 40, 50), bool)
    for t, raw in enumerate(read_annotation(record)):
        for query in range(6 if raw is not None else 0):
            shown = raw == (100, 200)[query % 2]
            masks[query, t] = np.roll(shown, (query // 2 + rng.integers(0, 3), query), (0, 1))
    scores = rng.random((6, 2), np.float32)
    empty = np.zeros((2, record.num_frames, 40, 50))
    names = record.frame_names
    return Prediction(record.name, names, scores.max(0), empty.astype(np.uint8), empty > 0, Candidates(masks, scores))


class Seen(DatasetEvaluator):
    """Remembers what it is handed."""

    def reset(self):
        self.pairs = []

    def process(self, inputs, outputs):
        self.pairs += zip(inputs, outputs, strict=True)

    def evaluate(self):
        return {"images": len(self.pairs)}


def test_frames_are_images_with_objects(videos):
    register_frames("frames_images", videos)
    dicts = DatasetCatalog.get("frames_images")
    assert [d["image_id"] for d in dicts] == [0, 1, 3, 4, 5, 6, 7]  # frame 2 of the first video is not annotated
    assert MetadataCatalog.get("frames_images").thing_classes == ["polyp", "tool"]
    assert dicts[-1]["annotations"] == []
    polyp, tool = dicts[0]["annotations"]
    assert (polyp["category_id"], tool["category_id"]) == (0, 1)
    assert polyp["bbox"] == [5, 4, 20, 16] and rle_masks.decode(tool["segmentation"]).sum() == 8 * 30
    with pytest.raises(DataError, match="'frames_imags' is not registered"):
        register_frames("x", "frames_imags")
    with pytest.raises(DataError, match="'frames_images' holds no videos"):
        clip_dicts("frames_images")


def test_an_evaluator_of_images_gets_annotated_frames_only(videos):
    evaluator = FrameEvaluator(Seen(), videos)
    for video in clip_dicts(videos):
        evaluator.process([video], [{"instances": frame_instances(guess(record_of(video)))}])
    assert evaluator.evaluate() == {"images": 7}
    assert [item["image_id"] for item, _ in evaluator.evaluator.pairs] == [0, 1, 3, 4, 5, 6, 7]
    item, output = evaluator.evaluator.pairs[3]
    assert item["file_name"].endswith("b/0.png") and (item["height"], item["width"]) == (40, 50)
    assert output["instances"].pred_masks.dtype == torch.bool
    evaluator.reset()
    assert evaluator.evaluate() == {"images": 0}


@pytest.mark.peer
def test_average_precision_is_that_of_detectron2(videos, tmp_path):
    from detectron2.evaluation import COCOEvaluator

    register_frames("frames_images", videos)
    coco = COCOEvaluator("frames_images", ("segm",), False, str(tmp_path), use_fast_impl=False)
    theirs, ours = FrameEvaluator(coco, videos), AveragePrecision(form="frame")
    for video in clip_dicts(videos):
        record = record_of(video)
        prediction = guess(record)
        theirs.process([video], [{"instances": frame_instances(prediction)}])
        ours.process(prediction, read_annotation(record), record.label_map)
    found, expected = theirs.evaluate()["segm"], ours.result()
    assert 0.05 < expected["ap"] < 0.95
    pairs = {"AP": "ap", "AP50": "ap50", "AP75": "ap75", "APs": "ap_small", "APm": "ap_medium"}
    for name, own in pairs.items():
        assert found[name] == pytest.approx(100 * expected[own], abs=1e-9, nan_ok=True), name
    assert found["AP-polyp"] == pytest.approx(100 * expected["classes"][1]["ap"], abs=1e-9)


def test_frames_without_a_lesion_are_images_without_objects(tmp_path):
    for t in range(2):
        write_frame(tmp_path / "Frame" / "a" / f"{t}.png", np.zeros((40, 50, 3), np.uint8))
    register_folder("frames_no_lesion", tmp_path, masks="empty")
    register_frames("frames_no_lesion_images", "frames_no_lesion")
    images = DatasetCatalog.get("frames_no_lesion_images")
    assert [(d["image_id"], d["height"], d["annotations"]) for d in images] == [(0, 40, []), (1, 40, [])]
    seen = FrameEvaluator(Seen(), "frames_no_lesion")
    shown = frame_instances(guess(record_of(clip_dicts("frames_no_lesion")[0])))
    seen.process(clip_dicts("frames_no_lesion"), [{"instances": shown}])
    assert [image["image_id"] for image, _ in seen.evaluator.pairs] == [0, 1]
