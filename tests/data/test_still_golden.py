"""Published augmentations of still images: the published draws, replayed, give the published pixels.

The published ones draw from the global generators of Python, numpy and torch; here the same draws are made from
generators of their own and passed to `apply`. Images of the small golden file are every third row and column.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lgrnet.data.still_colour import PhotometricDistort, RandomBlur, RandomEnhance
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
from lgrnet.data.transforms import flip_and_turn, resize_for_eval
from lgrnet.records import read_frame, read_mask

SETS = ("CVC-300", "CVC-ColonDB", "CVC-ClinicDB", "ETIS-LaribPolypDB", "Kvasir")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
ENHANCED = ("contrast", "brightness", "sharpness")


@pytest.fixture
def small(golden):
    return np.load(golden / "data/still_transforms.npz")


def part(compose, kind):
    (found,) = [transform for transform in compose.transforms if isinstance(transform, kind)]
    return found


def enhance_and_outline(clip, compose, generator: np.random.RandomState, names: list[str]):
    """The last two steps of SSFormer and of the study; `names` is shuffled in place."""
    generator.shuffle(names)
    changes = [(name, 1 + generator.random() / 10) for name in names if generator.random() > 0.5]
    clip = part(compose, RandomEnhance).apply(*clip, changes)
    key, size = generator.random(), generator.randint(2, 5)
    kind = "dilate" if key < 1 / 3 else "erode" if key < 2 / 3 else "none"
    return part(compose, RandomMorphology).apply(*clip, (kind, size))


def ssformer(image, mask, seed: int, names: list[str]):
    """SSFormer's training sample of a seed at 80 x 96: frame uint8 and mask uint8, soft."""
    compose, generator = ssformer_training((80, 96), soft_masks=True), np.random.RandomState(seed)
    clip = image[None], mask[None, None] / np.float32(255)
    clip = part(compose, PillowResize)(*clip, random.Random(0))
    scale = 0.75 + 0.5 * generator.random()
    clip = part(compose, RandomScaleCrop).apply(*clip, scale if generator.random() < 0.5 else None)
    clip = flip_and_turn(*clip, generator.random() < 0.5, generator.random() < 0.5, 0)
    angle = generator.randint(0, 359)
    clip = part(compose, RandomRotation).apply(*clip, angle if generator.random() < 0.5 else None)
    frames, masks = enhance_and_outline(clip, compose, generator, names)
    return frames[0], np.rint(masks[0, 0] * 255).astype(np.uint8)


def study(image, mask, seed: int):
    """The study's training sample of a seed at 96 x 96: frame uint8 and mask 0 or 1, with all its mistakes."""
    compose = study_training(96, outside="foreground", overrun=True, height_only=True)
    rng, generator = random.Random(seed), np.random.RandomState(seed)
    clip = image[None], (mask[None, None] == 255).astype(np.float32)
    clip = part(compose, ShortSideResize)(*clip, rng)
    crop = part(compose, RandomScaledCrop)
    clip = crop.apply(*clip, crop.draw(rng, clip[0].shape[1:3]))
    clip = flip_and_turn(*clip, rng.random() < 0.5, rng.random() < 0.5, 0)
    rotation = part(compose, RandomRotation)
    clip = rotation.apply(*clip, rotation.draw(rng, clip[0].shape[1:3]))
    frames, masks = enhance_and_outline(clip, compose, generator, list(ENHANCED))
    return frames[0], masks[0, 0].astype(np.uint8)


def distortion(generator: np.random.RandomState, torch_generator: torch.Generator):
    """SvANet's photometric draws: seven gates, then a factor for each change that is made."""
    gates = generator.rand(7)

    def factor(reach, centre=1.0):
        torch.randperm(4, generator=torch_generator)
        return float(torch.empty(1).uniform_(centre - reach, centre + reach, generator=torch_generator))

    changes = []
    for name, chosen, reach in (
        ("brightness", gates[0] < 0.5, 0.125),
        ("contrast", gates[1] < 0.5 and gates[2] < 0.5, 0.5),
        ("saturation", gates[3] < 0.5, 0.5),
        ("hue", gates[4] < 0.5, 0.05),
        ("contrast", gates[1] >= 0.5 and gates[5] < 0.5, 0.5),
    ):
        if chosen:
            changes.append((name, factor(reach, 0.0 if name == "hue" else 1.0)))
    return changes, tuple(generator.permutation(3)) if gates[6] < 0.5 else None


def svanet(image, mask, seed: int):
    """SvANet's training sample of a seed at 64 x 64: frame uint8 and labels with 255 for ignored pixels."""
    compose = svanet_training(64, frame_fill=255)
    rng, generator = random.Random(seed), np.random.RandomState(seed)
    draws = torch.Generator().manual_seed(seed)
    clip = image[None], np.stack([mask == 1, mask == 2])[:, None].astype(np.float32)
    sizes = part(compose, RandomShortSide)
    clip = sizes.apply(*clip, sizes.draw(rng, image.shape[:2]))
    clip = flip_and_turn(*clip, bool(torch.rand(1, generator=draws) < 0.5), False, 0)
    height, width = (side + 2 * max(0, 64 - side) for side in clip[0].shape[1:3])
    place = (0, 0)
    if (height, width) != (64, 64):
        place = [int(torch.randint(0, side - 63, (1,), generator=draws)) for side in (height, width)]
    lack = [max(0, 64 - side) for side in clip[0].shape[1:3]]
    clip = part(compose, RandomPaddedCrop).apply(*clip, (place[0] - lack[0], place[1] - lack[1]))
    clip = part(compose, RandomBlur).apply(*clip, rng.uniform(0, 1) if rng.random() < 0.5 else None)
    clip = part(compose, PhotometricDistort).apply(*clip, distortion(generator, draws))
    angle = float(torch.empty(1).uniform_(-10, 10, generator=draws))
    frames, masks = part(compose, RandomRotation).apply(*clip, angle)
    ignored = np.isnan(masks).any(axis=(0, 1))
    labels = np.nan_to_num(masks[:, 0]) * np.array([1, 2])[:, None, None]
    return frames[0], np.where(ignored, 255, labels.sum(axis=0)).astype(np.uint8)


