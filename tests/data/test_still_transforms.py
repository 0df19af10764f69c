"""Augmentations of still images: what holds for any draw. The published pixels are in test_still_golden.py."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from lgrnet.data.datasets import ClipDataset
from lgrnet.data.samplers import Single
from lgrnet.data.still_colour import PhotometricDistort, RandomBlur, RandomEnhance, enhance
from lgrnet.data.still_datasets import image_folder
from lgrnet.data.still_training import ssformer_training, study_training, svanet_training
from lgrnet.data.still_transforms import (
    PillowResize,
    RandomMorphology,
    RandomPaddedCrop,
    RandomRotation,
    RandomScaleCrop,
    RandomScaledCrop,
    RandomShortSide,
    ShortSideResize,
)
from lgrnet.data.transforms import Compose
from tests.data.still_layout import mask_of, write_still

GEOMETRIC = [
    PillowResize((48, 80)),
    PillowResize((48, 80), "bicubic", "bilinear"),
    ShortSideResize(48),
    RandomScaleCrop(probability=1.0),
    RandomScaleCrop(probability=1.0, masks="bicubic"),
    RandomScaledCrop(48),
    RandomShortSide((32, 96), 128),
    RandomPaddedCrop(48, "background"),
    RandomRotation((-359.0, 359.0)),
    RandomRotation((0, 358), whole=True, expand=True, frames="nearest"),
    RandomRotation((-359.0, 359.0), tensors=True),
    Compose(ssformer_training(48).transforms[:-1]),  # the last step changes the outlines of masks alone
    Compose(study_training(64).transforms[:-1]),
]
COLOUR = [RandomEnhance(probability=1.0), RandomBlur(probability=1.0), PhotometricDistort(probability=1.0)]
WHOLE = [ssformer_training, study_training, svanet_training]


@pytest.fixture
def clip():
    """Three frames, each black with the same white block, and the block's mask."""
    masks = np.zeros((1, 3, 64, 72), np.float32)
    masks[:, :, 10:42, 8:40] = 1
    return np.repeat((masks[0, ..., None] * 255).astype(np.uint8), 3, axis=-1), masks


@pytest.mark.parametrize("transform", GEOMETRIC, ids=lambda t: type(t).__name__)
def test_masks_move_with_the_frames_and_all_frames_alike(clip, transform):
    for seed in range(10):
        frames, masks = transform(*clip, random.Random(seed))
        assert frames.dtype == np.uint8 and masks.dtype == np.float32
        assert frames.shape[:3] == masks.shape[1:]
        assert (frames == frames[:1]).all() and (masks == masks[:, :1]).all()
        assert masks.min() >= 0 and masks.max() <= 1
        assert ((frames[0, ..., 0] > 127) != (masks[0, 0] > 0.5)).mean() < 0.08


@pytest.mark.parametrize("transform", COLOUR, ids=lambda t: type(t).__name__)
def test_colour_leaves_masks_and_treats_frames_alike(clip, transform):
    frames = np.random.default_rng(0).integers(0, 256, (1, 64, 72, 3), dtype=np.uint8).repeat(3, axis=0)
    out, masks = transform(frames, clip[1], random.Random(3))
    assert masks is clip[1] and out.shape == frames.shape and out.dtype == np.uint8
    assert (out == out[:1]).all() and (out != frames).mean() > 0.3


