"""Clips and videos for detectron2's loops: those of lgrnet's own loader and predictor."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage
from PIL import Image

from lgrnet.data.datasets import ClipDataset, video_folder
from lgrnet.data.loader import ClipLoader
from lgrnet.data.samplers import Dense, LocalGlobal, Single, Window
from lgrnet.data.transforms import Resize, published_training, resize_for_eval
from lgrnet.detectron2_bridge import add_lgrnet_config
from lgrnet.detectron2_bridge.catalog import anchors, clip_dicts, register_folder, register_records
from lgrnet.detectron2_bridge.inputs import read_clip, read_targets
from lgrnet.detectron2_bridge.loaders import StreamSampler, build_test_loader, build_train_loader
from lgrnet.detectron2_bridge.mapper import ClipMapper
from lgrnet.records import IGNORE, DataError, VideoRecord, read_frame, write_frame, write_image, write_mask

SIZE = (64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos of 5 and 4 frames of 40 x 48 pixels with a block of foreground."""
    root, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for video, frames in (("a", 5), ("b", 4)):
        for t in range(frames):
            mask = np.zeros((40, 48), bool)
            mask[8 : 20 + t, 10:30] = True
            write_frame(root / "Frame" / video / f"{t}.png", rng.integers(0, 256, (40, 48, 3), np.uint8))
            write_mask(root / "GT" / video / f"{t}.png", mask)
    return root


@pytest.fixture
def dicts(folder):
    register_folder("mapper_clips", folder)
    return clip_dicts("mapper_clips")


def batches(count: int, **options) -> list[list[dict]]:
    mapper = ClipMapper(True, size=SIZE, sampler=LocalGlobal(4), seed=5)
    loader = build_train_loader("mapper_clips", mapper=mapper, batch_size=2, anchor_step=2, **options)
    return list(islice(loader, count))


def test_batches_are_those_of_our_own_loader(folder, dicts):
    dataset = ClipDataset(video_folder(folder), LocalGlobal(4), published_training(SIZE), anchor_step=2)
    own = ClipLoader(dataset, batch_size=2, seed=5).batches()
    for batch, expected in zip(batches(6), own, strict=False):
        assert tuple(clip["position"] for clip in batch) == expected.positions
        for clip, frames, targets, info in zip(batch, expected.frames, expected.targets, expected.infos, strict=True):
            assert clip["frames"].dtype == torch.uint8
            assert (clip["height"], clip["width"]) == info.disk_size
            assert all(isinstance(instances.gt_masks, BitMasks) for instances in clip["instances"])
            read = read_clip(clip)
            assert read.info == info and torch.equal(read.frames, frames)
            for name, found in vars(read_targets(clip, read)).items():
                assert torch.equal(found, getattr(targets, name)), name


def test_a_resumed_training_goes_on_in_the_stream(dicts):
    with EventStorage(3):
        resumed = batches(2)
    for late, whole in zip(resumed, batches(5)[3:], strict=True):
        assert [clip["position"] for clip in late] == [clip["position"] for clip in whole]
        assert all(torch.equal(a["frames"], b["frames"]) for a, b in zip(late, whole, strict=True))


@pytest.mark.peer
def test_workers_change_nothing(dicts):
    for one, two in zip(batches(3), batches(3, num_workers=2), strict=True):
        assert [clip["position"] for clip in one] == [clip["position"] for clip in two]
        assert all(torch.equal(a["frames"], b["frames"]) for a, b in zip(one, two, strict=True))


def test_ranks_share_each_step_as_in_our_own_loader():
    halves = [[position for position, _ in islice(StreamSampler(5, 0, 4, 2, rank, 2), 4)] for rank in (0, 1)]
    assert halves == [[8, 10, 12, 14], [9, 11, 13, 15]]


def test_videos_come_as_the_predictor_sees_them(folder, dicts):
    mapper = ClipMapper(False, size=SIZE)
    seen = [batch[0] for batch in build_test_loader("mapper_clips", mapper=mapper)]
    assert [video["video_name"] for video in seen] == ["a", "b"]
    for video, record in zip(seen, video_folder(folder), strict=True):
        expected = np.stack([resize_for_eval(read_frame(path), SIZE) for path in record.frames])
        assert np.array_equal(video["frames"].permute(0, 2, 3, 1).numpy(), expected)
        assert (video["height"], video["width"], video["image_id"]) == (40, 48, seen.index(video))
        assert video["frame_names"] == record.frame_names and "instances" not in video


def test_channels_in_the_order_that_the_model_is_told(dicts):
    rgb, bgr = (ClipMapper(False, size=SIZE, input_format=order)(dicts[0])["frames"] for order in ("RGB", "BGR"))
    assert torch.equal(rgb[:, [2, 1, 0]], bgr) and not torch.equal(rgb, bgr)


def test_draws_without_a_position_differ_from_call_to_call(dicts):
    first, again = (ClipMapper(True, size=SIZE, sampler=Single(), seed=1) for _ in range(2))
    drawn = [first(dicts[0]) for _ in range(8)]
    assert len({clip["frame_names"] for clip in drawn}) > 1  # without "frame_index" any frame is the anchor
    assert [clip["frame_names"] for clip in drawn] == [again(dicts[0])["frame_names"] for _ in range(8)]
    assert not any("position" in clip for clip in drawn)


