"""Weights between lgrnet's files and detectron2's, and what is refused."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

import lgrnet
from lgrnet.checkpoint.checkpointer import CheckpointError
from lgrnet.checkpoint.official import OfficialWeightsError
from lgrnet.checkpoint.weights import read_metadata, save_weights
from lgrnet.config import ConfigError
from lgrnet.detectron2_bridge import merge_config
from lgrnet.detectron2_bridge.loading import fitted
from lgrnet.detectron2_bridge.weights import convert, main

PHANTOM = ["MODEL.LGRNET.ENCODER.HIDDEN", 256, "MODEL.LGRNET.ENCODER.NUM_FRAME_QUERIES", 10]
PHANTOM += ["MODEL.LGRNET.ENCODER.SCAN_HIDDEN", 256, "MODEL.LGRNET.DECODER.NUM_QUERIES", 5]
PHANTOM += ["MODEL.LGRNET.DECODER.HIDDEN", 256, "MODEL.LGRNET.DECODER.DEPTH", 3]


@pytest.fixture
def phantom_cfg(cfg):
    """The config of the model that comes with the package."""
    return merge_config(cfg, None, PHANTOM)


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_packaged_weights_by_detectron2s_checkpointer(phantom_cfg):
    model = build_model(phantom_cfg)
    DetectionCheckpointer(model).load("lgrnet://phantom")
    assert same(model.state_dict(), lgrnet.load("phantom").state_dict())


@pytest.mark.parametrize("form", ["lgrnet://{0}", "lgrnet:{0}"])
@pytest.mark.parametrize("folder", [False, True])
def test_files_and_folders_anywhere(cfg, tmp_path, monkeypatch, form, folder):
    model = build_model(cfg)
    (tmp_path / "Sub dir").mkdir()
    save_weights(tmp_path / "Sub dir/weights.safetensors", model.state_dict(), None)
    name = "Sub dir" if folder else "Sub dir/weights.safetensors"
    monkeypatch.chdir(tmp_path)
    for path in (name, tmp_path / name):
        other = build_model(cfg)
        DetectionCheckpointer(other).load(form.format(path))
        assert same(model.state_dict(), other.state_dict())


def test_paths_that_are_not_there(cfg, tmp_path):
    checkpointer = DetectionCheckpointer(build_model(cfg))
    with pytest.raises(CheckpointError, match="none.safetensors does not exist"):
        checkpointer.load(f"lgrnet://{tmp_path}/none.safetensors")
    with pytest.raises(OfficialWeightsError, match="none.pth does not exist"):
        DetectionCheckpointer(build_model(cfg)).load(f"lgrnet://{tmp_path}/none.pth")


@pytest.mark.parametrize("name, names", [("PVTv2", "ours"), ("PVTv2", "official"), ("MiT", "official")])
@pytest.mark.parametrize("meta", ["LGRNet", "PlainHead"])
def test_imagenet_weights_of_the_backbone(cfg, tmp_path, name, names, meta):
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.META_ARCHITECTURE = name, meta
    source, model = build_model(cfg), build_model(cfg)
    net = _backbone(source).net.state_dict()
    official = {_official(k) if name == "PVTv2" and names == "official" else k: v for k, v in net.items()}
    torch.save({**official, "head.weight": torch.zeros(10, 4)}, tmp_path / "imagenet.pth")
    rest = {k: v.clone() for k, v in model.state_dict().items() if "backbone." not in k}
    DetectionCheckpointer(model).load(f"lgrnet://{tmp_path}/imagenet.pth")
    assert same(_backbone(model).net.state_dict(), net)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in rest.items())
    assert not same(source.state_dict(), model.state_dict())


def _backbone(model):
    return model.backbone if hasattr(model, "backbone") else model.net.backbone


def _official(name: str) -> str:
    """The official PVTv2 name of one of timm's."""
    parts = name.split(".")
    if parts[0] == "patch_embed":
        return ".".join(["patch_embed1", *parts[1:]])
    stage, kind, rest = int(parts[1]) + 1, parts[2], parts[3:]
    if kind == "blocks":
        return ".".join([f"block{stage}", *rest]).replace("mlp.dwconv.", "mlp.dwconv.dwconv.")
    return ".".join([{"downsample": f"patch_embed{stage}", "norm": f"norm{stage}"}[kind], *rest])


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            ["MODEL.META_ARCHITECTURE", "PlainHead"],
            ["PerFrame", "0 of its", "shape: net.backbone", "of it: backbone"],
        ),
        (["MODEL.LGRNET.ENCODER.DEPTH", 2], ["encoder.layers.1."]),
        (["MODEL.LGRNET.DECODER.DEPTH", 2], ["not part of it: decoder.layers.2."]),
        (["MODEL.LGRNET.DECODER.NUM_QUERIES", 7], ["decoder.queries", "another shape"]),
        (["MODEL.PVTV2.NAME", "pvt_v2_b1"], ["another shape: backbone.net"]),
        (["MODEL.BACKBONE.NAME", "MiT"], ["backbone.net.patch_embed1"]),
    ],
)
def test_weights_of_another_model_are_an_error(phantom_cfg, changes, words):
    """detectron2's checkpointer only logs what does not fit; here the names that do are counted."""
    model = build_model(merge_config(phantom_cfg, None, changes))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        DetectionCheckpointer(model).load("lgrnet://phantom")
    assert all(word in str(caught.value) for word in [*words, "MODEL.META_ARCHITECTURE"])
    assert same(before, model.state_dict())


