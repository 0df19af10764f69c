"""The shipped configs of still models train and evaluate as they are, on small nets and a handful of small images."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import lgrnet
from lgrnet.data.still_datasets import POLYP_SPLITS
from lgrnet.layers.scale_variant import ScaleVariantAttention
from lgrnet.models.resnet import ResNetBackbone
from lgrnet.models.svanet import SvANet
from tests.data.still_layout import mask_of, write_still
from tests.engine.runs import ROOT, run

SHORT = ["train.steps=2", "train.batch_size=2", "train.workers=0", "train.backbone_weights=null", "train.device=cpu"]
SHORT += ["data.size=[64,64]", "train.pictures=1", "train.log_every=1", "train.precision=fp32"]
ENDS = ["train.eval_every=2", "train.save_every=2"]
MIT = ["model.net.backbone.name=mit_b0", "model.net.decoder.dim=16"]
RESNET = ["model.net.backbone.name=resnet18", "train.eval_every=2", "train.freeze_steps=1"]

pytestmark = pytest.mark.filterwarnings("ignore:.*the published one", "ignore:masks of video")


def write_images(folder: Path, values: tuple[int, ...], images: int = 2, masks: str = "masks") -> None:
    for number in range(images):
        raw = mask_of(values, (40, 48))
        raw[20:36, 10:40] = values[number % len(values)]
        write_still(folder / "images", folder / masks, f"{number}.jpg", raw)


def write_svanet_set(folder: Path, classes: int) -> None:
    for part in ("train", "test"):
        for number in range(2):
            raw = np.zeros((40, 48), np.uint8)
            raw[10:30, 10:40] = 1 + number % classes
            write_still(folder / part, folder / "mask", f"{part}{number}.png", raw, palette=True)


def trained(name: str, data: Path, out: Path, *overrides: str) -> dict:
    """The last evaluation's mean scores of a run of a shipped config; its weights are loaded and losses are numbers."""
    run(out, data, *SHORT, *overrides, file=ROOT / "configs" / f"{name}.py")
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(line["total"]) for line in lines if line["type"] == "step")
    model = lgrnet.load(out / "checkpoints" / "step_00000002")
    assert model.input_size == (64, 64)
    return lines[-1]["mean"] | {"resize": model.input_resize}


@pytest.mark.parametrize("loss", ["bce_dice", "published"])
def test_ssformer(tmp_path, loss):
    for part, _ in POLYP_SPLITS.values():
        write_images(tmp_path / "data" / part, (255,))
    options = [*MIT, *ENDS, "schedule.steps_per_epoch=1", f"criterion.loss={loss}"]
    found = trained("polyp_images/ssformer_s", tmp_path / "data", tmp_path / "run", *options)
    assert 0 <= found["mean_dice"] <= 1 and found["resize"] == "bilinear"
    (report,) = (tmp_path / "run").rglob("report.json")
    sets = json.loads(report.read_text())["sets"]
    assert {part["set"] for part in sets} == set(POLYP_SPLITS) - {"train"}
    assert list(sets[0]["scores"]) == ["ssformer-test", "lgrnet"]


def test_the_study(tmp_path):
    write_images(tmp_path / "data" / "Kvasir-SEG", (255,), images=10)
    options = [*MIT, *ENDS, "schedule.steps_per_epoch=1"]
    found = trained("ssformer_study/mit_b0_kvasir_sed", tmp_path / "data", tmp_path / "run", *options)
    assert 0 <= found["mean_iou"] <= 1 and found["resize"] == "short_side"


def scales_of_cells(model: torch.nn.Module) -> list[list[int]]:
    """What scale-variant attention drew once, of every path."""
    return [m.scale_of_cell.tolist() for m in model.modules() if isinstance(m, ScaleVariantAttention)]


@pytest.mark.parametrize("name, folder, classes", [("atlas", "ATLAS", 2), ("deeplabv3_r50", "PolypGen", 1)])
def test_svanet(tmp_path, name, folder, classes):
    write_svanet_set(tmp_path / "data" / folder, classes)
    found = trained(f"svanet/{name}", tmp_path / "data", tmp_path / "run", *RESNET, "train.seed=7")
    assert 0 <= found["published_iou"] <= 1 and found["resize"] == "bicubic"
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert f"num_classes: {classes + 1}" in text and ("image_size: 64" in text) == (name == "atlas")
    if name == "atlas":
        loaded = scales_of_cells(lgrnet.load(tmp_path / "run" / "checkpoints" / "step_00000002"))
        own, other = (
            scales_of_cells(SvANet(ResNetBackbone("resnet18"), image_size=64, mask_seed=seed)) for seed in (7, 8)
        )
        assert loaded == own and all(a != b for a, b in zip(own, other, strict=True))
