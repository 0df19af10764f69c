"""Every config file: loads, names what exists, builds its model, and refuses what a user may mistype."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from lgrnet.config import SECTIONS, ConfigError, build, load_config, to_json
from lgrnet.engine.settings import TrainSettings
from lgrnet.records import DataError

ROOT = Path(__file__).resolve().parents[1] / "configs"
# configs/grids holds grids of configs, tests/engine/test_shipped_grids.py has them
PATHS = [path for path in sorted(ROOT.rglob("*.py")) if path.parent.name != "grids"]
FILES = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in PATHS}
PARAMETERS = {
    "sunseg/lgrnet_pvtv2_b2": 27_655_266,
    "cvc/lgrnet_pvtv2_b2": 27_655_266,
    "ufuv/lgrnet_pvtv2_b2": 27_655_266,
    "sunseg/lgrnet_res2net50": 30_742_602,
}
EPOCHS = {"sunseg/lgrnet_pvtv2_b2": 823, "sunseg/lgrnet_res2net50": 823, "cvc/lgrnet_pvtv2_b2": 1260}
EPOCHS["ufuv/lgrnet_pvtv2_b2"] = 186


def test_the_promised_files_are_there():
    assert {*PARAMETERS, "vocalfolds/lgrnet_pvtv2_b0", "demo/phantom"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_it_loads_and_its_parts_build(name):
    config = load_config(FILES[name])
    assert set(config) == set(SECTIONS)
    OmegaConf.to_container(config, resolve=True)
    settings = build(config.train)
    assert isinstance(settings, TrainSettings)
    model = torch.nn.Linear(2, 2)
    optimizer = build(config.optimizer)(model)
    schedule = build(config.schedule)(optimizer)
    optimizer.step()
    schedule.step()
    criterion = build(config.criterion)
    assert callable(criterion)
    assert all(weight > 0 for weight in criterion.weights.values())


@pytest.mark.parametrize("name", FILES)
def test_its_header_gives_the_command_and_the_expected_result(name):
    header = ast.get_docstring(ast.parse(FILES[name].read_text(encoding="utf-8")))
    assert f"--config_file configs/{name}.py" in header
    assert "Expected" in header or "RESULTS.md" in header


@pytest.mark.parametrize("name", FILES)
def test_its_data_are_looked_for_where_the_root_says(name, tmp_path):
    config = load_config(FILES[name], [f"data.root={tmp_path}"])
    with pytest.raises(DataError, match=str(tmp_path)):
        build(config.data.train)
    for node in config.data.eval.values():
        with pytest.raises(DataError, match=str(tmp_path)):
            build(node)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_published_models(name):
    config = load_config(FILES[name])
    model = build(config.model)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    layer = model.encoder.layers[0]
    fibroid = name.startswith("ufuv")
    assert layer.propagation.attention.dilation == (2 if fibroid else 1)
    assert layer.gather_mask is fibroid
    assert "LGRNet" in to_json(config.model)


@pytest.mark.parametrize("name", EPOCHS)
def test_the_published_recipe(name):
    config = load_config(FILES[name])
    epoch = EPOCHS[name]
    assert list(config.schedule.milestones) == [epoch * k for k in (3, 6, 9, 12)]
    assert config.schedule.gamma == 0.5
    settings = build(config.train)
    assert (settings.steps, settings.batch_size, settings.clip_norm, settings.seed) == (15 * epoch, 4, 0.01, 2024)
    assert tuple(settings.sizes) == (256, 288, 320, 352, 384, 416, 448)
    assert settings.eval_every == (8 * epoch if name == "sunseg/lgrnet_pvtv2_b2" else epoch)
    dice = 5 if name == "sunseg/lgrnet_pvtv2_b2" else 2
    assert build(config.criterion).weights == {"mask_bce": 5, "mask_dice": dice, "class_ce": 2}
    assert (config.optimizer.lr, config.optimizer.backbone_lr_scale, config.optimizer.weight_decay) == (1e-3, 0.1, 1e-4)
    assert list(config.data.size) == [352, 352]


@pytest.mark.parametrize(
    "override, says",
    [
        ("model.decoder.num_querys=20", "did you mean model.decoder.num_queries"),
        ("train.batchsize=2", "did you mean train.batch_size"),
        ("data.rot=/x", "did you mean data.root"),
        ("optimiser.lr=1", "did you mean optimizer.lr"),
        ("model.decoder.num_queries=twenty", "cannot be applied.*[Ii]nteger"),
        ("train.steps=[1]", "cannot be applied"),
        ("data.size=large", "expected a list"),
        ("model.encoder.local=maybe", "cannot be applied.*bool"),
    ],
)
def test_mistyped_overrides(override, says):
    with pytest.raises(ConfigError, match=says):
        load_config(FILES["sunseg/lgrnet_pvtv2_b2"], [override])


@pytest.mark.parametrize(
    "overrides, parameters",
    [
        (["model.decoder.num_queries=20"], 27_655_266 + 2 * 10 * 64),
        (["model.encoder.num_frame_queries=10"], 27_655_266 - 2 * 10 * 64),
        (["model.encoder.scan_order=zigzag"], 27_655_266),
        (["model.encoder.window=3", "model.encoder.dilation=2"], 27_655_266),
    ],
)
def test_overrides_reach_the_model(overrides, parameters):
    model = build(load_config(FILES["sunseg/lgrnet_pvtv2_b2"], overrides).model)
    assert sum(p.numel() for p in model.parameters()) == parameters
