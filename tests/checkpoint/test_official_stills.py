"""Published names of SSFormer, its ablation and its reproduction study: every one has its place, both ways."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

import lgrnet
from lgrnet.checkpoint import ALLOWED
from lgrnet.checkpoint.official import OfficialWeightsError, load_backbone
from lgrnet.checkpoint.official_stills import is_still, to_official, to_ours
from lgrnet.config import build_json, load_config, to_json
from lgrnet.models.backbones import MixTransformer, TimmBackbone
from lgrnet.models.plain_head import PlainHead
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.ssformer import SSFormer
from lgrnet.models.still_decoders import (
    MultiLevelAggregationDecoder,
    ParallelFusionHead,
    ProgressiveLocalityDecoder,
    ProgressiveUpsamplingDecoder,
    SegFormerDecoder,
)
from tests.models.golden_stills import build
from tools.convert_official import main

PUBLISHED = {
    "ssformer_S": (366, 6),
    "ssformer_L": (866, 6),
    "ssformer_add_b2": (366, 6),
    "official_sed_b2": (366, 18),
    "official_mla_b2": (382, 0),
    "official_pup_b2": (364, 2),
    "repro_PLD_MiT-B0": (210, 0),
    "repro_SeD_MiT-B0": (192, 0),
    "repro_PLD_MiT-B2": (366, 0),
    "repro_SeD_MiT-B2": (348, 0),
    "repro_PLD_PVTv2-B2": (366, 0),
    "repro_SeD_PVTv2-B2": (348, 0),
}
DECODERS = {
    "locality": partial(ProgressiveLocalityDecoder, dim=8),
    "segformer": partial(SegFormerDecoder, dim=8),
    "aggregation": partial(MultiLevelAggregationDecoder, dim=8),
    "upsampling": partial(ProgressiveUpsamplingDecoder, dim=8),
    "parallel": partial(ParallelFusionHead, dim=8),
}


def small(decoder="locality", backbone=None) -> PerFrame:
    torch.manual_seed(0)
    return PerFrame(SSFormer(backbone or MixTransformer("mit_b0"), DECODERS[decoder], "input"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_are_the_published_ones(shared, name):
    keys = json.loads((shared / "golden" / "ssformer" / "models_meta.json").read_text())["keys"][name]
    expected = build(name).state_dict()
    official = to_official(expected)
    tensors, dead = PUBLISHED[name]
    assert {k: list(v.shape) for k, v in official.items()} == keys and len(keys) == tensors
    result = to_ours(official, expected)
    assert result.complete and len(result.dropped) == dead
    assert all(result.state[k] is v for k, v in expected.items()) and len(result.state) == len(expected)


@pytest.mark.parametrize("backbone", [MixTransformer, TimmBackbone])
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_tensor_goes_there_and_back(decoder, backbone):
    names = {MixTransformer: "mit_b0", TimmBackbone: "pvt_v2_b0"}
    expected = small(decoder, backbone(names[backbone])).state_dict()
    official = to_official(expected)
    assert {name.split(".")[0] for name in official} == {"backbone", "decode_head"}
    assert "backbone.block1.0.mlp.dwconv.dwconv.weight" in official
    result = to_ours(official, expected)
    assert result.complete and all(torch.equal(result.state[k], v) for k, v in expected.items())
    assert sorted(result.dropped) == sorted(set(official) - set(to_names(official, expected)))


def to_names(official, expected):
    """Published names of the tensors that ours has."""
    kept = {id(tensor) for tensor in expected.values()}
    return [name for name, tensor in official.items() if id(tensor) in kept]


def test_unused_layers_are_known_by_name_only():
    expected = small().state_dict()
    official = to_official(expected)
    assert official["decode_head.linear_fuse.conv.weight"].shape == (8, 32, 1, 1)
    assert "decode_head.linear_fuse.bn.num_batches_tracked" in official
    without = {k: v for k, v in official.items() if "linear_fuse." not in k}
    assert to_ours(without, expected).complete
    surprise = to_ours(official | {"decode_head.linear_fuse.extra": torch.zeros(1)}, expected)
    assert surprise.unexpected == ["decode_head.linear_fuse.extra"] and not surprise.complete


def test_what_does_not_fit_is_named():
    expected = small().state_dict()
    official = to_official(expected)
    del official["decode_head.linear_fuse2.bn.weight"]
    official["decode_head.linear_pred.bias"] = torch.zeros(3)
    official["head.weight"] = torch.zeros(1)
    result = to_ours(official, expected)
    assert result.missing == ["net.decoder.steps.res3.norm.weight"]
    assert result.unexpected == ["head.weight"]
    assert result.misshapen == ["net.decoder.classes.bias: (3,), the model has (1,)"]
    adding = PerFrame(SSFormer(MixTransformer("mit_b0"), partial(ProgressiveLocalityDecoder, dim=8, fusion="add")))
    assert len(to_ours(to_official(expected), adding.state_dict()).misshapen) == 3


def test_other_models_are_refused():
    other = PerFrame(PlainHead(TimmBackbone("pvt_v2_b0"), dim=32)).state_dict()
    assert not is_still(other) and is_still(small().state_dict())
    with pytest.raises(OfficialWeightsError, match="no PerFrame around an SSFormer with a published decoder"):
        to_ours({}, other)
    strange = small().state_dict() | {"net.surprise": torch.zeros(1)}
    with pytest.raises(OfficialWeightsError, match="1 tensors have no published name, first net.surprise"):
        to_official(strange)


CONFIGS = Path(__file__).resolve().parents[2] / "configs"
WIDE = ["model.net.backbone.name=mit_b2", "model.net.decoder.dim=768"]
PVT = "model.net.backbone={_target_: lgrnet.models.backbones.TimmBackbone, name: pvt_v2_b2, norm_eps: 1e-5, "
PVT_WIDE = [PVT + "mlp_ratios: [8, 8, 4, 4]}", "model.net.decoder.dim=768"]
SHIPPED = {  # the config, and what is changed in it, that INSTALL.md names for a published model
    "ssformer_S": ("polyp_images/ssformer_s", []),
    "ssformer_L": ("polyp_images/ssformer_l", []),
    "ssformer_add_b2": ("polyp_images/ssformer_s", ["model.net.decoder.fusion=add"]),
    "official_sed_b2": ("polyp_images/decoder_sed", []),
    "official_mla_b2": ("polyp_images/decoder_mla", []),
    "official_pup_b2": ("polyp_images/decoder_pup", ["model.net.decoder.square=true"]),
    "repro_PLD_MiT-B0": ("ssformer_study/mit_b0_kvasir_pld", []),
    "repro_SeD_MiT-B0": ("ssformer_study/mit_b0_kvasir_sed", []),
    "repro_PLD_MiT-B2": ("ssformer_study/mit_b0_kvasir_pld", WIDE),
    "repro_SeD_MiT-B2": ("ssformer_study/mit_b0_kvasir_sed", WIDE),
    "repro_PLD_PVTv2-B2": ("ssformer_study/mit_b0_kvasir_pld", PVT_WIDE),
    "repro_SeD_PVTv2-B2": ("ssformer_study/mit_b0_kvasir_sed", PVT_WIDE),
}


@torch.no_grad()
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shipped_config_has_the_model_of_every_published_file(name):
    """All names fit, and what no shape tells (epsilons, the last step, the decision) is the published one, too."""
    config, overrides = SHIPPED[name]
    described = to_json(load_config(CONFIGS / f"{config}.py", overrides).model)
    published, ours = build(name).eval(), build_json(described, ALLOWED).eval()
    result = to_ours(to_official(published.state_dict()), ours.state_dict())
    assert result.complete
    ours.load_state_dict(result.state)
    frames = torch.rand(1, 1, 3, 64, 96)
    assert torch.equal(ours(frames).mask_logits, published(frames).mask_logits)
    assert ours.decision == published.decision and torch.equal(ours.pixel_std, published.pixel_std)
    epsilons = [[getattr(m, "eps", None) for m in model.modules()] for model in (ours, published)]
    assert epsilons[0] == epsilons[1]


def test_the_guide_names_the_config_of_every_published_file():
    guide = " ".join((CONFIGS.parent / "INSTALL.md").read_text(encoding="utf-8").split())
    for config, overrides in SHIPPED.values():
        assert f"configs/{config}.py" in guide and all(override in guide for override in overrides)


CONFIG = """
from lgrnet.config import builds
from lgrnet.models.backbones import MixTransformer
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.ssformer import SSFormer
from lgrnet.models.still_decoders import ProgressiveLocalityDecoder

