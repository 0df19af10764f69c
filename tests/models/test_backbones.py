"""Backbones of timm and transformers: names and models that are refused, what differs from the library's own."""

from __future__ import annotations

import sys
from functools import partial

import pytest
import timm
import torch
from torch import nn

from lgrnet.models.backbones import ConvolutionalTransformer, MixTransformer, TimmBackbone
from lgrnet.models.ssformer import SSFormer
from lgrnet.models.still_decoders import ProgressiveLocalityDecoder


@pytest.mark.parametrize(
    ("name", "near"),
    [("pvtv2_b2", "pvt_v2_b2"), ("res2net50", "res2net50d"), ("hf-hub:someone/model", "the nearest names")],
)
def test_an_unknown_name_gets_the_nearest_ones(name, near, monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: pytest.fail("must not be asked"))
    with pytest.raises(ValueError, match=f"has no model '{name}'; the nearest names are .*{near}|{near} are"):
        TimmBackbone(name)


def test_a_model_without_intermediate_maps_is_told_from_one_without_the_strides(monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match="'pvt_v2_b0' does not give its intermediate feature maps"):
        TimmBackbone("pvt_v2_b0")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"no feature maps at strides \[4, 8, 32\]"):
        TimmBackbone("vit_tiny_patch16_224", drop_path=0.0)


@pytest.mark.parametrize("kind", [TimmBackbone, MixTransformer])
@pytest.mark.parametrize("rate", [2, 1.0, -0.1, float("nan")])
def test_a_drop_path_that_is_no_rate_is_refused(kind, rate):
    with pytest.raises(ValueError, match=f"drop_path is {rate}; expected a rate in 0 <= rate < 1"):
        kind(drop_path=rate)


@pytest.mark.parametrize(
    ("name", "options", "advice"),
    [
        ("hrnet_w18_small", {}, "takes no drop_path_rate; give drop_path=0"),
        ("resnet18", {"mlp_ratios": (4, 4, 4, 4)}, "takes no mlp_ratios; give mlp_ratios=None"),
    ],
)
def test_an_option_that_a_model_does_not_take(name, options, advice):
    with pytest.raises(ValueError, match=f"timm model '{name}' {advice}"):
        TimmBackbone(name, **options)


@pytest.mark.parametrize("number", range(3))
def test_pvtv2_with_the_epsilon_of_the_study(number):
    backbone = TimmBackbone(f"pvt_v2_b{number}", norm_eps=1e-5)
    assert {m.eps for m in backbone.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}
    assert {m.eps for m in TimmBackbone(f"pvt_v2_b{number}").modules() if isinstance(m, nn.LayerNorm)} == {1e-5, 1e-6}
    dims = (32, 64, 160, 256) if number == 0 else (64, 128, 320, 512)
    assert tuple(backbone.channels.values()) == dims


def test_mlp_ratios_widen_the_mlps():
    plain, wide = TimmBackbone("pvt_v2_b0"), TimmBackbone("pvt_v2_b0", mlp_ratios=[8, 8, 8, 4])
    widths = [[stage.blocks[0].mlp.fc1.out_features for stage in b.net.stages] for b in (plain, wide)]
    assert widths == [[256, 512, 640, 1024], [256, 512, 1280, 1024]]


def test_a_convolutional_transformer_gives_three_levels():
    pytest.importorskip("transformers", reason='needs transformers: pip install "lgrnet[cvt]"')
    model = SSFormer(ConvolutionalTransformer("cvt_21"), partial(ProgressiveLocalityDecoder))
    # the published encoder with its classifier has 31.62 million parameters
    assert sum(p.numel() for p in model.backbone.parameters()) + 384 * 1000 + 1000 == 31_621_928
    frames = torch.rand(1, 3, 64, 96)
    maps = model.backbone(frames)
    shapes = {"res2": (1, 64, 16, 24), "res3": (1, 192, 8, 12), "res4": (1, 384, 4, 6)}
    assert {k: tuple(m.shape) for k, m in maps.items()} == shapes
    logits = model(frames)
    assert logits.shape == (1, 1, 64, 96)
    logits.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_convolutional_transformer_says_what_it_needs(monkeypatch):
    with pytest.raises(ValueError, match="no convolutional transformer 'cvt21'; the nearest names are cvt_21"):
        ConvolutionalTransformer("cvt21")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'cvt_21 needs transformers; install it with pip install "lgrnet\[cvt\]"'):
        ConvolutionalTransformer()