def test_half_a_backbone_is_an_error(cfg):
    model = build_model(cfg).model
    backbone = {name: value for name, value in model.state_dict().items() if name.startswith("backbone.")}
    assert fitted(model, backbone) == backbone
    with pytest.raises(CheckpointError, match="of its"):
        fitted(model, dict(list(backbone.items())[1:]))
    with pytest.raises(CheckpointError, match="not part of it: neck.weight"):
        fitted(model, {**backbone, "neck.weight": torch.zeros(1)})


@pytest.mark.parametrize("meta", ["LGRNet", "PlainHead"])
def test_a_checkpoint_of_detectron2_becomes_a_file_that_lgrnet_loads(cfg, tmp_path, meta):
    cfg.MODEL.META_ARCHITECTURE = meta
    model = build_model(cfg)
    DetectionCheckpointer(model, str(tmp_path)).save("model_final", iteration=7)
    assert convert(tmp_path / "model_final.pth", tmp_path / "out.safetensors", cfg)
    loaded = lgrnet.load(tmp_path / "out.safetensors")
    assert type(loaded) is type(model.model) and loaded.input_size == (352, 352)
    assert same(loaded.state_dict(), model.state_dict())
    frames = torch.rand(1, 2, 3, 64, 64)
    assert torch.equal(loaded(frames).mask_logits, model.eval().model(frames).mask_logits)
    again = build_model(cfg)
    DetectionCheckpointer(again).load(f"lgrnet://{tmp_path}/out.safetensors")
    assert same(again.state_dict(), model.state_dict())