def check(case, name: str, image, mask):
    assert np.array_equal(image[::3, ::3], case[f"{name}/image"])
    assert np.array_equal(mask, case[f"{name}/mask"])


def unnormalised(image):
    """float32 [3, H, W], normalised by ImageNet's statistics -> uint8 [H, W, 3]."""
    grey = (image.transpose(1, 2, 0) * STD + MEAN) * 255
    assert np.abs(grey - np.rint(grey)).max() < 0.01
    return np.rint(grey).astype(np.uint8)


def test_ssformer(small):
    names = list(ENHANCED)
    for seed in range(8):
        source = f"CVC-ClinicDB/{seed % 2}"
        check(small, f"ssformer/seed{seed}", *ssformer(small[f"{source}/image"], small[f"{source}/mask"], seed, names))


def test_study(small):
    for seed in (1, 2, 6, 7):
        source = f"{SETS[seed % 5]}/0"
        check(small, f"study/seed{seed}", *study(small[f"{source}/image"], small[f"{source}/mask"], seed))
    for name in ("CVC-ColonDB", "CVC-ClinicDB"):
        check(small, f"study/{name}", *study_evaluation(small[f"{name}/0/image"], small[f"{name}/0/mask"]))


def study_evaluation(image, mask):
    frames, masks = ShortSideResize(96)(image[None], (mask[None, None] == 255).astype(np.float32), random.Random(0))
    assert np.array_equal(frames[0], resize_for_eval(image, 96, "short_side"))
    return frames[0], masks[0, 0].astype(np.uint8)


def test_svanet(small):
    for seed in range(6):
        check(small, f"svanet/seed{seed}", *svanet(small["svanet/image"], small["svanet/mask"], seed))
    mask = small["svanet/mask"]
    frames, masks = PillowResize(64, "bicubic")(
        small["svanet/image"][None], np.stack([mask == 1, mask == 2])[:, None].astype(np.float32), random.Random(0)
    )
    check(small, "svanet/eval", frames[0], (masks[0, 0] + 2 * masks[1, 0]).astype(np.uint8))
    assert np.array_equal(frames[0], resize_for_eval(small["svanet/image"], 64, "bicubic"))


def pair(folder: Path, index: int):
    images, masks = (sorted((folder / name).iterdir()) for name in ("images", "masks"))
    return read_frame(images[index]), read_mask(masks[index])


def test_ssformer_in_full(shared):
    case = np.load(shared / "golden/ssformer/train_transforms_official.npz")
    names = list(ENHANCED)
    for seed in range(8):
        folder = shared / "golden/ssformer/e2e/TestDataset/CVC-ClinicDB"
        image, mask = ssformer(*pair(folder, seed % 2), seed, names)
        assert np.array_equal(image, unnormalised(case[f"seed{seed}/image"]))
        assert np.array_equal(mask, np.rint(case[f"seed{seed}/gt"][0] * 255))


def test_study_in_full(shared):
    case = np.load(shared / "golden/ssformer/transforms_repro.npz")
    root = shared / "golden/ssformer/e2e/TestDataset"
    for seed in range(8):
        image, mask = study(*pair(root / SETS[seed % 5], 0), seed)
        assert np.array_equal(image, unnormalised(case[f"train/seed{seed}/image"]))
        assert np.array_equal(mask, case[f"train/seed{seed}/label"])
    for name in SETS:
        image, mask = study_evaluation(*pair(root / name, 0))
        assert np.array_equal(image, unnormalised(case[f"val/{name}/image"]))
        assert np.array_equal(mask, case[f"val/{name}/label"])


def test_svanet_in_full(shared):
    case = np.load(shared / "golden/svanet/transforms.npz")
    for seed in range(6):
        image, mask = svanet(case["image_u8"], case["mask"], seed)
        assert np.array_equal(image, np.rint(case[f"train_seed{seed}_image"].transpose(1, 2, 0) * 255))
        assert np.array_equal(mask, case[f"train_seed{seed}_label"])


def test_the_steps_of_svanet_are_in_the_published_order(shared):
    order = json.loads((shared / "golden/svanet/transforms_order.json").read_text())["order"]
    ours = [type(transform).__name__ for transform in svanet_training(64).transforms]
    assert len(ours) + 1 == len(order)
    for name, published in zip(ours, order[:-1], strict=True):
        kinds = {"RandomShortSide": "RandomShortSizeResize", "RandomFlip": "RandomHorizontalFlip"}
        kinds |= {"RandomPaddedCrop": "RandomCrop", "RandomBlur": "RandomGaussianBlur"}
        assert kinds.get(name, name) == published


def test_published_evaluation_of_ssformer_is_pillows_bilinear(shared):
    image, _ = pair(shared / "golden/ssformer/e2e/TestDataset/Kvasir", 0)
    expected = np.array(Image.fromarray(image).resize((352, 352), Image.Resampling.BILINEAR))
    assert np.array_equal(resize_for_eval(image, 352), expected)
