"""Published names and files: every tensor finds its place, and nothing in a file is run."""

from __future__ import annotations

import json
import os
import random
from collections import Counter, OrderedDict
from math import prod
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lgrnet.checkpoint import official

PUBLISHED = {"sunseg_pvt": (656, 27_655_266), "fibroid_pvt": (656, 27_655_266), "sunseg_res": (846, 30_742_602)}


def published_state(golden, name: str) -> dict[str, torch.Tensor]:
    """Zeros (each tensor numbered) under the published names and shapes."""
    keys = json.loads((golden / "lgrnet" / f"state_{name}.json").read_text())["keys"]
    types = {"float32": torch.float32, "int64": torch.int64}
    return {k: torch.full(shape, i, dtype=types[t]) for i, (k, (shape, t)) in enumerate(keys.items())}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_name_translates_and_comes_back(golden, name):
    published = published_state(golden, name)
    tensors, parameters = PUBLISHED[name]
    assert len(published) == tensors
    result = official.to_ours(published)
    assert result.complete
    assert sorted(result.dropped) == sorted(official._LOSS_BUFFERS)
    assert len(result.state) == tensors - 2
    assert len(result.reshaped) == 3
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert sum(prod(v.shape) for k, v in result.state.items() if not k.endswith(buffers)) == parameters
    back = official.to_official(result.state)
    assert {k: (v.shape, v.dtype) for k, v in back.items()} == {k: (v.shape, v.dtype) for k, v in published.items()}
    assert all(torch.equal(back[k], published[k]) for k in published if k not in official._LOSS_BUFFERS)
    assert torch.allclose(back[official._LOSS_BUFFERS[0]], torch.tensor([1, 0.1]))
    assert back[official._LOSS_BUFFERS[1]].tolist() == [0]


@pytest.mark.parametrize("name, net", [("sunseg_pvt", "pvt_v2_b2"), ("sunseg_res", "res2net50d")])
def test_backbone_names_are_those_of_timm(golden, name, net):
    import timm

    expected = timm.create_model(net, num_classes=0).state_dict()
    ours = official.to_ours(published_state(golden, name)).state
    got = {k.removeprefix("backbone.net."): v.shape for k, v in ours.items() if k.startswith("backbone.")}
    assert got == {k: v.shape for k, v in expected.items()}


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ("video_backbone.image_homo.pvt_v2.patch_embed1.proj.weight", "backbone.net.patch_embed.proj.weight"),
        ("video_backbone.image_homo.pvt_v2.patch_embed4.norm.bias", "backbone.net.stages.3.downsample.norm.bias"),
        (
            "video_backbone.image_homo.pvt_v2.block3.5.mlp.dwconv.dwconv.bias",
            "backbone.net.stages.2.blocks.5.mlp.dwconv.bias",
        ),
        ("video_backbone.image_homo.pvt_v2.norm2.weight", "backbone.net.stages.1.norm.weight"),
        ("video_backbone.res2net.layer4.2.bns.1.running_var", "backbone.net.layer4.2.bns.1.running_var"),
        (
            "fusion_encoder.transformer.encoder.layers.2.global_hiss.self_attn.1.homo.A_logs",
            "encoder.layers.2.scan.layers.1.scan.log_decay",
        ),
        ("fusion_encoder.transformer.encoder.layers.0.norm1.bias", "encoder.layers.0.deformable.norm.bias"),
        ("fusion_encoder.transformer.encoder.layers.0.norm2.bias", "encoder.layers.0.ffn.norm.bias"),
        ("fusion_encoder.layer_1.weight", "encoder.fpn.output.conv.weight"),
        ("decoder.self_layers.1.self_attn.in_proj_bias", "decoder.layers.1.self_attention.attention.in_proj_bias"),
        ("decoder.temporal_query_norm.weight", "decoder.norm.weight"),
    ],
)
def test_single_names(theirs, ours):
    assert official.official_to_ours(theirs) == ours
    assert official.ours_to_official(ours) == theirs


