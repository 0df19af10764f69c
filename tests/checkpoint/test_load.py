"""Models that are built from what their weights file says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import lgrnet
from lgrnet.checkpoint import ALLOWED, input_facts
from lgrnet.checkpoint import described as room
from lgrnet.checkpoint.checkpointer import CheckpointError, save_weights
from lgrnet.checkpoint.weights import pack, read_weights, weights_metadata
from lgrnet.config import ConfigError, build, load_config, to_json

ROOT = Path(__file__).resolve().parents[2]
# configs/grids holds grids of configs, tests/engine/test_shipped_grids.py has them
CONFIGS = [path for path in sorted((ROOT / "configs").rglob("*.py")) if path.parent.name != "grids"]


def targets(node) -> set[str]:
    """Every class that a config node names."""
    if isinstance(node, list):
        return set().union(*map(targets, node))
    if not isinstance(node, dict):
        return set()
    return {node["_target_"]} | targets(list(node.values()))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_weights_of_every_config_may_build_their_model(path):
    assert targets(json.loads(to_json(load_config(path).model))) <= set(ALLOWED)


def test_a_plain_head_comes_back(tmp_path):
    config = load_config(ROOT / "configs" / "vocalfolds" / "plain_head_pvtv2_b0.py")
    model = build(config.model)
    save_weights(tmp_path / "w.safetensors", model.state_dict(), to_json(config.model))
    again = lgrnet.load(tmp_path / "w.safetensors")
    assert type(again) is type(model) and not again.training
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_files_of_the_same_weights_are_the_same_bytes(tmp_path):
    """The hash of a file stands beside every number."""
    weights, facts = nn.Linear(3, 5).state_dict(), {name: name * 3 for name in ("é", "b\n", "c", "d", "e", "f")}
    for i in range(12):
        save_weights(tmp_path / f"{i}.safetensors", weights, "{}", facts)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    tensors, metadata = read_weights(tmp_path / "0.safetensors")
    assert all(torch.equal(tensors[name], values) for name, values in weights.items())
    assert metadata == weights_metadata("{}", facts)
    assert safetensors.torch.load(pack(weights)).keys() == weights.keys() and safetensors.torch.load(pack({})) == {}


def test_load_builds_from_the_file_and_leaves_the_global_generator_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "ALLOWED", ("torch.nn.Linear",))
    node = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}
    source = nn.Linear(2, 3)
    half = {name: value.half() for name, value in source.state_dict().items()}
    save_weights(tmp_path / "w.safetensors", half, json.dumps(node), {"input_size": [64, 96]})
    state = torch.get_rng_state()
    model = lgrnet.load(tmp_path / "w.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    assert model.input_size == (64, 96) and not model.training and model.weight.dtype == torch.float32
    assert torch.equal(model.weight, source.weight.half().float())


def test_the_rule_of_resizing_travels_with_the_weights(tmp_path):
    file = ROOT / "configs" / "ssformer_study" / "mit_b0_kvasir_sed.py"
    config = load_config(file, ["data.size=[64,64]"])
    facts = input_facts(config)
    assert facts == {"input_size": [64, 64], "input_resize": "short_side"}
    model = lgrnet.load_model(file, overrides=["data.size=[64,64]"])
    save_weights(tmp_path / "w.safetensors", model.state_dict(), to_json(config.model), facts)
    again = lgrnet.load(tmp_path / "w.safetensors")
    assert again.input_size == model.input_size == (64, 64)
    assert again.input_resize == model.input_resize == "short_side"
    assert input_facts(load_config(ROOT / "configs/demo/phantom.py")) == {"input_size": [96, 96]}


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"input_size": 64}, "input_size is 64, which means nothing"),
        ({"input_size": [64]}, "input_size"),
        ({"input_size": [64, -1]}, "input_size"),
        ({"input_size": "[64, 64]"}, "input_size"),
        ({"input_resize": [1, 2]}, "input_resize"),
    ],
)
def test_facts_that_mean_nothing_are_damage(tmp_path, monkeypatch, facts, says):
    monkeypatch.setattr(room, "ALLOWED", ("torch.nn.Linear",))
    node = json.dumps({"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3})
    save_weights(tmp_path / "w.safetensors", nn.Linear(2, 3).state_dict(), node, facts)
    with pytest.raises(CheckpointError, match=says):
        lgrnet.load(tmp_path / "w.safetensors")
    (tmp_path / "v.safetensors").write_bytes(pack(nn.Linear(2, 3).state_dict(), {"model": node, "input_size": "[64,"}))
    with pytest.raises(CheckpointError, match=r"input_size is \[64,, which means nothing"):
        lgrnet.load(tmp_path / "v.safetensors")


@pytest.mark.parametrize("given", [None, "", 3])
def test_what_is_no_path_is_refused(given):
    with pytest.raises(CheckpointError, match="expected a .safetensors file, a checkpoint's folder, or phantom"):
        lgrnet.load(given)


def test_load_refuses_what_is_no_model(tmp_path):
    save_weights(tmp_path / "w.safetensors", {}, json.dumps({"_target_": "os.system", "command": "exit"}))
    with pytest.raises(ConfigError, match="os.system"):
        lgrnet.load(tmp_path / "w.safetensors")
    save_weights(tmp_path / "plain.safetensors", {"w": torch.ones(1)}, None)
    with pytest.raises(CheckpointError, match="load_model"):
        lgrnet.load(tmp_path / "plain.safetensors")


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        ({"_target_": "lgrnet.models.backbones.TimmBackbone", "nam": "pvt_v2_b0"}, "nam"),
        ({"_target_": "lgrnet.models.backbones.TimmBackbone", "name": "pvt_v9"}, "has no model 'pvt_v9'"),
        ({"_target_": "lgrnet.models.video_decoder.VideoDecoder", "dim": -1}, "negative|divisible|dim"),
        ({"_target_": "lgrnet.models.lgrnet.LGRNet", "backbone": 1, "encoder": 2, "decoder": 3}, "int"),
        ({"_target_": "lgrnet.models.video_decoder.VideoDecoder", "_partial_": True}, "is no model"),
        ({"dim": 64}, "_target_"),
        ([1], "_target_"),
        ("text", "_target_"),
    ],
)
def test_a_description_that_does_not_build_names_file_and_version(tmp_path, description, reason):
    save_weights(tmp_path / "w.safetensors", {}, json.dumps(description))
    with pytest.raises(ConfigError, match=reason) as caught:
        lgrnet.load(tmp_path / "w.safetensors")
    words = str(caught.value)
    assert str(tmp_path / "w.safetensors") in words and f"written by lgrnet {lgrnet.__version__}" in words
    assert "lgrnet.load_model(config_file, weights=" in words


def test_a_description_that_is_no_json(tmp_path):
    save_weights(tmp_path / "w.safetensors", {}, "{")
    with pytest.raises(ConfigError, match="w.safetensors describe"):
        lgrnet.load(tmp_path / "w.safetensors")


def test_a_folder_of_several_checkpoints_names_them(tmp_path):
    for step in (1, 2):
        save_weights(tmp_path / f"run/checkpoints/step_{step:08d}/weights.safetensors", {"w": torch.ones(1)}, None)
    with pytest.raises(CheckpointError, match="holds several checkpoints; give one: .*step_00000001, .*step_00000002"):
        lgrnet.load(tmp_path / "run")