@pytest.mark.parametrize("transform", [*GEOMETRIC, *COLOUR, svanet_training(48)], ids=lambda t: type(t).__name__)
def test_draws_come_from_the_generator_alone(clip, transform):
    frames = np.random.default_rng(0).integers(0, 256, clip[0].shape, dtype=np.uint8)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first, second = (transform(frames, clip[1], random.Random(9)) for _ in range(2))
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True))
    assert random.getstate() == states[0] and (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize("kind", [RandomScaleCrop, RandomRotation, RandomEnhance, RandomBlur, PhotometricDistort])
def test_the_number_of_draws_does_not_depend_on_what_they_say(clip, kind):
    used, plain = random.Random(4), random.Random(4)
    kind(probability=1.0)(*clip, used)
    unchanged = kind(probability=0.0)(*clip, plain)
    assert used.random() == plain.random()
    assert all(a is b for a, b in zip(unchanged, clip, strict=True))


def test_draws_have_the_published_ranges():
    rng, size = random.Random(0), (100, 140)
    scales = [RandomScaleCrop().draw(rng, size) for _ in range(2000)]
    assert 0.46 < np.mean([scale is not None for scale in scales]) < 0.54
    assert 0.75 <= min(filter(None, scales)) < 0.76 and 1.24 < max(filter(None, scales)) <= 1.25
    angles = {RandomRotation((0, 358), 0.5, whole=True).draw(rng, size) for _ in range(9000)} - {None}
    assert angles == set(range(359))
    outlines = [RandomMorphology().draw(rng, size) for _ in range(3000)]
    assert {size for _, size in outlines} == {2, 3, 4}
    assert all(abs(np.mean([k == kind for k, _ in outlines]) - 1 / 3) < 0.04 for kind in ("dilate", "erode", "none"))
    changes = [RandomEnhance().draw(rng, size) for _ in range(2000)]
    assert 1.4 < np.mean([len(change) for change in changes]) < 1.6
    assert all(1 <= factor <= 1.1 for change in changes for _, factor in change)
    assert {change[0][0] for change in changes if change} == set(RandomEnhance.names)
    assert {RandomScaledCrop(96, (1, 1)).draw(rng, (96, 96))[1:] for _ in range(50)} == {(0, 0)}
    places = {RandomScaledCrop(96, (1, 1), overrun=True).draw(rng, (96, 96))[1:] for _ in range(50)}
    assert places == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_photometric_draws_of_svanet():
    drawn = [PhotometricDistort().draw(random.Random(seed), (1, 1)) for seed in range(4000)]
    names = [[name for name, _ in changes] for changes, _ in drawn]
    assert abs(np.mean(["contrast" in n for n in names]) - 0.5) < 0.03
    both = [n.index("contrast") < n.index("hue") for n in names if {"contrast", "hue"} <= set(n)]
    assert abs(np.mean(both) - 0.5) < 0.05, "half of the time before the colours, else after them"
    assert all(abs(np.mean([k in n for n in names]) - 0.5) < 0.03 for k in ("brightness", "saturation", "hue"))
    assert abs(np.mean([channels is not None for _, channels in drawn]) - 0.5) < 0.03
    reach = {"brightness": 0.125, "contrast": 0.5, "saturation": 0.5}
    for changes, _ in drawn:
        assert all(abs(v - (name != "hue")) <= reach.get(name, 0.05) for name, v in changes)


def test_sizes_of_svanet():
    sizes = svanet_training(512).transforms[0]
    assert (sizes.short, sizes.longest) == ((256, 768), 1024)
    assert (svanet_training(64).transforms[0].short, svanet_training(64).transforms[0].longest) == ((32, 96), 128)
    drawn = [sizes.draw(random.Random(seed), (100, 400)) for seed in range(300)]
    assert max(width for _, width in drawn) == 1024 and min(height for height, _ in drawn) >= 255
    assert sizes.draw(random.Random(0), (1, 5000))[0] == 1


@pytest.mark.parametrize("training", WHOLE)
@pytest.mark.parametrize("size", [(3, 3), (1, 200), (61, 64), (300, 200)])
def test_any_picture_comes_out_at_the_size_asked_for(training, size):
    frames, masks = np.full((1, *size, 3), 9, np.uint8), np.ones((2, 1, *size), np.float32)
    for seed in range(4):
        out, moved = training(64)(frames, masks, random.Random(seed))
        assert out.shape == (1, 64, 64, 3) and moved.shape == (2, 1, 64, 64)


def test_what_is_outside_the_picture():
    frames, masks = np.full((1, 20, 30, 3), 200, np.uint8), np.zeros((1, 1, 20, 30), np.float32)
    for name, value in (("background", 0.0), ("foreground", 1.0), ("ignore", np.nan)):
        for transform, drawn in (
            (RandomRotation(outside=name), 45.0),
            (RandomRotation(outside=name, tensors=True), 45.0),
            (RandomRotation(outside=name, expand=True), 45.0),
            (RandomPaddedCrop(40, name), (-10, -5)),
            (RandomScaledCrop(64, outside=name), (0.5, 0, 0)),
        ):
            out, moved = transform.apply(frames, masks, drawn)
            assert np.array_equal(moved[0, 0, -1, -1], value, equal_nan=True), type(transform).__name__
            assert (out[0, -1, -1] == 0).all() and moved[0, 0, moved.shape[2] // 4, moved.shape[3] // 4] == 0
    assert (RandomPaddedCrop(40, frame_fill=255).apply(frames, masks, (-10, -5))[0][0, -1, -1] == 255).all()
    with pytest.raises(ValueError, match='outside="foreground" means the one class, but there are 2; use "ignore"'):
        RandomRotation(outside="foreground").apply(frames, masks.repeat(2, 0), 3.0)


def test_ignored_corners_reach_the_targets(tmp_path):
    write_still(tmp_path / "images", tmp_path / "masks", "a.png", mask_of((255,), (64, 64)))
    records = image_folder(tmp_path / "images", tmp_path / "masks")
    targets = (
        ClipDataset(records, Single(), RandomRotation((45, 45), outside="ignore")).sample(0, random.Random(0)).targets
    )
    assert not targets.valid[0, 0, 0] and targets.valid[0, 32, 32] and targets.masks.isfinite().all()
    assert 0.1 < (~targets.valid).float().mean() < 0.3


@pytest.mark.parametrize("transform", [*GEOMETRIC, RandomMorphology()], ids=lambda t: type(t).__name__)
def test_ignored_pixels_move_with_the_picture(clip, transform):
    frames, masks = clip
    for seed in range(6):
        plain = transform(frames, masks, random.Random(seed))[1]
        marked = transform(frames, np.where(masks > 0, np.float32(np.nan), masks), random.Random(seed))[1]
        if isinstance(transform, RandomMorphology):
            plain = masks
        assert (np.isnan(marked) != (plain > 0.5)).mean() < 0.05
        assert not (np.isnan(marked).any(axis=(2, 3)) & (marked > 0.5).any(axis=(2, 3))).any()


@pytest.mark.parametrize(
    "transform",
    [
        *(PillowResize(size, masks=kind) for size in (16, 5, (8, 13)) for kind in ("bilinear", "bicubic")),
        RandomScaleCrop((1.0, 1.25), masks="bicubic"),
        RandomMorphology(),
    ],
    ids=lambda t: type(t).__name__,
)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_ignored_pixels_are_neither_object_nor_background_to_their_neighbours(transform, value):
    frames, masks = np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 1, 8, 8), value, np.float32)
    masks[..., 4:] = np.nan
    for seed in range(8):
        moved = transform(frames, masks, random.Random(seed))[1]
        assert np.isnan(moved).any() and set(moved[~np.isnan(moved)].tolist()) == {value}


