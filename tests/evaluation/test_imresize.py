"""MATLAB's imresize against a plain one, and the evaluation of MICCAI-VPS, which resizes maps with it."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from PIL import Image

from lgrnet.evaluation import PROTOCOLS, Evaluator, VPSProtocol
from lgrnet.evaluation.imresize import imresize

SIZES = [
    ((20, 24), (20, 24)),
    ((20, 24), (40, 48)),
    ((20, 24), (33, 61)),
    ((35, 41), (10, 13)),
    ((40, 20), (13, 50)),
    ((20, 40), (50, 13)),
    ((50, 40), (20, 10)),
    ((2, 3), (7, 9)),
    ((30, 30), (2, 1)),
    ((1, 5), (4, 4)),
]


def _cubic(x: float) -> float:
    """Keys' kernel with a = -1/2."""
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0


def _plain_row(row: list[int], length: int) -> list[int]:
    """One row, pixel by pixel, as MATLAB documents it."""
    scale = length / len(row)
    squeeze = min(scale, 1.0)  # where it shrinks, the kernel is as much wider
    out = []
    for place in range(length):
        centre = (place + 0.5) / scale - 0.5
        first = math.floor(centre - 2 / squeeze) - 1
        pixels = range(first, first + math.ceil(4 / squeeze) + 4)
        weights = [squeeze * _cubic(squeeze * (centre - pixel)) for pixel in pixels]
        total = 0.0
        for pixel, weight in zip(pixels, weights, strict=True):
            inside = pixel % (2 * len(row))  # the row, mirrored with its border doubled
            total += weight * row[inside if inside < len(row) else 2 * len(row) - 1 - inside]
        # Halves are frequent, and go up whatever the last digits of the sum are.
        out.append(min(max(math.floor(total / sum(weights) + 0.5 + 1e-9), 0), 255))
    return out


def _plain(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The axis with the smaller scale first, each pass rounded to bytes."""
    scales = [size[axis] / image.shape[axis] for axis in (0, 1)]
    for axis in sorted((0, 1), key=scales.__getitem__):
        rows = [_plain_row(row.tolist(), size[axis]) for row in np.moveaxis(image, axis, 1)]
        image = np.moveaxis(np.array(rows, np.uint8), 1, axis)
    return image


@pytest.mark.parametrize(("size", "target"), SIZES)
@pytest.mark.parametrize("kind", ["noise", "mask", "soft"])
def test_every_pixel_is_that_of_the_plain_one(size, target, kind):
    rng = np.random.default_rng(sum(size) + sum(target))
    image = rng.integers(0, 256, size, dtype=np.uint8)
    if kind == "mask":
        image = np.where(image > 127, np.uint8(255), np.uint8(0))
    elif kind == "soft":
        image = (np.add.outer(np.arange(size[0]), np.arange(size[1])) * 255 // sum(size)).astype(np.uint8)
    found, expected = imresize(image, target), _plain(image, target)
    assert found.dtype == np.uint8 and found.shape == target
    assert np.array_equal(found, expected)


def test_weights_known_from_the_literature():
    """Twice the size: 0.8672, 0.2266, -0.0703 and -0.0234; clamped below 0."""
    row = np.zeros((1, 9), np.uint8)
    row[0, 4] = 200
    assert imresize(row, (1, 18))[0].tolist() == [0] * 7 + [45, 173, 173, 45] + [0] * 7
    assert imresize(255 - row, (1, 18)).max() == 255
    assert (imresize(np.full((9, 7), 131, np.uint8), (4, 23)) == 131).all()


@pytest.mark.parametrize("target", [(75, 93), (17, 30), (64, 20)])
def test_inside_it_is_the_bicubic_of_pillow(target):
    """Which has the same kernel, also widened, but other borders and another order of axes; so nothing is clamped."""
    image = np.random.default_rng(5).integers(80, 176, (40, 48), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(image).resize(target[::-1], Image.Resampling.BICUBIC)).astype(int)
    rows, columns = (
        slice(math.ceil(4 * max(1, new / old)), -math.ceil(4 * max(1, new / old)))
        for new, old in zip(target, image.shape, strict=True)
    )
    assert abs(imresize(image, target)[rows, columns] - theirs[rows, columns]).max() <= 1


def test_shrinking_takes_every_pixel_in():
    image = np.zeros((64, 64), np.uint8)
    image[::2] = 255
    assert abs(int(imresize(image, (8, 8)).mean()) - 127) <= 1


@pytest.fixture(scope="module")
def clip():
    """Soft maps at another size than their masks."""
    rng = np.random.default_rng(3)
    truth = np.zeros((6, 60, 70), np.uint8)
    truth[:, 20:45, 15:50] = 255
    maps = np.stack([imresize(mask, (32, 32)) for mask in truth]) // 2 + rng.integers(0, 120, (6, 32, 32), np.uint8)
    return maps.astype(np.uint8), truth


def _scores(protocol, maps, truth):
    evaluator = Evaluator([protocol], resize=True)
    scorer = evaluator.begin("a", "binary")
    for index, (found, raw) in enumerate(zip(maps, truth, strict=True)):
        scorer.add(str(index), found, raw=raw)
    evaluator.end(scorer)
    return evaluator.result()["scores"][protocol.id]


def test_the_protocol_of_miccai_vps_differs_in_the_resize_alone(clip):
    maps, truth = clip
    protocol = PROTOCOLS["miccai-vps"]()
    assert protocol.drop_ends and "imresize" in protocol.meaning and protocol.metrics == VPSProtocol.metrics
    resized = [_plain(found, truth.shape[1:]) for found in maps]
    found = _scores(protocol, maps, truth)
    assert found == _scores(VPSProtocol(), resized, truth)
    assert found != _scores(VPSProtocol(), maps, truth)
    assert _scores(pickle.loads(pickle.dumps(protocol)), maps, truth) == found


def test_ids_tell_what_was_done():
    ids = [VPSProtocol(ends, rule).id for ends in (True, False) for rule in ("bilinear", "imresize")]
    assert ids == ["vps", "miccai-vps", "vps-all-frames", "miccai-vps-all-frames"]
    with pytest.raises(ValueError, match='resize is "cubic"; expected "bilinear" or "imresize"'):
        VPSProtocol(resize="cubic")
