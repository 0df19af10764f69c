"""Data sets in detectron2's catalogs."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from lgrnet.data.datasets import ClipDataset, video_folder
from lgrnet.data.samplers import Single
from lgrnet.detectron2_bridge.catalog import (
    anchors,
    clip_dicts,
    record_of,
    register_folder,
    register_layouts,
    register_records,
    registered,
)
from lgrnet.records import DataError, VideoRecord, write_frame, write_mask


@pytest.fixture
def folder(tmp_path):
    """Two videos of 3 and 2 frames of 6 x 8 pixels."""
    for video, frames in (("a", 3), ("b", 2)):
        for t in range(frames):
            write_frame(tmp_path / "Frame" / video / f"{t}.png", np.full((6, 8, 3), 10 * t, np.uint8))
            write_mask(tmp_path / "GT" / video / f"{t}.png", np.eye(6, 8, dtype=bool))
    return tmp_path


def test_a_folder_is_read_when_the_catalog_is_asked(folder):
    register_folder("catalog_folder", folder / "later", thing_classes=("polyp",))
    metadata = MetadataCatalog.get("catalog_folder")
    assert metadata.thing_classes == ["polyp"] and metadata.stuff_classes == ["background", "polyp"]
    assert metadata.evaluator_type == "lgrnet" and metadata.ignore_label == 255
    with pytest.raises(DataError, match="later"):
        clip_dicts("catalog_folder")

    register_folder("catalog_folder", folder)
    assert MetadataCatalog.get("catalog_folder").thing_classes == ["lesion"]
    assert [d["video_name"] for d in clip_dicts("catalog_folder")] == ["a", "b"]


def test_dicts_are_plain_and_lead_back_to_the_records(folder):
    register_folder("catalog_plain", folder)
    dicts = clip_dicts(["catalog_plain"])
    assert dicts[0] == {
        "dataset": "catalog_plain",
        "video_name": "a",
        "video_id": 0,
        "image_id": 0,
        "num_frames": 3,
        "height": 6,
        "width": 8,
        "file_names": [str(folder / "Frame" / "a" / f"{t}.png") for t in range(3)],
        "mask_file_names": [str(folder / "GT" / "a" / f"{t}.png") for t in range(3)],
        "no_lesion": False,
        "label_map": "binary",
        "meta": {"dataset": folder.name},
    }
    assert [record_of(d) for d in dicts] == video_folder(folder)


def test_frames_without_annotation_and_label_maps_come_back(folder):
    path = folder / "Frame" / "a" / "0.png"
    record = VideoRecord("v", (path, path), (None, path), {255: 2, 128: 1, 0: 0})
    register_records("catalog_indexed", lambda: [record], ("uterus", "fibroid"))
    (found,) = clip_dicts("catalog_indexed")
    assert found["mask_file_names"][0] is None
    assert record_of(found) == record


def test_frames_without_a_lesion_come_back(folder):
    register_folder("catalog_no_lesion", folder, masks="empty")
    dicts = clip_dicts("catalog_no_lesion")
    assert all(d["no_lesion"] and set(d["mask_file_names"]) == {None} for d in dicts)
    assert [record_of(d) for d in dicts] == video_folder(folder, masks="empty")


def test_classes_that_do_not_fit_the_label_map_are_refused(folder):
    register_folder("catalog_classes", folder, ("uterus", "fibroid"))
    with pytest.raises(DataError, match=r"'a' .* has 1 classes .* names 2 \(uterus, fibroid\)"):
        clip_dicts("catalog_classes")


def test_anchors_are_those_of_the_clip_dataset(folder):
    register_folder("catalog_anchors", folder)
    dicts = clip_dicts("catalog_anchors")
    for step in (1, 2, 6):
        dataset = ClipDataset(video_folder(folder), Single(), anchor_step=step)
        expected = [(record.name, frame) for record, frame in map(dataset.anchor, range(len(dataset)))]
        assert [(d["video_name"], d["frame_index"]) for d in anchors(dicts, step)] == expected
    with pytest.raises(ValueError, match="anchor_step is 0"):
        anchors(dicts, 0)


def test_layouts_touch_no_disk_and_may_move(tmp_path):
    names = register_layouts(tmp_path / "nowhere")
    assert {"sunseg_train", "sunseg_hard_unseen", "miccai_vps_cvc612_val", "ufuv_test", "phantom_train"} <= set(names)
    assert register_layouts(tmp_path / "nowhere") == names and set(names) <= set(registered())
    with pytest.raises(DataError, match="nowhere"):
        clip_dicts("sunseg_train")

    write_frame(tmp_path / "phantom" / "test" / "Frame" / "v" / "0.jpg", np.zeros((4, 4, 3), np.uint8))
    write_mask(tmp_path / "phantom" / "test" / "GT" / "v" / "0.png", np.ones((4, 4), bool))
    register_layouts(tmp_path)
    assert [d["video_name"] for d in clip_dicts("phantom_test")] == ["v"]
    assert MetadataCatalog.get("sunseg_easy").thing_classes == ["polyp"]


def test_unknown_names_are_told_with_those_that_are_there(tmp_path):
    register_layouts(tmp_path)
    with pytest.raises(DataError, match="'phantom_tran' is not registered; the nearest names are phantom_train.*ufuv"):
        clip_dicts(["phantom_train", "phantom_tran"])


def test_a_text_is_no_list_of_classes(folder):
    with pytest.raises(ValueError, match="thing_classes is the text 'polyp'; expected a list of names"):
        register_folder("catalog_text", folder, thing_classes="polyp")
    assert "catalog_text" not in registered()


def test_names_and_data_sets_of_others_are_left_alone(folder):
    DatasetCatalog.register("catalog_foreign", lambda: [{"file_name": "x.jpg"}])
    with pytest.raises(ValueError, match="registered by another package"):
        register_folder("catalog_foreign", folder)
    with pytest.raises(DataError, match="'catalog_foreign' holds no videos"):
        clip_dicts("catalog_foreign")
