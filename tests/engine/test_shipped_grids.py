"""The grids of configs/grids: they load, say how they are called, and their models are what they say."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lgrnet import distributed
from lgrnet.config import build
from lgrnet.data.phantom import write
from lgrnet.data.still_datasets import POLYP_SPLITS
from lgrnet.engine.grid import Size, plan, read_grid
from lgrnet.engine.grid_run import run_one
from lgrnet.engine.grid_table import collect, layout, model_size
from lgrnet.engine.run import settings_of
from lgrnet.records import write_frame

ROOT = Path(__file__).resolve().parents[2]
FILES = {path.stem: path for path in sorted((ROOT / "configs/grids").glob("*.py"))}
CHANNELS = {"res2": 8, "res3": 16, "res4": 24, "res5": 32}


@pytest.mark.parametrize("name", FILES)
def test_it_loads_and_its_header_gives_the_command(name, tmp_path):
    grid = read_grid(FILES[name])
    header = ast.get_docstring(ast.parse(FILES[name].read_text(encoding="utf-8")))
    assert f"tools/run_grid.py configs/grids/{name}.py --out" in header
    runs = plan(replace(grid, repeats=1), tmp_path, [f"data.root={tmp_path}"])
    assert len(runs) == len(grid.cells)
    for run in runs:
        settings = settings_of(run.config)
        assert settings.steps > 1 and run.config.data.root == str(tmp_path)
    models = {str(run.config.model) for run in runs}
    assert len(models) > 1 and any(isinstance(metric, Size) for metric in grid.metrics)


def test_every_cell_of_lgrnets_ablation_encodes_a_clip(tmp_path):
    """One thing is changed in each, and what is left out is not there."""
    grid = read_grid(FILES["lgrnet_ablation"])
    features = {k: torch.randn(1, 2, c, 64 // 2**i, 64 // 2**i) for i, (k, c) in enumerate(CHANNELS.items())}
    for key, cell in grid.cells.items():
        encoder = build(cell.config(["model.encoder.scan_hidden=32", "model.encoder.hidden=32"]).model.encoder)(
            CHANNELS
        )
        with torch.no_grad():
            assert encoder.eval()(features)["res2"].shape == (1, 2, 64, 64, 64)
        local, exchange, queries = key
        layer = encoder.layers[0]
        assert (layer.propagation is None) == (local == "none") and (layer.scan is None) == (exchange == "none")
        held = 0 if encoder.frame_queries is None else encoder.frame_queries.content.weight.shape[0]
        assert str(held) == queries.replace("none", "0")
        if "scan" in exchange:
            assert (layer.scan.layers[0].scan.order == "hilbert") == ("Hilbert" in exchange)
        if layer.propagation is not None:
            assert f"window {layer.propagation.attention.window}" in local
            assert layer.propagation.cyclic == local.startswith("cyclic")


STUDY = {  # parameters and MB of the files, from the study's table of model sizes
    ("MiT-B0", "study's PLD"): (3_846_770, 15.462749),
    ("MiT-B0", "SeD"): (3_714_658, 14.926081),
    ("MiT-B2", "study's PLD"): (28_530_898, 114.261413),
    ("MiT-B2", "SeD"): (27_348_162, 109.518217),
}


def test_the_study_has_its_tables(tmp_path):
    grid = read_grid(FILES["ssformer_study"])
    assert len(grid.cells) == 2 * 3 * 6 and grid.checkpoint == "best"
    for (backbone, head), (parameters, megabytes) in STUDY.items():
        cell = grid.cells["Kvasir-SEG", head, backbone]
        size = model_size(cell.config())
        assert size["parameters"] == parameters
        assert size["file_bytes"] / 1e6 == pytest.approx(megabytes, rel=5e-4)
    tables = {published.label: published.values for published in grid.published}
    assert tables["mIoU, %"]["CVC-ClinicDB", "SeD", "MiT-B5"] == 92.35
    assert tables["mDice, %"]["Kvasir-SEG", "study's PLD", "mean"] == 92.13
    for label in ("mIoU, %", "mDice, %"):
        for place in {key[:2] for key in tables[label]}:
            numbers = [tables[label][(*place, f"MiT-B{number}")] for number in range(6)]
            assert sum(numbers) / 6 == pytest.approx(tables[label][(*place, "mean")], abs=0.011)


def write_stills(root, images="images", masks="masks", count=20, values=(0, 255), size=(40, 48)):
    """Images of noise with a rectangle, and its masks."""
    rng = np.random.default_rng(0)
    for number in range(count):
        top, left = rng.integers(2, 12, 2)
        mask = np.full(size, values[0], np.uint8)
        mask[top : top + 20, left : left + 24] = values[1 + number % (len(values) - 1)]
        write_frame(root / images / f"{number}.png", rng.integers(0, 200, (*size, 3), np.uint8))
        (root / masks).mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(root / masks / f"{number}.png")


TINY = ["train.steps=2", "train.batch_size=2", "train.workers=0", "train.device=cpu", "train.precision=fp32"]
TINY += ["train.eval_every=2", "train.save_every=2", "train.backbone_weights=null"]


def train_first(name, tmp_path, data, *overrides):
    """Trains and evaluates the first cell of a shipped grid for two steps; its table's first line."""
    grid = read_grid(FILES[name])
    first = dict([next(iter(grid.cells.items()))])
    grid = replace(grid, cells=first, published=(), means=())
    runs = plan(grid, tmp_path, [f"data.root={data}", *TINY, *overrides])
    with distributed.init("cpu") as context:
        assert run_one(runs[0], context)
    header, lines = layout(grid, collect(grid, runs, tmp_path))
    return dict(zip(header, lines[0], strict=True))


