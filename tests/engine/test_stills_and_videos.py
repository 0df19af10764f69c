"""A still image is a video of one frame: every still model on every video set, every still set into LGRNet."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lgrnet.data.datasets import ClipDataset, miccai_vps, sunseg, ufuv, video_folder
from lgrnet.data.loader import collate
from lgrnet.data.phantom import render_clip
from lgrnet.data.samplers import LocalGlobal, Single
from lgrnet.data.still_datasets import (
    POLYP_SPLITS,
    SVANET_CLASSES,
    cvc_clinicdb,
    image_folder,
    kvasir_seg,
    polyp_stills,
    svanet_set,
)
from lgrnet.data.still_to_clip import StillToClip
from lgrnet.data.transforms import Resize
from lgrnet.draws import KeyedDraws
from lgrnet.engine.evaluate import evaluate_sets
from lgrnet.losses.dense_criterion import DenseCriterion
from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.losses.softmax_criterion import SoftmaxCriterion
from lgrnet.models import still_decoders as decoders
from lgrnet.models.backbones import MixTransformer, TimmBackbone
from lgrnet.models.deeplabv3 import DeepLabV3
from lgrnet.models.lgr_encoder import LGREncoder
from lgrnet.models.lgrnet import LGRNet
from lgrnet.models.plain_head import PlainHead
from lgrnet.models.resnet import ResNetBackbone
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.ssformer import SSFormer
from lgrnet.models.svanet import SvANet
from lgrnet.models.video_decoder import VideoDecoder
from lgrnet.records import VideoRecord, write_frame, write_mask

DISK, SIZE = 64, 32


@functools.cache
def phantom() -> tuple[np.ndarray, np.ndarray]:
    """Five frames of a phantom clip and masks that all show something: [5, 64, 64, 3], bool [5, 64, 64]."""
    frames, masks = render_clip(0, 0, 5, DISK)
    masks = masks > 0
    masks[:, 20:30, 20:40] = True
    return frames, masks


def write_video(root: Path, name: str) -> None:
    for index, (frame, mask) in enumerate(zip(*phantom(), strict=True)):
        write_frame(root / "Frame" / name / f"{index}.jpg", frame)
        write_mask(root / "GT" / name / f"{index}.png", mask)


def write_stills(images: Path, masks: Path, names: str = "abcde", classes: int = 0) -> None:
    """Phantom frames as stills, with masks of 0 and 255, or of class indices that take turns."""
    for number, (name, frame, mask) in enumerate(zip(names, *phantom(), strict=False)):
        write_frame(images / f"{name}.jpg", frame)
        masks.mkdir(parents=True, exist_ok=True)
        value = 1 + number % classes if classes else 255
        Image.fromarray((mask * value).astype(np.uint8)).save(masks / f"{name}.png")


VIDEO_SETS = {
    "SUN-SEG": ("TrainDataset", lambda root: sunseg(root, "train")),
    "MICCAI-VPS": ("VPS-TestSet/CVC-ClinicDB-612-Valid", lambda root: miccai_vps(root, "cvc612_val")),
    "UFUV": ("train", lambda root: ufuv(root, "train")),
    "one layout": ("", video_folder),
}
STILL_SETS = {
    **{f"polyps {split}": (part, split) for split, (part, _) in POLYP_SPLITS.items()},
    "Kvasir-SEG": ("", kvasir_seg),
    "CVC-ClinicDB": ("", cvc_clinicdb),
    **{f"SvANet's {name}": (name, "train") for name in SVANET_CLASSES},
    "a folder": ("", image_folder),
}


def stills(name: str, root: Path) -> list[VideoRecord]:
    """A still set of phantom frames, written to `root` and listed again."""
    place, what = STILL_SETS[name]
    if name.startswith("SvANet"):
        write_stills(root / place / "train", root / place / "mask", classes=len(SVANET_CLASSES[place]))
        return svanet_set(root, place, what)
    write_stills(root / place / "images", root / place / "masks")
    if name.startswith("polyps"):
        return polyp_stills(root, what)
    return image_folder(root / "images", root / "masks") if what is image_folder else what(root, "train")


def ssformer(decoder, enlarge: str = "corners", **settings) -> PerFrame:
    net = SSFormer(MixTransformer("mit_b0"), functools.partial(decoder, dim=16, **settings), enlarge)
    return PerFrame(net, decision="softmax" if settings.get("outputs") == 2 else "sigmoid")


def as_it_is(net) -> PerFrame:
    return PerFrame(net, chunk=1, decision="softmax", pixel_mean=(0, 0, 0), pixel_std=(1, 1, 1))


STILL_MODELS = {
    "plain head": lambda: PerFrame(PlainHead(TimmBackbone("pvt_v2_b0"), dim=32)),
    "SSFormer": lambda: ssformer(decoders.ProgressiveLocalityDecoder),
    "SSFormer, sums": lambda: ssformer(decoders.ProgressiveLocalityDecoder, fusion="add"),
    "SeD": lambda: ssformer(decoders.SegFormerDecoder),
    "MLA": lambda: ssformer(decoders.MultiLevelAggregationDecoder, "input"),
    "PUP": lambda: ssformer(decoders.ProgressiveUpsamplingDecoder, "none"),
    "the study's head": lambda: ssformer(decoders.ParallelFusionHead, "input", outputs=2),
    "the study's SeD": lambda: ssformer(decoders.SegFormerDecoder, "input", outputs=2, channel_dropout=True),
    "SvANet": lambda: as_it_is(SvANet(ResNetBackbone("resnet18"), image_size=SIZE)),
    "DeepLabV3": lambda: as_it_is(DeepLabV3(ResNetBackbone("resnet18"), context_channels=32)),
}


@functools.cache
def tiny_lgrnet(classes: int) -> LGRNet:
    torch.manual_seed(0)
    encoder = functools.partial(LGREncoder, dim=32, depth=1, hidden=32, num_frame_queries=4)
    decoder = VideoDecoder(dim=32, num_classes=classes, num_queries=3, hidden=32, depth=1)
    return LGRNet(TimmBackbone("pvt_v2_b0"), encoder, decoder)


def one_step(model, criterion, records: list[VideoRecord], sampler, transforms) -> torch.Size:
    """The loss of two clips and its gradient; the shape of the batch."""
    dataset = ClipDataset(records, sampler, transforms)
    batch = collate([dataset.sample(i % len(dataset), random.Random(i), i) for i in range(2)], model.stride)
    model.train()
    terms = criterion(model(batch.frames), batch.targets, KeyedDraws(0, batch.positions))
    loss = sum(criterion.weights[name] * value for name, value in terms.items())
    assert torch.isfinite(loss)
    (gradient,) = torch.autograd.grad(loss, next(model.backbone.parameters()))
    assert torch.isfinite(gradient).all() and gradient.any()
    return batch.frames.shape


def evaluated(model, records: list[VideoRecord], folder: Path) -> dict[str, float]:
    return evaluate_sets(model.eval(), {"set": records}, folder, (SIZE, SIZE), pictures=0)["set"]


@pytest.mark.filterwarnings("ignore:.*the published one")
@pytest.mark.parametrize("name", STILL_MODELS)
def test_a_still_model_trains_and_evaluates_on_every_video_set(name, tmp_path):
    torch.manual_seed(0)
    model = STILL_MODELS[name]()
    criterion = SoftmaxCriterion() if model.decision == "softmax" else DenseCriterion()
    for set_name, (place, listing) in VIDEO_SETS.items():
        root = tmp_path / set_name
        write_video(root / place, "case1_1")
        records = listing(root)
        assert [record.num_frames for record in records] == [5]
        assert one_step(model, criterion, records, LocalGlobal(3), Resize(SIZE)) == (2, 3, 3, SIZE, SIZE)
        assert 0 < evaluated(model, records, root / "out")["dice"] <= 1


@pytest.mark.filterwarnings("ignore:.*the published one", "ignore:masks of video")
@pytest.mark.parametrize("name", STILL_SETS)
def test_a_still_set_feeds_lgrnet(name, tmp_path):
    """As clips of one frame, and as the synthetic clip of six."""
    records = stills(name, tmp_path)
    assert all(record.num_frames == 1 for record in records)
    model, criterion = tiny_lgrnet(records[0].num_classes), SetCriterion(num_points=64)
    assert one_step(model, criterion, records, Single(), Resize(SIZE)) == (2, 1, 3, SIZE, SIZE)
    clips = [StillToClip(6), Resize(SIZE)]
    assert one_step(model, criterion, records, Single(), clips) == (2, 6, 3, SIZE, SIZE)
    assert 0 < evaluated(model, records, tmp_path / "out")["dice"] <= 1
