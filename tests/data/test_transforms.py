"""Augmentation: bit-equal to the published one, one draw per clip, masks that stay on what they mark."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from lgrnet.data.still_to_clip import StillToClip
from lgrnet.data.transforms import (
    ColorJitter,
    Compose,
    GaussianBlur,
    RandomAffine,
    RandomFlip,
    RandomResizedCrop,
    RandomRotate90,
    Resize,
    draw_size,
    flip_and_turn,
    published_training,
    resize_for_eval,
)

GEOMETRIC = [
    RandomFlip(0.7, 0.7),
    RandomRotate90(1.0),
    RandomResizedCrop(48),
    RandomAffine(probability=1.0),
    published_training(48),
]
COLOUR = [ColorJitter(0.4, 0.4, 0.4, 0.1, probability=1.0), GaussianBlur(probability=1.0)]


@pytest.fixture
def clip():
    """Three frames, each black with the same white block, and the block's mask."""
    masks = np.zeros((1, 3, 64, 64), np.float32)
    masks[:, :, 10:34, 8:26] = 1
    return np.repeat((masks[0, ..., None] * 255).astype(np.uint8), 3, axis=-1), masks


def as_tensor(frames):
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float().div(255)


def published(frames, masks, flips_and_turns):
    across, down, turns = (int(v) for v in flips_and_turns)
    resized = Resize(352)(frames, masks, random.Random(0))
    return flip_and_turn(*resized, bool(across), bool(down), turns)


def test_training_augmentation_is_bit_equal(golden):
    case = np.load(golden / "data/train_aug_seed1.npz")
    masks = np.unpackbits(case["masks"])[: np.prod(case["masks_shape"])].reshape(case["masks_shape"])
    frames, masks = published(case["frames"], masks.astype(np.float32), case["flips_and_turns"])
    assert np.array_equal(frames.transpose(0, 3, 1, 2)[..., ::4, ::4], case["video_s4"])
    assert np.array_equal(masks[..., ::4, ::4] > 0, case["masks_s4"])


def test_training_augmentation_is_bit_equal_in_every_case(shared):
    case = torch.load(shared / "golden/lgrnet/train_aug.pt", weights_only=True)
    frames, masks = case["frames_uint8"].numpy(), case["masks"].numpy().astype(np.float32)
    for run in case["runs"]:
        ours, our_masks = published(frames, masks, run["found_hf_vf_k"][:3])
        assert torch.equal(as_tensor(ours)[..., ::4, ::4], run["video_s4"])
        assert np.array_equal(our_masks[..., ::4, ::4] > 0, run["masks_s4"].numpy())


def test_eval_resize_is_bit_equal(golden):
    case = np.load(golden / "data/collate_and_eval.npz")
    frames = np.stack([resize_for_eval(frame, 352) for frame in case["eval_frames"]])
    assert np.array_equal(as_tensor(frames)[None, ..., ::8, ::8].numpy(), case["eval_input_s8"])
    assert resize_for_eval(frames[0], (16, 32)).shape == (16, 32, 3)


def test_training_sizes_are_the_published_sequence(golden):
    expected = json.loads((golden / "data/sequences.json").read_text())["train_sizes_np_seed2024"]
    rng = np.random.RandomState(2024)
    sizes = (256, 288, 320, 352, 384, 416, 448)
    assert [draw_size(sizes, rng) for _ in expected] == expected
    assert type(draw_size(sizes, random.Random(0))) is int


@pytest.mark.parametrize("transform", GEOMETRIC, ids=lambda t: type(t).__name__)
def test_masks_move_with_the_frames_and_all_frames_alike(clip, transform):
    moved = 0
    for seed in range(12):
        frames, masks = transform(*clip, random.Random(seed))
        assert frames.dtype == np.uint8 and masks.dtype == np.float32
        assert frames.shape[:3] == masks.shape[1:]
        assert (frames == frames[:1]).all() and (masks == masks[:, :1]).all()
        assert (
            (frames[0, ..., 0] > 127) != (masks[0, 0] > 0.5)
        ).mean() < 0.05  # nearest and bilinear differ by half a pixel
        moved += frames.shape != clip[0].shape or bool((frames != clip[0]).any())
    assert moved >= 6


@pytest.mark.parametrize("transform", COLOUR, ids=lambda t: type(t).__name__)
def test_colour_leaves_masks_and_treats_frames_alike(clip, transform):
    frames = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8).repeat(3, axis=0)
    out, masks = transform(frames, clip[1], random.Random(3))
    assert masks is clip[1]
    assert (out == out[:1]).all() and (out != frames).mean() > 0.5
    assert out.shape == frames.shape and out.dtype == np.uint8