def test_the_study_trains_and_is_scored(tmp_path):
    write_stills(tmp_path / "data/CVC-ClinicDB")
    with pytest.warns(UserWarning, match="612"):
        line = train_first("ssformer_study", tmp_path, tmp_path / "data", "data.size=[64,64]")
    assert line["frames of val"] == "2" and 0 <= float(line["mDice, % (protocol study, val)"]) <= 100


def test_ssformers_decoders_are_those_of_the_release(tmp_path):
    """They differ from the release's models by the layers that those never use."""
    grid = read_grid(FILES["ssformer_decoders"])
    fusion = 1024 * 256 + 2 * 256
    unused = (fusion, fusion, 3 * (2 * 768 * 768 + 2 * 768), 0, 512 * 9 + 1)
    published = next(p.values for p in grid.published if p.label == "parameters")
    for (key, cell), surplus in zip(grid.cells.items(), unused, strict=True):
        assert model_size(cell.config())["parameters"] == published[key] - surplus


def test_ssformers_decoders_train_and_are_scored(tmp_path):
    for number, part in enumerate(("TrainDataset", *(f"TestDataset/{name}" for name in list(POLYP_SPLITS)[1:]))):
        write_stills(tmp_path / part, count=2 + number)
    small = ["data.size=[64,64]", "model.net.backbone.name=mit_b0"]
    with pytest.warns(UserWarning, match="the published one"):
        line = train_first("ssformer_decoders", tmp_path / "out", tmp_path, *small)
    assert line["frames of CVC-300"] == "3" and line["frames of Kvasir"] == "7"
    assert 0 <= float(line["mean Dice Kvasir (protocol ssformer-test, Kvasir)"]) <= 1


SVANET = {  # parameters of the release's models with two classes
    "SvANet": 202_434_290,
    "DeepLabV3": 55_234_626,
    "no bottlenecks": 125_081_674,
    "no Monte Carlo attention": 199_668_946,
    "no AssembleFormer in branches": 178_228_002,
    "no AssembleFormer in the decoder": 183_079_658,
    "no AssembleFormer": 163_725_026,
    "no guidance": 159_199_266,
    "guidance without scale-variant attention": 197_228_274,
    "no link decoder": 151_619_690,
    "squeeze attention in bottlenecks": 202_434_290,
    "Monte Carlo attention in AssembleFormers": 203_823_410,
    "guidance by the source alone": 198_264_818,
    "guidance by average pooling": 202_434_290,
    "guidance by max pooling": 202_434_290,
    "sums in the link decoder": 176_200_178,
    "branches from the second stage on": 197_808_590,
    "AssembleFormers deep only": 205_720_787,
    "a fifth branch in place of the pyramid": 515_553_780,
    "ResNet-18": 30_028_050,
    "ResNeXt-50 32x4d": 201_906_162,
}


def test_svanets_variants_are_those_of_the_release(tmp_path):
    cells = {**read_grid(FILES["svanet_ablation_extra"]).cells, **read_grid(FILES["svanet_ablation"]).cells}
    assert {key[0] for key in cells} >= set(SVANET)
    for (name,), cell in cells.items():
        config = cell.config(["model.net.num_classes=2"])
        with torch.device("meta"):
            model = build(config.model)
        assert sum(p.numel() for p in model.parameters()) == SVANET.get(name, SVANET["SvANet"]), name


def test_svanets_grids_find_folds_and_train(tmp_path):
    """Cross-validation folders in place of train and test; epochs of the schedule follow train.eval_every."""
    small = ["data.size=[64,64]", "train.freeze_steps=1", "model.net.backbone.name=resnet18"]
    small += ["model.net.bottleneck=false", "model.net.link=none"]
    for fold in (1, 2):
        for part in ("train", "test"):
            write_stills(tmp_path / f"SpermHealth/split{fold}/{part}", ".", "../mask", 2 + fold, (0, 1, 2), (64, 64))
    runs = plan(read_grid(FILES["svanet_ablation"]), tmp_path, [f"data.root={tmp_path}", "train.eval_every=7"])
    assert [run.name for run in runs[:3]] == [
        "SvANet/split1/repeat_1",
        "SvANet/split2/repeat_1",
        "DeepLabV3/split1/repeat_1",
    ]
    repeats = [run for run in runs if run.name.startswith("SvANet/split1/")]
    assert [run.config.model.net.mask_seed for run in repeats] == [run.seed for run in repeats] == [2024, 2025, 2026]
    assert len(runs) == 10 * 2 * 3 and [run.config.data.fold for run in runs[:2]] == [1, 2]
    assert runs[0].config.schedule.steps_per_epoch == runs[0].config.train.save_every == 7
    line = train_first("svanet_ablation", tmp_path / "out", tmp_path, *small, "train.eval_every=2")
    assert line["frames of test"] == "3" and 0 <= float(line["mDice, % (protocol svanet-size, test)"].split()[0]) <= 100


def test_the_phantom_grid_trains_and_is_scored(tmp_path):
    write(tmp_path / "data", num_clips=3, num_frames=3, size=64)
    small = ["data.size=[32,32]", "schedule.warmup_steps=1", "criterion.num_points=64", "train.eval_first=false"]
    line = train_first("phantom", tmp_path / "out", tmp_path / "data", *small)
    assert line["model"] == "LGRNet, small" and line["frames of test"] == "3"
    assert line["Dice (protocol lgrnet, test)"].endswith("(n=1 of 2)") and line["parameters"] == "3,880,130"
