"""The converter: a published file becomes ours, or nothing is written and every name that stands in the way is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import lgrnet
from lgrnet.checkpoint.official import load_backbone, ours_to_official, to_official
from lgrnet.config import build, load_config
from tools.convert_official import main

CONFIG = str(Path(__file__).resolve().parents[2] / "configs" / "demo" / "phantom.py")


@pytest.fixture(scope="module")
def model():
    """The small model of the demo; its published names are those of the large one."""
    return build(load_config(CONFIG).model)


@pytest.fixture
def source(model, tmp_path):
    """A checkpoint as the published trainer writes it."""
    path = tmp_path / "ckpt.pth.tar"
    torch.save({"model": to_official(model.state_dict()), "num_iterations": 3}, path)
    return path


def test_a_checkpoint_becomes_a_model_that_needs_no_config(model, source, tmp_path, capsys):
    target = tmp_path / "weights" / "ours.safetensors"
    assert main([str(source), str(target), "--config_file", CONFIG]) == 0
    printed = capsys.readouterr().out
    assert printed.count("reshaped") == 3
    assert "dropped    decoder.loss_module.empty_weight" in printed
    assert "all accounted for" in printed
    loaded = lgrnet.load(target)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())
    assert main([str(target), str(tmp_path / "again.safetensors"), "--config_file", CONFIG]) == 2
    assert "ours.safetensors is a weights file of lgrnet already" in capsys.readouterr().err


def test_the_source_is_never_written_over(model, tmp_path, capsys):
    source = tmp_path / "published.safetensors"
    save_file({name: tensor.contiguous().clone() for name, tensor in to_official(model.state_dict()).items()}, source)
    before = source.read_bytes()
    assert main([str(source), str(source), "--config_file", CONFIG]) == 2
    assert "is the source itself" in capsys.readouterr().err and source.read_bytes() == before


def test_names_that_do_not_fit_are_printed_and_nothing_is_written(source, tmp_path, capsys):
    content = torch.load(source, weights_only=True)
    content["model"]["decoder.surprise"] = torch.zeros(1)
    del content["model"]["decoder.query_class.bias"]
    torch.save(content, source)
    assert main([str(source), str(tmp_path / "ours.safetensors"), "--config_file", CONFIG]) == 2
    printed = capsys.readouterr()
    assert "missing    decoder.class_head.bias" in printed.out
    assert "unexpected decoder.surprise" in printed.out
    assert "1 missing, 1 unexpected, 0 misshapen" in printed.err
    assert not (tmp_path / "ours.safetensors").exists()


def test_weights_of_another_model_are_refused(source, tmp_path, capsys):
    config = str(Path(CONFIG).parents[1] / "sunseg" / "lgrnet_pvtv2_b2.py")
    assert main([str(source), str(tmp_path / "ours.safetensors"), "--config_file", config]) == 2
    assert "is " + config + " the config of this file?" in capsys.readouterr().err


def test_backbone_weights(model, tmp_path, capsys):
    net = model.backbone.net.state_dict()
    prefix = "video_backbone.image_homo.pvt_v2."
    named = {ours_to_official(f"backbone.net.{k}").removeprefix(prefix): v for k, v in net.items()}
    torch.save(named | {"head.weight": torch.zeros(3), "head.bias": torch.zeros(3)}, tmp_path / "pvt_v2_b0.pth")
    target = tmp_path / "b0.safetensors"
    assert main([str(tmp_path / "pvt_v2_b0.pth"), str(target), "--backbone", "--config_file", CONFIG]) == 0
    assert "dropped    head.weight" in capsys.readouterr().out
    other = build(load_config(CONFIG).model)
    load_backbone(other, target)
    assert all(torch.equal(v, net[k]) for k, v in other.backbone.net.state_dict().items())


@pytest.mark.parametrize("config", [CONFIG, "configs/none.py"])
def test_mistakes_end_in_one_line(tmp_path, capsys, config):
    assert main([str(tmp_path / "none.pth"), str(tmp_path / "ours.safetensors"), "--config_file", config]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "does not exist" in error


def test_a_destination_that_cannot_be_made(source, tmp_path, capsys):
    assert main([str(source), str(source / "ours.safetensors"), "--config_file", CONFIG]) == 2
    assert capsys.readouterr().err.startswith("error: ")