def test_soft_masks_and_frames_without_annotation(tmp_path):
    frame, mask = tmp_path / "0.png", tmp_path / "m.png"
    write_frame(frame, np.zeros((40, 48, 3), np.uint8))
    write_image(mask, Image.fromarray(np.full((40, 48), 51, np.uint8)))
    record = VideoRecord("v", (frame, frame), (mask, None), "soft")
    register_records("mapper_soft", lambda: [record])
    (anchor, _) = anchors(clip_dicts("mapper_soft"))
    clip = ClipMapper(True, size=SIZE, sampler=Dense(2), transforms=[Resize(SIZE)])(anchor)
    assert clip["annotated"].tolist() == [True, False]
    first, second = (instances.gt_masks for instances in clip["instances"])
    assert torch.allclose(first, torch.full((1, *SIZE), 0.2)) and not second.any()


def test_ignored_pixels_stay_ignored(tmp_path):
    frame, mask = tmp_path / "0.png", tmp_path / "m.png"
    write_frame(frame, np.zeros((64, 64, 3), np.uint8))
    raw = np.zeros((64, 64), np.uint8)
    raw[:10], raw[20:40] = 255, 1
    write_image(mask, Image.fromarray(raw))
    register_records("mapper_ignored", lambda: [VideoRecord("v", (frame,), (mask,), {1: 1, 255: IGNORE})])
    clip = ClipMapper(True, size=SIZE, sampler=Single(), transforms=[])(anchors(clip_dicts("mapper_ignored"))[0])
    targets = read_targets(clip, read_clip(clip))
    assert torch.equal(targets.valid[0], torch.from_numpy(raw != 255))
    assert torch.equal(targets.masks[0, 0].bool(), torch.from_numpy(raw == 1))


def test_other_rules_of_evaluation(dicts):
    bilinear, bicubic = (
        ClipMapper(False, size=SIZE, resize=rule)(dicts[0])["frames"] for rule in ("bilinear", "bicubic")
    )
    assert bilinear.shape == bicubic.shape and not torch.equal(bilinear, bicubic)
    with pytest.raises(ValueError, match="nearest"):
        ClipMapper(False, resize="nearest")


def test_still_images_are_clips_of_one_frame(dicts):
    mapper = ClipMapper(True, size=SIZE, sampler=Single())
    clip = mapper(anchors(dicts)[0])
    assert clip["frames"].shape == (1, 3, *SIZE) and len(clip["instances"]) == 1


def test_arguments_from_a_config():
    cfg = get_cfg()
    add_lgrnet_config(cfg)
    mapper = ClipMapper(cfg, True)
    assert mapper.size == (352, 352) and mapper.sampler == LocalGlobal(6) and mapper.seed == 2024
    cfg.INPUT.CLIP.SAMPLER, cfg.INPUT.CLIP.NUM_FRAMES = "Window", 2
    cfg.INPUT.CLIP.SIZE, cfg.INPUT.CLIP.AUGMENTATION = [32, 64], ["Resize", "RandomFlip"]
    mapper = ClipMapper(cfg, is_train=False)
    assert mapper.size == (32, 64) and mapper.sampler == Window(2) and not mapper.is_train
    cfg.INPUT.CLIP.SAMPLER = "Windows"
    with pytest.raises(ValueError, match="INPUT.CLIP.SAMPLER names 'Windows'; expected one of LocalGlobal"):
        ClipMapper(cfg, True)
    with pytest.raises(ValueError, match="input_format is 'GBR'"):
        ClipMapper(True, input_format="GBR")


def test_a_seed_below_zero_is_drawn_for_training():
    cfg = get_cfg()
    add_lgrnet_config(cfg)
    cfg.SEED = -1
    assert ClipMapper(cfg, True).seed >= 0


def test_frames_of_two_sizes_are_told_by_name(tmp_path):
    for t, size in enumerate(((40, 48), (40, 40))):
        write_frame(tmp_path / "Frame" / "v" / f"{t}.png", np.zeros((*size, 3), np.uint8))
        write_mask(tmp_path / "GT" / "v" / f"{t}.png", np.ones(size, bool))
    register_folder("mapper_sizes", tmp_path)
    (video,) = clip_dicts("mapper_sizes")
    for mapper in (ClipMapper(False, size=SIZE), ClipMapper(True, size=SIZE, sampler=Dense(2))):
        with pytest.raises(DataError, match="1.png has .*40, 40"):
            mapper(video)


def test_loader_refuses_what_does_not_fit(dicts):
    mapper = ClipMapper(True, size=SIZE)
    with pytest.raises(ValueError, match="batch_size 0"):
        build_train_loader("mapper_clips", mapper=mapper, batch_size=0)
    with pytest.raises(DataError, match="no data set to train on"):
        build_train_loader([], mapper=mapper, batch_size=1)
    with pytest.raises(DataError, match="'mapper_clip' is not registered"):
        build_train_loader(["mapper_clip"], mapper=mapper, batch_size=1)


def test_data_sets_of_different_classes_do_not_train_together(folder, dicts):
    path = folder / "Frame" / "a" / "0.png"
    register_records("mapper_two", lambda: [VideoRecord("v", (path,), (path,), {1: 1, 2: 2})], ("a", "b"))
    with pytest.raises(DataError, match=r"mapper_clips, mapper_two have \[1, 2\] classes"):
        build_train_loader(["mapper_clips", "mapper_two"], mapper=ClipMapper(True, size=SIZE), batch_size=1)
