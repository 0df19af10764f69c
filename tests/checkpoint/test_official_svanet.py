"""Published SvANet files: into our names, out of them, and through the converter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import lgrnet
from lgrnet.checkpoint.official import OfficialWeightsError
from lgrnet.checkpoint.official_svanet import is_svanet, official_to_ours, to_official, to_ours
from lgrnet.config import build, load_config
from lgrnet.models.backbones import TimmBackbone
from lgrnet.models.plain_head import PlainHead
from lgrnet.models.segmenter import PerFrame
from tools.convert_official import main

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo" / "phantom.py"
CONFIG = f"""
from lgrnet.config import builds, read_config
from lgrnet.models.resnet import ResNetBackbone
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.svanet import SvANet

base = read_config({str(DEMO)!r})
criterion, data, optimizer, schedule, train = (base[k] for k in ("criterion", "data", "optimizer", "schedule", "train"))
net = builds(SvANet, backbone=builds(ResNetBackbone, name="resnet18"), num_classes=3, image_size=64)
model = builds(PerFrame, net=net, decision="softmax", pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1.0, 1.0, 1.0))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "svanet_r18.py"
    file.write_text(CONFIG)
    return file


@pytest.fixture(scope="module")
def model(config):
    return build(load_config(config).model).eval()


def test_a_published_file_becomes_a_model_that_needs_no_config(model, config, tmp_path, capsys):
    torch.save(to_official(model.state_dict()), tmp_path / "deeplabv3_epoch3.pth")
    target = tmp_path / "svanet.safetensors"
    assert main([str(tmp_path / "deeplabv3_epoch3.pth"), str(target), "--config_file", str(config)]) == 0
    assert "950 tensors" in capsys.readouterr().out
    again = lgrnet.load(target)
    frames = torch.rand(1, 1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(frames).mask_logits, model(frames).mask_logits)


def test_the_config_may_be_changed_for_the_file(config, tmp_path, capsys):
    changes = ["model.net.last_stage=5", "model.net.branch_depths=[1,null,0,1,1]", "model.net.num_classes=2"]
    model = build(load_config(config, changes).model).eval()
    torch.save(to_official(model.state_dict()), tmp_path / "for_head.pth")
    target = tmp_path / "ours.safetensors"
    source = [str(tmp_path / "for_head.pth"), str(target)]
    assert main([*source, "--config_file", str(config), *changes]) == 0
    frames = torch.rand(1, 1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(lgrnet.load(target)(frames).mask_logits, model(frames).mask_logits)
    assert main([*source, *changes[:2], "--config_file", str(config)]) == 2
    assert "misshapen  net.classifier.bias: (2,), the model has (3,)" in capsys.readouterr().out
    assert main([*source, "--config_file", str(config), "model.net.last=5"]) == 2
    assert "last_stage" in capsys.readouterr().err


def test_names_from_data_parallel_lose_their_prefix(model):
    state = model.state_dict()
    wrapped = {f"module.{name}": tensor for name, tensor in to_official(state).items()}
    result = to_ours(wrapped, state)
    assert result.complete and all(result.state[name] is state[name] for name in state)
    mixed = wrapped | {"SegHead.Classifier.Classifier.Conv.bias": torch.zeros(3)}
    assert to_ours(mixed).unexpected == list(wrapped), "what some names lack is no prefix"
    assert to_ours({}).complete


def test_every_name_that_does_not_fit_is_said(model, config, tmp_path, capsys):
    published = to_official(model.state_dict())
    published["SegHead.AuxHead.Conv.weight"] = torch.zeros(1)
    published["SegHead.Convr35.Squeeze1.Conv.weight"] = torch.zeros(1)
    del published["SegHead.ConvB2.ViTLayer.GlobalRep.2.weight"]
    published["SegHead.Classifier.Classifier.Conv.bias"] = torch.zeros(2)
    torch.save(published, tmp_path / "other.pth")
    target = tmp_path / "ours.safetensors"
    assert main([str(tmp_path / "other.pth"), str(target), "--config_file", str(config)]) == 2
    printed = capsys.readouterr()
    assert "missing    net.branches.1.former.transformer.2.weight" in printed.out
    assert "unexpected SegHead.AuxHead.Conv.weight" in printed.out
    assert "unexpected net.guidance.paths.2_to_4.gate.squeezes.0.weight" in printed.out
    assert "misshapen  net.classifier.bias: (2,), the model has (3,)" in printed.out
    assert "1 missing, 2 unexpected, 1 misshapen" in printed.err and not target.exists()


def test_torchvision_s_names_are_the_encoder_s(shared):
    golden = json.loads((shared / "golden/svanet/encoder_to_torchvision.json").read_text())
    assert len(golden) == 318
    assert {name: official_to_ours(name) for name in golden} == {k: f"net.backbone.net.{v}" for k, v in golden.items()}


def test_every_name_is_needed_once(model):
    state = model.state_dict()
    published = to_official(state)
    assert len(set(published)) == len(state) == len(to_ours(published, state).state)


def test_another_model_is_refused():
    other = PerFrame(PlainHead(TimmBackbone("pvt_v2_b0", drop_path=0.0), dim=32)).state_dict()
    assert not is_svanet(other)
    with pytest.raises(OfficialWeightsError, match="have no name in the published SvANet, first net.backbone"):
        to_official(other)
