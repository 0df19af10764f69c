"""Frames that are known to show no lesion and have no mask files: annotated as empty, in every place that asks."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest

from lgrnet.config import build, builds
from lgrnet.data.datasets import ClipDataset, video_folder
from lgrnet.data.samplers import Window
from lgrnet.engine.evaluate import evaluate_sets
from lgrnet.evaluation import LGRNetProtocol, OverTimeProtocol, VPSProtocol, read_annotation
from lgrnet.evaluation.plain_protocol import PlainProtocol
from lgrnet.records import DataError, VideoRecord, list_videos, raw_mask, read_clip, write_frame
from tests.data.layout import write_video
from tests.engine.toy import ToyModel


@pytest.fixture
def root(tmp_path):
    """Two videos of other sizes, with masks of zeros in Zero and none elsewhere."""
    for video, size in (("a", (20, 24)), ("b", (32, 28))):
        write_video(tmp_path / "data", video, 3, size, empty=True, masks="Zero")
    return tmp_path / "data"


def test_every_frame_is_annotated_as_empty_at_its_own_size(root):
    for record, size in zip(video_folder(root, masks="empty"), ((20, 24), (32, 28)), strict=True):
        assert record.no_lesion and record.masks == (None,) * 3 and record.annotated == (True,) * 3
        for raw in (read_annotation(record), read_clip(record)[1]):
            assert [(mask.shape, mask.dtype, mask.any()) for mask in raw] == [(size, np.uint8, False)] * 3
        assert raw_mask(record, 1).shape == size


def test_frames_without_annotation_stay_such(root):
    (record, _) = list_videos(root, masks=None)
    assert not record.no_lesion and record.annotated == (False,) * 3
    assert read_annotation(record) == [None] * 3 and raw_mask(record, 0) is None


def test_sizes_that_differ_are_still_named(root):
    write_frame(root / "Frame/a/frame1.png", np.zeros((10, 24, 3)))
    with pytest.raises(DataError, match=r"frames of video 'a' differ: .*frame1.png has \(height, width\) \(10, 24\)"):
        read_annotation(video_folder(root, masks="empty")[0])


def test_what_would_be_ambiguous_is_refused(root):
    shutil.copytree(root / "Zero", root / "empty")
    with pytest.raises(DataError, match='data/empty is there, but masks="empty" means that no frame shows a lesion'):
        video_folder(root, masks="empty")
    masks = tuple((root / "Zero/a").iterdir())
    with pytest.raises(DataError, match="'v' shows no lesion but has 3 masks"):
        VideoRecord("v", tuple((root / "Frame/a").iterdir()), masks, no_lesion=True)


def test_scores_are_those_of_masks_of_zeros(root, tmp_path):
    """Also of a set that has videos with a lesion, too; and with pictures, sheets and average precision."""
    write_video(tmp_path / "more", "c", 4)
    with_lesion = list_videos(tmp_path / "more")
    model, found = ToyModel(), {}
    for masks in ("Zero", "empty"):
        none = build(builds(video_folder, root=str(root), masks=masks))
        protocols = [LGRNetProtocol(), VPSProtocol(), OverTimeProtocol(fps=30), PlainProtocol()]
        folder = tmp_path / masks
        options = {"protocols": protocols, "instances": "frame", "pictures": 2}
        evaluate_sets(model, {"none": none, "both": with_lesion + none}, folder, (16, 16), **options)
        found[masks] = (folder / "report.json").read_text()
        assert (folder / "none/pictures/frames.png").is_file() and (folder / "report.html").is_file()
    assert found["empty"] == found["Zero"]
    (alone, _) = json.loads(found["empty"])["sets"]
    assert alone["frames"] == 6 and alone["frames_without_annotation"] == 0
    scores = alone["scores"]
    assert 0 <= scores["plain"]["specificity"] <= 1 and scores["over-time"]["false_alarms_per_minute"] >= 0
    assert scores["plain"]["sensitivity"] is None and scores["over-time"]["missed_frames"] is None


def test_training_clips_have_empty_targets_that_are_annotated(root):
    records = list_videos(root, masks="empty")[:1]
    clip = ClipDataset(records, Window(3), require_foreground=False).sample(0, random.Random(0))
    assert clip.targets.annotated.tolist() == [True] * 3 and clip.targets.masks.shape == (0, 3, 20, 24)
    with pytest.raises(DataError, match="shows no foreground"):
        ClipDataset(records, Window(3)).sample(0, random.Random(0))


def test_a_record_of_two_classes_is_empty_in_both(root):
    record = replace(list_videos(root, masks="empty")[0], label_map={7: 1, 9: 2})
    clip = ClipDataset([record], Window(2), require_foreground=False).sample(0, random.Random(0))
    assert clip.targets.labels.tolist() == []