decoder = builds(ProgressiveLocalityDecoder, dim=8, zen_partial=True)
net = builds(SSFormer, backbone=builds(MixTransformer, name="mit_b0"), decoder=decoder)
model = builds(PerFrame, net=net, decision="sigmoid")
criterion, data, optimizer, schedule, train = {}, {"size": [96, 64]}, {}, {}, {}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "ssformer.py"
    path.write_text(CONFIG)
    return str(path)


def test_the_converter_writes_a_model_that_needs_no_config(config, tmp_path, capsys):
    state = small().state_dict()
    source, target = tmp_path / "ssformer_S.pth", tmp_path / "ours.safetensors"
    torch.save(to_official(state), source)
    assert main([str(source), str(target), "--config_file", config]) == 0
    assert capsys.readouterr().out.count("dropped    decode_head.linear_fuse.") == 6
    loaded = lgrnet.load(target)
    assert loaded.decision == "sigmoid" and loaded.input_size == (96, 64)
    assert all(torch.equal(v, state[k]) for k, v in loaded.state_dict().items())


def test_imagenet_weights_of_the_mix_transformer(config, tmp_path, capsys):
    """The official files hold the classifier, too."""
    net = MixTransformer("mit_b0").net.state_dict()
    source, target = tmp_path / "mit_b0.pth", tmp_path / "mit_b0.safetensors"
    torch.save(net | {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}, source)
    assert main([str(source), str(target), "--backbone", "--config_file", config]) == 0
    assert "dropped    head.weight" in capsys.readouterr().out
    for path in (source, target):
        model = small()
        load_backbone(model, path)
        assert all(torch.equal(v, net[k]) for k, v in model.backbone.net.state_dict().items())
    with pytest.raises(OfficialWeightsError, match=r"github.com/NVlabs/SegFormer \(file mit_b0.pth\)"):
        load_backbone(small(), tmp_path / "none.pth")