def test_nothing_is_passed_over_in_silence(golden):
    published = published_state(golden, "sunseg_pvt")
    expected = {k: v.clone() for k, v in official.to_ours(published).state.items()}
    published["decoder.surprise.weight"] = torch.zeros(1)
    del published["decoder.query_class.bias"]
    published["decoder.query_class.weight"] = torch.zeros(7, 64)
    expected["decoder.extra"] = torch.zeros(3)
    result = official.to_ours(published, expected)
    assert not result.complete
    assert result.unexpected == ["decoder.surprise.weight"]
    assert result.missing == ["decoder.class_head.bias", "decoder.extra"]
    assert result.misshapen == ["decoder.class_head.weight: (7, 64), the model has (2, 64)"]
    assert any(
        line.startswith("reshaped") and "(64, 128, 1, 1, 1) -> (64, 128, 1, 1)" in line for line in result.lines()
    )


def test_a_backbone_without_published_name_is_refused():
    with pytest.raises(official.OfficialWeightsError, match="1 tensors have no name.*backbone.net.stem.weight"):
        official.to_official({"backbone.net.stem.weight": torch.zeros(1)})


def published_checkpoint() -> dict:
    """A checkpoint of the published shape: weights, optimizer, schedule, counters, random states, metrics."""
    layer = nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[3, 6], gamma=0.5)
    assert isinstance(schedule.state_dict()["milestones"], Counter)
    random_states = {
        "cpu_rng_state": torch.get_rng_state(),
        "gpu_rng_state": None,
        "numpy_rng_state": np.random.get_state(),
        "py_rng_state": random.getstate(),
    }
    return {
        "model": OrderedDict(layer.state_dict()),
        "optimizer": optimizer.state_dict(),
        "scheduler": schedule.state_dict(),
        "num_samples": 12,
        "num_iterations": 3,
        "rng_state_dict_by_rank": {0: random_states},
        "metrics": {"dice": np.float32(0.5), "iou": np.float64(0.25), "n": np.int64(7)},
    }


def test_a_published_checkpoint_is_read(tmp_path):
    content = published_checkpoint()
    torch.save(content, tmp_path / "ckpt.pth.tar")
    with pytest.raises(Exception, match="numpy"):
        torch.load(tmp_path / "ckpt.pth.tar", weights_only=True)
    state = official.read_official(tmp_path / "ckpt.pth.tar")
    assert list(state) == ["weight", "bias"]
    assert torch.equal(state["weight"], content["model"]["weight"])


def test_a_checkpoint_written_under_the_other_numpy_is_read(tmp_path):
    torch.save(published_checkpoint(), tmp_path / "new.pth", _use_new_zipfile_serialization=False)
    written = (tmp_path / "new.pth").read_bytes()
    here = b"numpy._core.multiarray" if b"numpy._core.multiarray" in written else b"numpy.core.multiarray"
    other = b"numpy.core.multiarray" if b"_core" in here else b"numpy._core.multiarray"
    assert here in written
    (tmp_path / "old.pth").write_bytes(written.replace(here, other))
    assert list(official.read_official(tmp_path / "old.pth")) == ["weight", "bias"]


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"dice": [x]}, lambda x: np.array([x], dtype=object)])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, wrap):
    trap, before = tmp_path / "trap", set(torch.serialization.get_safe_globals())  # in no order
    content = published_checkpoint() | {"metrics": wrap(Malicious(str(trap)))}
    torch.save(content, tmp_path / "bad.pth.tar")
    with pytest.raises(
        official.OfficialWeightsError, match="refused: it (asks to run .*mkdir|is no torch file, or holds objects)"
    ):
        official.read_official(tmp_path / "bad.pth.tar")
    assert not trap.exists()
    assert set(torch.serialization.get_safe_globals()) == before