def test_what_cannot_be_converted(cfg, tmp_path):
    file, target = tmp_path / "model.pth", tmp_path / "out.safetensors"
    DetectionCheckpointer(build_model(cfg), str(tmp_path)).save("model")
    with pytest.raises(CheckpointError, match="does not exist"):
        convert(tmp_path / "none.pth", target, cfg)
    merge_config(cfg, None, ["MODEL.LGRNET.DECODER.NUM_QUERIES", 9])
    with pytest.raises(CheckpointError, match="decoder.queries"):
        convert(file, target, cfg)
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    with pytest.raises(ConfigError, match="'RetinaNet'; lgrnet has LGRNet, PlainHead"):
        convert(file, target, cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.PIXEL_STD = "LGRNet", [1.0, 1.0, 1.0]
    with pytest.raises(ConfigError, match="PIXEL_STD .* LGRNet of a weights file always has .58.395"):
        convert(file, target, cfg)
    torch.save({"model": {"a": 1}}, file)
    with pytest.raises(CheckpointError, match="no tensors by name"):
        convert(file, target, cfg)
    torch.save({"model": sys.modules[__name__].same}, file)
    with pytest.raises(CheckpointError, match="is refused: it asks to run .*same"):
        convert(file, target, cfg)
    for content in (b"PK\x03\x04", b"abc"):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged|no torch file"):
            convert(file, target, cfg)
    assert not target.exists()


def test_the_command(cfg, tmp_path, capsys):
    DetectionCheckpointer(build_model(cfg), str(tmp_path)).save("model")
    (tmp_path / "run.yaml").write_text(cfg.dump())
    words = [str(tmp_path / "model.pth"), str(tmp_path / "out.safetensors")]
    words += ["--config-file", str(tmp_path / "run.yaml")]
    assert main(words) == 0 and "lgrnet.load builds it" in capsys.readouterr().out
    assert json.loads(read_metadata(tmp_path / "out.safetensors")["model"])["decoder"]["num_queries"] == 3
    assert main([*words, "MODEL.LGRNET.DECODER.NUM_QUERIES", "4"]) == 2
    assert main([*words, "MODEL.LGRNT", "4"]) == 2
    assert main([words[0], "out.pth", *words[2:]]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("error: ") for line in lines)


@pytest.mark.parametrize("meta, order", [("SvANet", "RGB"), ("PlainHead", "BGR"), ("LGRNet", "BGR")])
def test_pixel_statistics_travel_where_a_model_has_a_place_for_them(cfg, tmp_path, meta, order):
    cfg.MODEL.META_ARCHITECTURE, cfg.INPUT.FORMAT, cfg.INPUT.CLIP.RESIZE = meta, order, "bicubic"
    cfg.MODEL.SVANET.RESNET, cfg.MODEL.SVANET.IMAGE_SIZE, cfg.MODEL.SVANET.LINK_DEPTH = "resnet18", 64, 1
    if meta == "LGRNet":
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = cfg.MODEL.PIXEL_MEAN[::-1], cfg.MODEL.PIXEL_STD[::-1]
    else:
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0, 51.0, 102.0], [255.0, 127.5, 51.0]
    model = build_model(cfg).eval()
    DetectionCheckpointer(model, str(tmp_path)).save("model")
    assert convert(tmp_path / "model.pth", tmp_path / "out.safetensors", cfg)
    loaded = lgrnet.load(tmp_path / "out.safetensors")
    assert loaded.input_resize == "bicubic"
    assert torch.equal(loaded.pixel_mean, model.model.pixel_mean)
    frames = torch.rand(1, 1, 3, 64, 64)
    assert torch.equal(loaded(frames).mask_logits, model.model(frames).mask_logits)


@pytest.mark.peer
def test_a_backbone_of_detectron2_is_written_without_a_description(cfg, tmp_path):
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    model, other = build_model(cfg), build_model(cfg)
    DetectionCheckpointer(model, str(tmp_path)).save("model")
    assert not convert(tmp_path / "model.pth", tmp_path / "out.safetensors", cfg)
    DetectionCheckpointer(other).load(f"lgrnet://{tmp_path}/out.safetensors")
    assert same(other.state_dict(), model.state_dict())
    with pytest.raises(CheckpointError, match="do not say which model"):
        lgrnet.load(tmp_path / "out.safetensors")


@pytest.mark.peer
def test_imagenet_weights_of_detectron2s_own_backbone(cfg, tmp_path):
    """The name-matching heuristics of detectron2's model zoo, with a classifier that has no place."""
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    source, model = build_model(cfg), build_model(cfg)
    zoo = {**source.backbone.net.state_dict(), "stem.fc.weight": torch.zeros(10, 4)}
    zoo["stem.conv1.norm.num_batches_tracked"] = torch.tensor(1)  # of torchvision; the frozen norms have none
    torch.save({"model": zoo}, tmp_path / "zoo.pth")
    DetectionCheckpointer(model).load(f"{tmp_path}/zoo.pth?matching_heuristics=True")
    assert same(model.backbone.state_dict(), source.backbone.state_dict())