def test_smooth_masks_are_asked_for(clip):
    assert set(np.unique(ssformer_training(50)(*clip, random.Random(0))[1])) == {0.0, 1.0}
    soft = ssformer_training(50, soft_masks=True)(*clip, random.Random(0))[1]
    assert len(np.unique(soft)) > 2 and np.array_equal(np.rint(soft * 255).astype(np.float32) / 255, soft)


def test_one_pixel_objects():
    """They survive what does not shrink; a nearest mask that shrinks loses some, a smooth one keeps a trace."""
    found = {"nearest": 0, "bilinear": 0}
    for column in range(64):
        frames, masks = np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 1, 64, 64), np.float32)
        masks[0, 0, 20, column] = 1
        for name in found:
            found[name] += bool(PillowResize(32, masks=name)(frames, masks, random.Random(0))[1].any())
        assert PillowResize(100)(frames, masks, random.Random(0))[1].any()
        assert RandomPaddedCrop(80).apply(frames, masks, (-4, -7))[1][0, 0, 24, column + 7] == 1
        assert not RandomMorphology().apply(frames, masks, ("erode", 3))[1].any()
        assert RandomMorphology().apply(frames, masks, ("dilate", 3))[1].sum() >= 4
    assert found["nearest"] <= 32 and found["bilinear"] == 64


