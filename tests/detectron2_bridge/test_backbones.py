"""Backbones in detectron2's registry, and detectron2's in our models."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone, build_model
from torch import nn

from lgrnet.detectron2_bridge.backbones import FeatureLevels, MiT, PVTv2, build_levels
from lgrnet.models.backbones import LEVELS, STRIDES, MixTransformer, TimmBackbone

OURS = {"PVTv2": (TimmBackbone, "pvt_v2_b0"), "MiT": (MixTransformer, "mit_b0")}


@pytest.mark.parametrize("name", OURS)
def test_the_registered_backbones_are_ours(cfg, name):
    kind, variant = OURS[name]
    cfg.MODEL.BACKBONE.NAME = name
    made, plain = build_backbone(cfg).eval(), kind(variant, drop_path=0.0).eval()
    plain.load_state_dict(made.state_dict())
    frames = torch.randn(2, 3, 64, 96)
    maps, expected = made(frames), plain(frames)
    assert all(torch.equal(maps[k], expected[k]) for k in LEVELS) and list(maps) == list(LEVELS)
    shapes = made.output_shape()
    for k, stride in zip(LEVELS, STRIDES, strict=True):
        assert (shapes[k].channels, shapes[k].stride) == (maps[k].shape[1], stride)
        assert maps[k].shape[-2:] == (64 // stride, 96 // stride)
    assert made.size_divisibility == 32 and isinstance(made, Backbone) and name in dict(BACKBONE_REGISTRY)


@pytest.mark.parametrize("kind", [PVTv2, MiT])
def test_freezing_follows_detectron2s_stages(kind):
    """What is frozen is exactly what res2..resN depend on first: gradients of later stages alone arrive."""
    counts = []
    for freeze_at in range(6):
        made = kind(drop_path=0.0, freeze_at=freeze_at, **({"name": "pvt_v2_b0"} if kind is PVTv2 else {}))
        counts.append(sum(p.numel() for p in made.parameters() if not p.requires_grad))
        if freeze_at >= 2:
            maps = made.train()(torch.randn(1, 3, 32, 32))
            assert [maps[k].requires_grad for k in LEVELS] == [False] * (freeze_at - 1) + [True] * (5 - freeze_at)
    assert counts[0] == 0 and counts == sorted(set(counts))
    assert counts[5] == sum(p.numel() for p in made.parameters())


def test_fewer_features_are_for_others(cfg):
    made = PVTv2("pvt_v2_b0", out_features=["res5", "res3"])
    assert list(made(torch.randn(1, 3, 32, 32))) == list(made.output_shape()) == ["res3", "res5"]
    cfg.MODEL.PVTV2.OUT_FEATURES = ["res3", "res5"]
    with pytest.raises(ValueError, match="res3 at 8, res5 at 32; expected res2 at stride 4"):
        build_levels(cfg)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"name": "pvt_v2_b9"}, "nearest names are pvt_v2_b"),
        ({"name": "resnet50"}, "there is no PVTv2 'resnet50'"),
        ({"name": "pvt_v2_b0", "freeze_at": 6}, "freeze_at is 6"),
        ({"name": "pvt_v2_b0", "out_features": []}, "out_features"),
        ({"name": "pvt_v2_b0", "out_features": ["res6"]}, "res6"),
    ],
)
def test_arguments_that_mean_nothing(given, words):
    with pytest.raises(ValueError, match=words):
        PVTv2(**given)


def test_an_unknown_backbone_names_those_there_are(cfg):
    cfg.MODEL.BACKBONE.NAME = "PVT"
    with pytest.raises(ValueError, match="'PVT'; registered are .*PVTv2, MiT"):
        build_levels(cfg)


class Pyramid(Backbone):
    """One convolution for each stride."""

    def __init__(self, names: dict[str, int], divisor: int = 32):
        super().__init__()
        self.strides, self.divisor = names, divisor
        self.maps = nn.ModuleDict({name: nn.Conv2d(3, 8 * i, 1, s) for i, (name, s) in enumerate(names.items(), 1)})

    @property
    def size_divisibility(self) -> int:
        return self.divisor

    def forward(self, frames):
        return {name: layer(frames) for name, layer in self.maps.items()}

    def output_shape(self):
        return {k: ShapeSpec(channels=v.out_channels, stride=self.strides[k]) for k, v in self.maps.items()}


def test_levels_by_stride_or_by_name():
    net = Pyramid({"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64})
    levels = FeatureLevels(net)
    assert levels.channels == {"res2": 8, "res3": 16, "res4": 24, "res5": 32}
    frames = torch.randn(1, 3, 64, 64)
    assert torch.equal(levels(frames)["res4"], net(frames)["p4"])
    both = FeatureLevels(Pyramid({"stem": 4, "res2": 4, "res3": 8, "res4": 16, "res5": 32}))
    assert both.names == list(LEVELS)
    with pytest.raises(ValueError, match="a at 4, b at 4.*expected res2"):
        FeatureLevels(Pyramid({"a": 4, "b": 4, "res3": 8, "res4": 16, "res5": 32}))
    with pytest.raises(ValueError, match="multiples of 64"):
        FeatureLevels(Pyramid({"p2": 4, "p3": 8, "p4": 16, "p5": 32}, divisor=64))


def test_a_registered_pyramid_feeds_lgrnet(cfg):
    if "build_pyramid" not in dict(BACKBONE_REGISTRY):

        @BACKBONE_REGISTRY.register()
        def build_pyramid(cfg, input_shape):
            return Pyramid({"res2": 4, "res3": 8, "res4": 16, "res5": 32})

    cfg.MODEL.BACKBONE.NAME = "build_pyramid"
    model = build_model(cfg).eval()
    found = model([{"image": torch.zeros(3, 40, 50)}])
    assert found[0]["sem_seg"].shape == (2, 40, 50)
    assert "backbone.net.maps.res2.weight" in model.state_dict()


@pytest.mark.peer
@pytest.mark.parametrize("name", ["build_resnet_backbone", "build_resnet_fpn_backbone"])
def test_detectron2s_resnets_feed_lgrnet(cfg, name):
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    if name == "build_resnet_backbone":
        with pytest.raises(ValueError, match="OUT_FEATURES"):
            build_model(cfg)
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = list(LEVELS)
    model = build_model(cfg).train()
    item = {"frames": torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)}
    losses = model([{**item, "sem_seg": torch.ones(2, 64, 64, dtype=torch.long)}])
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.eval()([item])[0]["sem_seg"].shape == (2, 2, 64, 64)


@pytest.mark.peer
def test_mit_serves_a_model_of_detectron2(cfg):
    """detectron2's SemanticSegmentor with its FPN over MiT, images of unequal size in a batch."""
    from detectron2.modeling.backbone import FPN

    if "build_mit_pyramid" not in dict(BACKBONE_REGISTRY):

        @BACKBONE_REGISTRY.register()
        def build_mit_pyramid(cfg, input_shape):
            return FPN(MiT(cfg, input_shape), list(LEVELS), 16)

    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME = "SemanticSegmentor", "build_mit_pyramid"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    model = build_model(cfg).train()
    sizes = (64, 64), (50, 70)
    batch = [{"image": torch.zeros(3, *size), "sem_seg": torch.ones(size, dtype=torch.long)} for size in sizes]
    model(batch)["loss_sem_seg"].backward()
    assert model.backbone.bottom_up.net.patch_embed1.proj.weight.grad.abs().max() > 0
    assert model.eval()(batch)[1]["sem_seg"].shape == (2, 50, 70)


@pytest.mark.peer
def test_pvt_feeds_detectron2s_pyramid():
    from detectron2.modeling.backbone import FPN

    fpn = FPN(PVTv2("pvt_v2_b0"), ["res3", "res4", "res5"], 16)
    maps = fpn(torch.randn(1, 3, 64, 64))
    assert {k: tuple(m.shape[1:]) for k, m in maps.items()} == {"p3": (16, 8, 8), "p4": (16, 4, 4), "p5": (16, 2, 2)}