@pytest.mark.parametrize("transform", [*GEOMETRIC, *COLOUR], ids=lambda t: type(t).__name__)
def test_draws_come_from_the_generator_alone(clip, transform):
    frames = np.random.default_rng(0).integers(0, 256, clip[0].shape, dtype=np.uint8)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first, second = (transform(frames, clip[1], random.Random(9)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert random.getstate() == states[0] and (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize("probability", [0.0, 1.0])
@pytest.mark.parametrize("kind", [RandomAffine, ColorJitter, GaussianBlur, RandomRotate90])
def test_the_number_of_draws_does_not_depend_on_what_they_say(clip, kind, probability):
    used, plain = random.Random(4), random.Random(4)
    kind(probability=probability)(*clip, used)
    kind(probability=1 - probability)(*clip, plain)
    assert used.random() == plain.random()


def test_quarter_turns_keep_the_shape_of_oblong_clips():
    frames, masks = np.zeros((2, 20, 30, 3), np.uint8), np.zeros((1, 2, 20, 30), np.float32)
    frames[:, 0, 0] = 255
    corners = set()
    for seed in range(20):
        out, out_masks = RandomRotate90(1.0)(frames, masks, random.Random(seed))
        assert out.shape == frames.shape and out_masks.shape == masks.shape
        corners.add((int(out[0, 0, 0, 0]), int(out[0, -1, -1, 0])))
    assert corners == {(255, 0), (0, 255)}


def test_published_probabilities():
    rng, found = random.Random(0), {"across": 0, "down": 0}
    frames = np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1).repeat(3, axis=3)
    masks = np.zeros((1, 1, 2, 2), np.float32)
    for _ in range(2000):
        corner = RandomFlip()(frames, masks, rng)[0][0, 0, 0, 0]
        found["across"] += corner in (1, 3)
        found["down"] += corner in (2, 3)
    assert all(abs(count / 2000 - 0.5) < 0.04 for count in found.values())
    turned = sum(RandomRotate90()(frames, masks, rng)[0][0, 0, 0, 0] != 0 for _ in range(2000))
    assert abs(turned / 2000 - 0.375) < 0.04


def test_soft_masks_stay_soft_when_asked():
    masks = np.zeros((1, 1, 8, 8), np.float32)
    masks[..., 4:] = 1
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    assert set(np.unique(Resize(13)(frames, masks, random.Random(0))[1])) == {0.0, 1.0}
    assert len(np.unique(Resize(13, masks="linear")(frames, masks, random.Random(0))[1])) > 2


def test_no_class_and_several_classes(clip):
    frames, masks = clip
    transform = Compose([Resize((32, 40)), RandomAffine(probability=1.0)])
    assert transform(frames, masks.repeat(2, axis=0), random.Random(0))[1].shape == (2, 3, 32, 40)


def test_a_still_becomes_a_clip():
    picture = np.random.default_rng(0).integers(0, 256, (1, 60, 80, 3), dtype=np.uint8)
    masks = np.zeros((2, 1, 60, 80), np.float32)
    masks[0, 0, 20:40, 30:50] = 1
    frames, moved = StillToClip(6)(picture, masks, random.Random(0))
    assert frames.shape == (6, 60, 80, 3) and moved.shape == (2, 6, 60, 80)
    originals = [i for i in range(6) if np.array_equal(frames[i], picture[0])]
    assert len(originals) == 1 and np.array_equal(moved[:, originals[0]], masks[:, 0])
    assert len({frame.tobytes() for frame in frames}) == 6
    again = StillToClip(6)(picture, masks, random.Random(0))
    assert np.array_equal(again[0], frames) and np.array_equal(again[1], moved)
    places = {next(i for i in range(6) if np.array_equal(f[i], picture[0])) for f in shuffles(picture, masks)}
    assert len(places) > 2
    assert moved[1].max() == 0


def shuffles(picture, masks):
    return [StillToClip(6)(picture, masks, random.Random(seed))[0] for seed in range(1, 9)]


def test_the_masks_of_a_still_follow_its_distortion(clip):
    frames, masks = (part[:1] if part.ndim == 4 and part.shape[-1] == 3 else part[:, :1] for part in clip)
    for seed in range(5):
        out, moved = StillToClip(6, degrees=15)(frames, masks, random.Random(seed))
        for frame, mask in zip(out, moved[0], strict=True):
            assert ((frame.max(axis=-1) > 127) != (mask > 0.5)).mean() < 0.08


def test_wrong_arguments(clip):
    with pytest.raises(ValueError, match=r"clip of 3 frames, expected 1; use the sampler Single\(\)"):
        StillToClip()(*clip, random.Random(0))
    with pytest.raises(ValueError, match="size is 0"):
        Resize(0)
    with pytest.raises(ValueError, match="size is"):
        Resize((1, 2, 3))
    with pytest.raises(ValueError, match="size is 10000 x 10000; expected at most 64000000 pixels"):
        Resize(10000)
    with pytest.raises(ValueError, match='"nearest" or "linear"'):
        Resize(8, masks="cubic")
    with pytest.raises(ValueError, match="probability or strength is 1.5; expected a number in 0..1"):
        RandomFlip(1.5)
    with pytest.raises(ValueError, match="scale is"):
        RandomResizedCrop(8, scale=(0.9, 0.1))
