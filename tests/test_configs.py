"""Every config file: loads, names what exists, builds its model, and refuses what a user may mistype."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from lgrnet.checkpoint import ALLOWED
from lgrnet.config import SECTIONS, ConfigError, build, build_json, load_config, to_json
from lgrnet.data.still_datasets import SVANET_CLASSES
from lgrnet.engine.parts import evaluation_protocols
from lgrnet.engine.settings import TrainSettings
from lgrnet.losses.dense_criterion import DenseCriterion
from lgrnet.losses.published_criteria import SSFormerCriterion
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
STILL_PARAMETERS = {
    "polyp_images/ssformer_s": 29_572_545 - 262_656,  # the release's files hold layers that are never used
    "polyp_images/ssformer_l": 66_218_945 - 262_656,
    "polyp_images/decoder_sed": 30_890_945 - 3 * (2 * 768 * 768 + 2 * 768),
    "polyp_images/decoder_mla": 25_972_417,
    "polyp_images/decoder_pup": 27_153_346 - (512 * 9 + 1),
    "ssformer_study/mit_b0_kvasir_pld": 3_846_770,
    "ssformer_study/mit_b0_kvasir_sed": 3_714_658,
    "svanet/svanet_r50": 202_434_290,
    "svanet/deeplabv3_r50": 55_234_626,
}
CLASSES = {"fives": 4, "isic2018": 1, "polypgen": 1, "atlas": 2, "kits23": 3, "tissuenet": 2, "spermhealth": 2}
EPOCHS = {"sunseg/lgrnet_pvtv2_b2": 823, "sunseg/lgrnet_res2net50": 823, "cvc/lgrnet_pvtv2_b2": 1260}
EPOCHS["ufuv/lgrnet_pvtv2_b2"] = 186


def test_the_promised_files_are_there():
    sets = {f"svanet/{name}" for name in CLASSES}
    assert {*PARAMETERS, *STILL_PARAMETERS, *sets, "vocalfolds/lgrnet_pvtv2_b0", "demo/phantom"} <= set(FILES)


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


@pytest.mark.parametrize("name", STILL_PARAMETERS)
def test_the_published_still_models(name):
    model = build_json(to_json(load_config(FILES[name]).model), ALLOWED)
    assert sum(p.numel() for p in model.parameters()) == STILL_PARAMETERS[name]
    assert model.decision == ("sigmoid" if name.startswith("polyp_images") else "softmax")
    assert model.pixel_mean.any() != name.startswith("svanet")


@pytest.mark.parametrize("name, backbone", [("ssformer_s", "mit_b2"), ("ssformer_l", "mit_b4")])
def test_ssformer_as_it_was_run(name, backbone):
    config = load_config(FILES[f"polyp_images/{name}"])
    settings = build(config.train)
    assert (settings.steps, settings.batch_size, settings.seed, settings.clip_norm) == (2000 * 46, 32, 1, 0)
    assert settings.backbone_weights == f"weights/{backbone}.pth" and config.model.net.backbone.name == backbone
    assert (config.schedule.steps_per_epoch, config.schedule.decay_epochs) == (46, 200)
    assert (config.optimizer.lr, config.optimizer.weight_decay, config.optimizer.backbone_lr_scale) == (1e-4, 0.01, 1)
    assert config.optimizer.decay_norms and config.optimizer.decay_biases and config.data.resize == "bilinear"
    assert type(build(config.criterion)) is DenseCriterion
    published = load_config(FILES[f"polyp_images/{name}"], ["criterion.loss=published"])
    assert type(build(published.criterion)) is SSFormerCriterion
    with pytest.raises(ValueError, match="expected one of bce_dice, published"):
        build(load_config(FILES[f"polyp_images/{name}"], ["criterion.loss=dice"]).criterion)
    assert next(iter(evaluation_protocols(config))).id == "ssformer-test"


@pytest.mark.parametrize("name", CLASSES)
def test_svanet_as_it_was_run(name):
    config = load_config(FILES[f"svanet/{name}"])
    settings = build(config.train)
    epoch = settings.eval_every
    assert (settings.steps, settings.freeze_steps, settings.save_every) == (100 * epoch, 10 * epoch, epoch)
    assert (config.schedule.epochs, config.schedule.steps_per_epoch, config.schedule.restart) == (100, epoch, True)
    assert (settings.batch_size, settings.metric) == (4, "published_iou")
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (5e-4, 0.03)
    assert config.model.net.num_classes == 1 + CLASSES[name] == 1 + len(SVANET_CLASSES[config.data.name])
    assert config.model.net.image_size == 512 and config.data.resize == "bicubic"
    assert [protocol.id for protocol in evaluation_protocols(config)] == ["svanet-size"]
    other = load_config(FILES[f"svanet/{name}"], ["train.eval_every=7", "data.size=[256, 256]", "train.seed=3"])
    assert (other.train.save_every, other.schedule.steps_per_epoch, other.model.net.image_size) == (7, 7, 256)
    assert (config.model.net.mask_seed, other.model.net.mask_seed) == (settings.seed, 3), "a repeat has its own masks"


def test_heads_on_polypgen_stills_share_all_but_the_head():
    names = [name for name in FILES if name.startswith("polypgen_stills/")]
    configs = [load_config(FILES[name]) for name in names]
    assert len(configs) == 4
    for part in ("data", "optimizer"):
        assert len({to_json(config[part]) for config in configs}) == 1
    same = {(c.train.seed, c.train.batch_size, c.train.clip_norm, c.schedule.warmup_steps) for c in configs}
    assert len(same) == 1
    assert all(c.schedule.total_steps == c.train.steps for c in configs)


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
