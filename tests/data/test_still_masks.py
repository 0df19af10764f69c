"""Bad input of still images: masks that mean something else, ignored pixels, no foreground, and awkward sizes."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lgrnet.data.datasets import MANY, ClipDataset
from lgrnet.data.loader import collate
from lgrnet.data.samplers import Single
from lgrnet.data.still_datasets import svanet_set
from lgrnet.data.still_to_clip import StillToClip
from lgrnet.data.still_training import svanet_training
from lgrnet.data.transforms import Resize
from lgrnet.engine.evaluate import evaluate_sets
from lgrnet.evaluation.annotation import read_annotation
from lgrnet.inference.predictor import Predictor
from lgrnet.models.plain_head import PlainHead
from lgrnet.models.segmenter import PerFrame
from lgrnet.records import DataError, VideoRecord, class_masks, ignored_pixels, only_ignored
from tests.data.still_layout import listed, mask_of, write_still, write_svanet


def rng(seed: int = 0) -> random.Random:
    return random.Random(seed)


def fails_in_training_and_evaluation(record: VideoRecord, match: str) -> None:
    with pytest.raises(DataError, match=match):
        ClipDataset([record], Single(), require_foreground=False).sample(0, rng())
    with pytest.raises(DataError, match=match):
        read_annotation(record)


def one(root: Path, raw: np.ndarray, label_map, suffix: str = ".png", **options) -> VideoRecord:
    write_still(root / "images", root / "masks", "a.png", raw, suffix=suffix, **options)
    return listed(root, label_map=label_map)[0]


IGNORING = {1: 1, 255: "ignore"}


def test_a_binary_mask_for_class_indices(tmp_path):
    record = one(tmp_path, mask_of((255,)), {1: 1, 2: 2})
    fails_in_training_and_evaluation(record, r'values \[255\], unknown .*255: 48 pixels.*set label_map="binary"')
    write_svanet(tmp_path / "PolypGen", (255,))
    with pytest.raises(DataError, match=r'shows no foreground.*ignores all but the background.*label_map="binary"'):
        ClipDataset(svanet_set(tmp_path, "PolypGen", "train"), Single()).sample(0, rng())
    records = svanet_set(tmp_path, "PolypGen", "train", label_map="binary")
    assert ClipDataset(records, Single()).sample(0, rng()).targets.masks.sum() == 48


def test_an_image_without_an_object_may_have_ignored_pixels(tmp_path):
    record = one(tmp_path, mask_of((255,)), IGNORING)
    targets = ClipDataset([record], Single(), require_foreground=False).sample(0, rng()).targets
    assert targets.labels.numel() == 0 and (~targets.valid).sum() == 48
    assert only_ignored(read_annotation(record)[0], record.label_map)
    assert not only_ignored(mask_of((1, 255)), IGNORING) and not only_ignored(mask_of(()), IGNORING)
    assert not only_ignored(mask_of((255,)), "binary")


def test_training_ends_where_all_foreground_is_ignored(tmp_path):
    """An image or two may hold nothing else; not all that were read."""
    write_still(tmp_path / "images", tmp_path / "masks", "a.png", mask_of((255,)))
    write_still(tmp_path / "images", tmp_path / "masks", "bb.png", mask_of(()))
    dataset = ClipDataset(listed(tmp_path, label_map=IGNORING), Single(), require_foreground=False)
    for _ in range(3 * MANY):
        assert dataset.sample(1, rng()).targets.valid.all(), "empty masks are not ignored ones"
    for _ in range(MANY - 1):
        dataset.sample(0, rng())
    with pytest.raises(DataError, match=r'none of the 2 masks .*ignore.*a.png.*set label_map="binary"'):
        dataset.sample(0, rng())
    write_still(tmp_path / "images", tmp_path / "masks", "ccc.png", mask_of((1,)))
    dataset = ClipDataset(listed(tmp_path, label_map=IGNORING), Single(), require_foreground=False)
    for _ in range(3 * MANY):
        dataset.sample(0, rng())


@pytest.mark.parametrize("label_map", ["binary", "half", "full", "soft"])
@pytest.mark.parametrize("palette", [True, False])
def test_class_indices_for_a_grey_map(tmp_path, label_map, palette):
    record = one(tmp_path, mask_of((1, 2)), label_map, palette=palette)
    message = r"a.png holds the values \[1, 2\] \(1: 48 pixels, 2: 48 pixels\).*set label_map=\{1: 1, 2: 2\}"
    with pytest.warns(UserWarning, match="grey") if label_map == "binary" else contextlib.nullcontext():
        fails_in_training_and_evaluation(record, message)
    assert listed(tmp_path, label_map={1: 1, 2: 2})[0].num_classes == 2


def test_masks_of_0_and_1(tmp_path):
    record = one(tmp_path, mask_of((1,)), "binary")
    assert ClipDataset([record], Single()).sample(0, rng()).targets.masks.sum() == 48
    fails_in_training_and_evaluation(listed(tmp_path, label_map="half")[0], r"set label_map=\{1: 1\}")


def test_noise_of_a_jpeg_is_no_class_index(tmp_path):
    raw = np.random.default_rng(0).integers(0, 8, (20, 24)).astype(np.uint8)
    record = one(tmp_path, raw, "half", suffix=".jpg")
    clip = ClipDataset([record], Single(), require_foreground=False).sample(0, rng())
    assert clip.targets.labels.numel() == 0


def test_unknown_labels_are_counted(tmp_path):
    record = one(tmp_path, mask_of((1, 7)), {1: 1, 255: "ignore"})
    fails_in_training_and_evaluation(record, r"values \[7\], unknown to the label map .*\(7: 48 pixels\); add them")


def test_rgb_masks(tmp_path):
    raw = mask_of((255,))
    record = one(tmp_path, np.stack([raw] * 3, -1)[..., 0], "binary")
    Image.fromarray(np.stack([raw] * 3, -1)).save(record.masks[0])
    assert ClipDataset([record], Single()).sample(0, rng()).targets.masks.sum() == 48
    Image.fromarray(np.stack([raw, raw * 0, raw * 0], -1)).save(record.masks[0])
    fails_in_training_and_evaluation(record, "is a colour image")


def test_ignored_pixels_of_a_label_map():
    raw = np.array([[0, 1, 2, 255]], np.uint8)
    label_map = {1: 1, 2: 2, 255: "ignore"}
    assert class_masks(raw, label_map).tolist() == [[[0, 1, 0, 0]], [[0, 0, 1, 0]]]
    assert ignored_pixels(raw, label_map).tolist() == [[False, False, False, True]]
    assert not ignored_pixels(raw, "binary").any()
    assert class_masks(np.array([[0, 127, 128, 254, 255]], np.uint8), "half").tolist() == [[[0, 0, 1, 1, 1]]]
    assert class_masks(np.array([[0, 127, 128, 254, 255]], np.uint8), "full").tolist() == [[[0, 0, 0, 0, 1]]]
    for wrong in ({1: "skip"}, {255: "ignore"}, "quarter"):
        with pytest.raises(DataError, match="label_map"):
            VideoRecord("v", (Path("a"),), (None,), wrong)


def test_ignored_pixels_move_with_the_picture(tmp_path):
    raw = mask_of((1, 255), (40, 48))
    record = one(tmp_path, raw, {1: 1, 255: "ignore"}, palette=True)
    clip = ClipDataset([record], Single(), Resize(80)).sample(0, rng())
    assert (~clip.targets.valid).sum() == 4 * 80 and clip.targets.masks.sum() == 4 * 80
    clip = ClipDataset([record], Single(), [StillToClip(4), Resize(32)]).sample(0, rng())
    assert clip.targets.valid.shape == (4, 32, 32) and not clip.targets.valid.flatten(1).all(dim=1).any()


def test_batches_without_any_foreground(tmp_path):
    for name in ("a.png", "b.png"):
        write_still(tmp_path / "images", tmp_path / "masks", name, mask_of(()))
    dataset = ClipDataset(listed(tmp_path), Single(), svanet_training(32), require_foreground=False)
    batch = collate([dataset.sample(i, rng(i), i) for i in range(2)])
    assert batch.frames.shape == (2, 1, 3, 32, 32)
    assert all(targets.masks.shape == (0, 1, 32, 32) and targets.labels.numel() == 0 for targets in batch.targets)
    assert all(targets.annotated.all() for targets in batch.targets)
    with pytest.raises(DataError, match="require_foreground=False"):
        ClipDataset(listed(tmp_path), Single()).sample(0, rng())


class Levels(torch.nn.Module):
    """A backbone small enough for a test: one convolution per level."""

    channels = {"res2": 4, "res3": 4}

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 4, 4, 4), torch.nn.Conv2d(4, 4, 2, 2)

    def forward(self, frames):
        first = self.first(frames)
        return {"res2": first, "res3": self.second(first)}


class Brightness(torch.nn.Module):
    """A network that marks what is bright."""

    mask_stride = 4

    def forward(self, frames):
        return F.avg_pool2d(frames.mean(1, keepdim=True), 4)


RESIZES = [("bilinear", (50, 70)), ("bicubic", (50, 70)), ("short_side", (64, 96))]


def seen_sizes(model: PerFrame) -> list[tuple[int, ...]]:
    sizes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(tuple(inputs[0].shape)))
    return sizes


@pytest.mark.parametrize("resize, before_padding", RESIZES)
def test_sizes_that_are_no_multiple_of_the_stride(tmp_path, resize, before_padding):
    write_still(tmp_path / "images", tmp_path / "masks", "a.png", mask_of((255,), (45, 63)))
    model = PerFrame(PlainHead(Levels(), dim=32))
    sizes = seen_sizes(model)
    prediction = Predictor(model, (50, 70), resize=resize).predict(listed(tmp_path)[0])
    assert sizes == [(1, 1, 3, 64, 96)], f"{before_padding} padded to multiples of 32"
    assert prediction.mask.shape == prediction.probability.shape == (1, 1, 45, 63)
    assert prediction.frame_names == ("a",)


@pytest.mark.parametrize("resize", [resize for resize, _ in RESIZES])
def test_the_padding_is_cut_off_before_masks_come_to_disk_size(resize):
    still = np.zeros((45, 63, 3), np.uint8)
    still[25:, 40:] = 255
    mask = Predictor(PerFrame(Brightness()), (50, 70), resize=resize).predict_frames(still).mask[0, 0]
    truth = still[..., 0] > 0
    assert (mask & truth).sum() / (mask | truth).sum() > 0.8
    assert mask[-1, -1] and not mask[0, 0]


def test_training_clips_are_padded_at_the_bottom_and_the_right(tmp_path):
    write_still(tmp_path / "images", tmp_path / "masks", "a.png", mask_of((255,), (45, 63)))
    batch = collate([ClipDataset(listed(tmp_path), Single(), Resize((50, 70))).sample(0, rng())])
    assert batch.frames.shape == (1, 1, 3, 64, 96) and not batch.frames[..., 50:, :].any()
    assert batch.targets[0].valid.shape == (1, 64, 96) and not batch.targets[0].masks[..., 70:].any()
    assert batch.infos[0].valid_size == (1, 50, 70)


def test_an_unknown_resize():
    with pytest.raises(ValueError, match='resize is \'nearest\'; expected "bilinear", "bicubic" or "short_side"'):
        Predictor(PerFrame(Brightness()), resize="nearest")


@pytest.mark.parametrize("resize, before_padding", RESIZES)
def test_an_evaluation_resizes_as_it_is_told(tmp_path, resize, before_padding):
    for name, size in (("a.png", (45, 63)), ("b.png", (63, 45))):
        write_still(tmp_path / "images", tmp_path / "masks", name, mask_of((255,), size))
    model = PerFrame(Brightness())
    sizes = seen_sizes(model)
    scores = evaluate_sets(model, {"test": listed(tmp_path)}, tmp_path / "out", (50, 70), pictures=1, resize=resize)
    turned = (1, 1, 3, 96, 64) if resize == "short_side" else sizes[0]
    assert sizes == [(1, 1, 3, 64, 96), turned] and set(scores) == {"test"}
    assert {path.parent.name for path in (tmp_path / "out/test/web").rglob("*.png")} == {"a", "b"}