def test_unusable_files(tmp_path):
    torch.save(published_checkpoint(), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    (tmp_path / "words.pth").write_text("not found")
    (tmp_path / "half.safetensors").write_bytes(whole[:100])
    torch.save({"metrics": {"dice": 1.0}}, tmp_path / "other.pth")
    for name in ("half.pth", "empty.pth", "words.pth", "half.safetensors"):
        with pytest.raises(official.OfficialWeightsError, match=f"{name} is (damaged|refused: it is no torch file)"):
            official.read_official(tmp_path / name)
    for name, says in {
        "page.pth": "page.pth is a web page, not a download: use the link to the raw file",
        "": "is a folder; give the path of a downloaded file",
    }.items():
        with pytest.raises(official.OfficialWeightsError, match=says):
            official.read_official(tmp_path / name)
    with pytest.raises(official.OfficialWeightsError, match="holds no state_dict .*metrics"):
        official.read_official(tmp_path / "other.pth")
    with pytest.raises(official.OfficialWeightsError, match="does not exist"):
        official.read_official(tmp_path / "none.pth")


def with_backbone(name: str) -> SimpleNamespace:
    """What load_backbone needs of a model."""
    import timm

    return SimpleNamespace(backbone=SimpleNamespace(net=timm.create_model(name, num_classes=0)))


def official_pvt_name(name: str) -> str:
    published = official.ours_to_official(f"backbone.net.{name}")
    assert published is not None
    return published.removeprefix("video_backbone.image_homo.pvt_v2.")


@pytest.mark.parametrize("naming", ["official", "timm", "safetensors"])
def test_imagenet_pvt_weights_load(tmp_path, naming):
    source, model = with_backbone("pvt_v2_b0"), with_backbone("pvt_v2_b0")
    state = {k: v + 1 for k, v in source.backbone.net.state_dict().items()}
    renamed = {official_pvt_name(k) if naming == "official" else k: v for k, v in state.items()}
    renamed |= {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    path = tmp_path / ("b0.safetensors" if naming == "safetensors" else "b0.pth")
    if naming == "safetensors":
        save_file(renamed, path)
    else:
        torch.save(renamed, path)
    result = official.load_backbone(model, path)
    assert sorted(result.dropped) == ["head.bias", "head.weight"]
    assert all(torch.equal(v, state[k]) for k, v in model.backbone.net.state_dict().items())


def test_imagenet_res2net_weights_load_without_counters(tmp_path):
    model = with_backbone("res2net50d")
    state = {k: v + 1 for k, v in model.backbone.net.state_dict().items()}
    stored = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    stored |= {"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}
    torch.save(stored, tmp_path / "res2net.pth")
    assert sorted(official.load_backbone(model, tmp_path / "res2net.pth").dropped) == ["fc.bias", "fc.weight"]
    assert torch.equal(model.backbone.net.state_dict()["layer3.4.convs.1.weight"], state["layer3.4.convs.1.weight"])


def test_backbone_of_another_size_is_refused_and_nothing_is_loaded(tmp_path):
    model = with_backbone("pvt_v2_b0")
    before = {k: v.clone() for k, v in model.backbone.net.state_dict().items()}
    torch.save(with_backbone("pvt_v2_b1").backbone.net.state_dict(), tmp_path / "b1.pth")
    with pytest.raises(official.OfficialWeightsError, match="0 names missing, 0 unexpected, .* of another shape"):
        official.load_backbone(model, tmp_path / "b1.pth")
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.net.state_dict().items())


def test_missing_backbone_file_says_where_to_get_it(tmp_path):
    message = r"nowhere.pth.*github.com/whai362/PVT \(file pvt_v2_b0.pth\).*train.backbone_weights=null"
    with pytest.raises(official.OfficialWeightsError, match=message):
        official.load_backbone(with_backbone("pvt_v2_b0"), tmp_path / "nowhere.pth")
