"""detectron2's dicts as clips, and what is wrong with some."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Instances

from lgrnet.detectron2_bridge.inputs import read_clip, read_targets

FRAMES = torch.arange(2 * 3 * 4 * 6, dtype=torch.uint8).view(2, 3, 4, 6)


def objects(masks, classes, ids=None) -> Instances:
    """Instances of one frame of 4 x 6."""
    found = Instances((4, 6), gt_classes=torch.tensor(classes, dtype=torch.long), gt_masks=masks)
    if ids is not None:
        found.set("gt_ids", torch.tensor(ids))
    return found


def block(*rows: int) -> torch.Tensor:
    """A mask [4, 6] of whole rows."""
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[list(rows)] = True
    return mask


def test_frames_are_the_same_for_every_form():
    whole = read_clip({"frames": FRAMES})
    assert torch.equal(whole.frames, FRAMES.float() / 255) and whole.frames.dtype == torch.float32
    assert torch.equal(read_clip({"frames": FRAMES.double()}).frames, whole.frames)
    assert torch.equal(read_clip({"frames": list(FRAMES)}).frames, whole.frames)
    assert torch.equal(read_clip({"image": FRAMES[1]}).frames, whole.frames[1:])
    assert torch.equal(read_clip({"frames": FRAMES}, "BGR").frames, whole.frames[:, [2, 1, 0]])


def test_what_is_known_of_a_clip():
    info = read_clip({"frames": FRAMES}).info
    assert (info.disk_size, info.valid_size, info.position) == ((4, 6), (2, 4, 6), -1)
    assert info.frame_names == ("000000", "000001")
    given = {"video_name": "a", "frame_names": ["x", "y"], "height": 8, "width": 9, "position": 5}
    info = read_clip({"frames": FRAMES, **given}).info
    assert (info.video, info.frame_names, info.disk_size, info.position) == ("a", ("x", "y"), (8, 9), 5)
    assert read_clip({"image": FRAMES[0], "file_name": "/data/b.jpg"}).info.video == "b"


@pytest.mark.parametrize(
    "item, words",
    [
        ({"frames": FRAMES[:0]}, "at least one frame"),
        ({"frames": []}, "no frames"),
        ({"frames": [FRAMES[0], FRAMES[1, :, :3]]}, r"\(3, 3, 6\), \(3, 4, 6\); expected tensors .* of one size"),
        ({"frames": FRAMES[0]}, r"\(3, 4, 6\); expected \[T, 3, H, W\]"),
        ({"image": FRAMES}, r"\(2, 3, 4, 6\); expected \[3, H, W\]"),
        ({"frames": FRAMES.permute(0, 2, 3, 1)}, r"\(2, 4, 6, 3\)"),
        ({"frames": FRAMES.int()}, "int32; expected uint8"),
        ({"frames": FRAMES.numpy()}, "ndarray; expected a tensor"),
        ({"frames": [FRAMES[0].numpy()]}, "expected tensors"),
        ({"file": 3}, 'neither "frames"'),
        ({"frames": FRAMES, "frame_names": ["x"]}, "2 frames but 1 frame_names"),
        ({"frames": FRAMES, "height": 0}, "at least 1 x 1"),
    ],
)
def test_frames_that_are_none(item, words):
    with pytest.raises(ValueError, match=words) as caught:
        read_clip({"video_name": "film", **item})
    assert "film" in str(caught.value)


def targets(**given):
    item = {"frames": FRAMES, "video_name": "film", **given}
    return read_targets(item, read_clip(item))


def test_without_ids_a_class_is_one_object():
    first = objects(BitMasks(torch.stack([block(0), block(1), block(3)])), [1, 0, 1])
    found = targets(instances=[first, objects(BitMasks(block(2)[None]), [1])])
    assert found.labels.tolist() == [0, 1] and found.masks.dtype == torch.float32
    assert torch.equal(found.masks[0], torch.stack([block(1), block()]).float())
    assert torch.equal(found.masks[1], torch.stack([block(0, 3), block(2)]).float())
    assert found.valid.all() and found.annotated.all()


def test_with_ids_objects_keep_their_identity():
    first = objects(BitMasks(torch.stack([block(0), block(1)])), [0, 0], [9, 4])
    second = objects(BitMasks(torch.stack([block(2), block()])), [0, 0], [9, 7])
    found = targets(instances=[first, second])
    assert found.labels.tolist() == [0, 0]  # 4 and 9; 7 has no pixel
    assert torch.equal(found.masks[1], torch.stack([block(0), block(2)]).float())


def test_soft_masks_stay_soft_and_frames_may_be_unannotated():
    soft = block(0).float() * 0.25
    found = targets(instances=[objects(soft[None], [0]), objects(soft[None], [0])], annotated=[True, False])
    assert found.masks[0, 0].max() == 0.25 and found.masks[0, 1].max() == 0
    assert found.annotated.tolist() == [True, False]
    none = objects(BitMasks(torch.zeros(0, 4, 6)), [])
    assert targets(instances=[none, none]).masks.shape == (0, 2, 4, 6)


def test_an_image_without_objects_needs_no_masks():
    """As detectron2's own mapper gives it."""
    none = Instances((4, 6), gt_classes=torch.zeros(0, dtype=torch.long))
    found = targets(instances=[none, objects(BitMasks(block(0)[None]), [0])])
    assert torch.equal(found.masks[0], torch.stack([block(), block(0)]).float())
    assert targets(instances=[none, none]).masks.shape == (0, 2, 4, 6)