def test_outlines_along_the_height_only():
    masks = np.zeros((1, 1, 21, 21), np.float32)
    masks[0, 0, 10, 10] = 1
    for size in (2, 3, 4):
        grown = RandomMorphology(height_only=True).apply(None, masks, ("dilate", size))[1][0, 0]
        assert np.flatnonzero(grown.any(axis=0)).tolist() == [10] and grown.sum() == size
        both = RandomMorphology().apply(None, masks, ("dilate", size))[1][0, 0]
        assert both.any(axis=0).sum() > 1 and both.any(axis=1).sum() > 1


def test_several_classes_stay_apart(clip):
    frames, masks = clip
    two = np.concatenate([masks, 1 - masks])
    for transform in (RandomRotation((-90, 90)), RandomShortSide((32, 96), 128), RandomPaddedCrop(48, "ignore")):
        moved = transform(frames, two, random.Random(1))[1]
        assert np.nanmax(moved.sum(axis=0)) == 1


def test_changes_come_in_the_order_given():
    frames = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    first = enhance(frames, [("contrast", 1.5), ("brightness", 0.9)])
    assert (first != enhance(frames, [("brightness", 0.9), ("contrast", 1.5)])).any()
    assert enhance(frames, []) is frames
    red = np.zeros((1, 1, 1, 3), np.uint8)
    red[..., 0] = 255
    assert (
        enhance(red, [("hue", 1 / 3)])[0, 0, 0].argmax() == 1 and enhance(red, [("hue", -1 / 3)])[0, 0, 0].argmax() == 2
    )


def test_real_stills_of_several_centres(shared):
    root = shared / "data/polypgen_stills"
    held_out = image_folder(root / "images", root / "masks", names=["C3_*"])
    rest = image_folder(root / "images", root / "masks", leave_out=["C3_*"])
    assert (len(held_out), len(rest)) == (40, 118)
    for training in WHOLE:
        dataset = ClipDataset(rest, Single(), training(96), require_foreground=False)
        clips = [dataset.sample(index, random.Random(index)) for index in range(0, len(dataset), 40)]
        assert all(clip.frames.shape == (1, 3, 96, 96) for clip in clips)
        assert sum(clip.targets.masks.sum() for clip in clips) > 0


def test_wrong_arguments():
    with pytest.raises(ValueError, match="filter is 'cubic'; expected nearest, bilinear, bicubic"):
        PillowResize(8, "cubic")
    with pytest.raises(ValueError, match='frames is \'bicubic\'; expected "bilinear" or "nearest"'):
        RandomRotation(frames="bicubic")
    with pytest.raises(ValueError, match="outside is 'white'; expected background, ignore, foreground"):
        RandomPaddedCrop(8, "white")
    with pytest.raises(ValueError, match="expand is done by Pillow"):
        RandomRotation(expand=True, tensors=True)
    for kind in (RandomScaleCrop, RandomRotation, RandomEnhance, RandomBlur, PhotometricDistort):
        with pytest.raises(ValueError, match="probability or strength is 2; expected a number in 0..1"):
            kind(probability=2)