def test_maps_of_classes():
    maps = torch.zeros(2, 4, 6, dtype=torch.uint8)
    maps[0, 1], maps[1, 2], maps[:, 3] = 2, 1, 255
    found = targets(sem_seg=maps)
    assert found.labels.tolist() == [0, 1]
    assert torch.equal(found.masks[1], torch.stack([block(1), block()]).float())
    assert torch.equal(found.valid, maps != 255)
    still = {"image": FRAMES[0], "sem_seg": maps[0].numpy()}
    assert read_targets(still, read_clip(still)).labels.tolist() == [1]


@pytest.mark.parametrize(
    "given, words",
    [
        ({}, 'neither "instances" nor "sem_seg"'),
        ({"instances": objects(BitMasks(block(0)[None]), [0])}, "2 frames, but .* 1 of Instances"),
        ({"instances": []}, "holds none"),
        ({"instances": [1, 2]}, "2 of int"),
        ({"instances": [Instances((4, 6), gt_classes=torch.tensor([0]))] * 2}, "no gt_masks"),
        ({"instances": [objects(torch.ones(1, 3, 6), [0])] * 2}, r"\(1, 3, 6\); expected \(1, 4, 6\)"),
        ({"instances": [objects(255 * torch.ones(1, 4, 6), [0])] * 2}, "255; expected 0 to 1"),
        ({"sem_seg": torch.zeros(4, 6, dtype=torch.long)}, r"\(1, 4, 6\); expected integers \(2, 4, 6\)"),
        ({"sem_seg": torch.zeros(2, 4, 6)}, "float32"),
        ({"sem_seg": torch.full((2, 4, 6), -1)}, "holds -1; expected 0 and more"),
        ({"sem_seg": torch.zeros(2, 4, 6, dtype=torch.long), "annotated": [True]}, r"annotated \(1,\)"),
    ],
)
def test_targets_that_do_not_fit(given, words):
    with pytest.raises(ValueError, match=words) as caught:
        targets(**given)
    assert "film" in str(caught.value)


def test_an_object_has_one_class():
    one = objects(BitMasks(block(0)[None]), [0], [5])
    with pytest.raises(ValueError, match="object 5 .* class 0, in frame 1 .* class 1"):
        targets(instances=[one, objects(BitMasks(block(0)[None]), [1], [5])])


@pytest.mark.peer
def test_polygons_are_drawn():
    from detectron2.structures import PolygonMasks

    corners = np.array([0, 0, 6, 0, 6, 2, 0, 2], float)
    found = targets(instances=[objects(PolygonMasks([[corners]]), [0]), objects(PolygonMasks([]), [])])
    assert torch.equal(found.masks[0], torch.stack([block(0, 1), block()]).float())


@pytest.mark.peer
@pytest.mark.parametrize("form", ["bitmask", "polygon"])
def test_items_of_detectron2s_own_mapper(tmp_path, form):
    from detectron2.data import DatasetMapper
    from PIL import Image
    from pycocotools import mask as rle_masks

    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "0.png")
    shown = np.zeros((40, 60), np.uint8, order="F")
    shown[10:30, 20:50] = 1
    outline = [[20.0, 10.0, 50.0, 10.0, 50.0, 30.0, 20.0, 30.0]]
    annotation = {
        "bbox": [20, 10, 30, 20],
        "bbox_mode": 1,
        "category_id": 0,
        "segmentation": rle_masks.encode(shown) if form == "bitmask" else outline,
    }
    mapper = DatasetMapper(
        True, augmentations=[], image_format="RGB", use_instance_mask=True, instance_mask_format=form
    )
    image = {"file_name": str(tmp_path / "0.png"), "height": 40, "width": 60}
    item, empty = (mapper({**image, "annotations": given}) for given in ([annotation], []))
    assert read_clip(item).frames.shape == (1, 3, 40, 60)
    assert torch.equal(read_targets(item, read_clip(item)).masks[0, 0], torch.from_numpy(shown).float())
    assert read_targets(empty, read_clip(empty)).masks.shape == (0, 1, 40, 60)


def test_objects_of_an_image_stand_alone_and_those_of_a_clip_are_one_for_each_class():
    one = Instances((4, 6), gt_classes=torch.tensor([0, 0]), gt_masks=torch.zeros(2, 4, 6))
    one.gt_masks[0, 0, 0] = one.gt_masks[1, 3, 3] = 1
    image = {"image": FRAMES[0], "instances": one}
    clip = {"frames": FRAMES[:1], "instances": [one]}
    found = [read_targets(item, read_clip(item)) for item in (image, clip)]
    assert [target.labels.tolist() for target in found] == [[0, 0], [0]]
    assert torch.equal(found[0].masks.amax(0), found[1].masks[0])


def test_a_mask_of_0_and_255_as_classes_is_warned_about():
    maps = torch.zeros(2, 4, 6, dtype=torch.long)
    maps[0, 0] = 255
    with pytest.warns(UserWarning, match="holds only 0 and 255, which is ignored"):
        assert len(targets(sem_seg=maps).labels) == 0
