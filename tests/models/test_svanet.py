"""SvANet and its baseline as models: sizes, names, norms, options, training, prediction, weights that come back."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import lgrnet
from lgrnet.checkpoint import ALLOWED
from lgrnet.checkpoint.official import load_backbone
from lgrnet.checkpoint.official_svanet import is_svanet, to_official, to_ours
from lgrnet.checkpoint.weights import save_weights
from lgrnet.config import build as build_config
from lgrnet.config import builds, to_json
from lgrnet.layers.scale_variant import ScaleVariantAttention
from lgrnet.models.backbones import TimmBackbone
from lgrnet.models.deeplabv3 import DeepLabV3
from lgrnet.models.resnet import ResNetBackbone
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.svanet import SvANet, attention_grid
from lgrnet.structures import ClipInfo
from tests.models.svanet_golden import VARIANTS, build, plain, still

COUNTS = {
    "main": (202_434_290, 1148),
    "deeplabv3_plain": (55_234_626, 356),
    "fg_link0": (151_619_690, 812),
    "fg_link1": (176_200_178, 1100),
    "svattn0": (197_228_274, 1116),
    "svattn_n1": (198_264_818, 1128),
    "svattn_n2": (202_434_290, 1148),
    "svattn_n3": (202_434_290, 1148),
    "bottle0": (125_081_674, 844),
    "bottle_se0": (199_668_946, 1132),
    "bottle_se1": (202_434_290, 1148),
    "vit0": (178_228_002, 788),
    "link_vit0": (183_079_658, 932),
    "vit0_link_vit0": (163_725_026, 716),
    "no_guide": (159_199_266, 636),
    "vit_se2_linkse2": (203_823_410, 1180),
    "start_stage2": (197_808_590, 898),
    "vit_all_off": (205_720_787, 1130),
    "fg_for_head": (515_553_780, 1372),
    "resnet18": (30_028_050, 950),
    "resnext50": (201_906_162, 1148),
}


def small(**options) -> PerFrame:
    """A model that runs in no time."""
    torch.manual_seed(0)
    return still(SvANet(ResNetBackbone("resnet18"), **{"image_size": 64, **options}))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_entries_are_as_many_as_published(name):
    model = plain() if name == "deeplabv3_plain" else build(**VARIANTS[name])
    assert (count(model), len(model.state_dict())) == COUNTS[name]


def test_every_class_costs_one_filter():
    assert count(build(num_classes=5)) == 202_441_397


def test_names_shapes_and_order_are_the_published_ones():
    published = to_official(build().state_dict())
    text = "\n".join(f"{name} {list(tensor.shape)}" for name, tensor in published.items())
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "28391ce09c9873287fbd1833cd91d770fe42caef36382e31f529f1d266002d45"


@pytest.mark.parametrize("name", COUNTS)
def test_names_go_there_and_back(name):
    state = (plain() if name == "deeplabv3_plain" else build(**VARIANTS[name])).state_dict()
    published = to_official(state)
    assert len(published) == len(state) and is_svanet(state)
    back = to_ours(published, state)
    assert back.complete and back.state.keys() == state.keys()
    assert all(back.state[key] is state[key] for key in state)


def test_norms_have_two_epsilons():
    norms = {n: m.eps for n, m in build().named_modules() if isinstance(m, nn.BatchNorm2d)}
    fine = {n for n, eps in norms.items() if eps == 1e-5}
    assert fine == {n for n in norms if ".transformer." in n} and len(fine) == 40
    assert {norms[n] for n in norms.keys() - fine} == {1e-3} and len(norms) == 167
    assert sum(n.startswith("net.backbone.") for n in norms) == 53
    assert {m.momentum for m in build().modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_guidance_is_dropped_more_often_from_coarser_branches():
    guidance = build().net.guidance
    rates = {name: drop.p for name, drop in guidance.drops.items()}
    assert rates == pytest.approx(
        {"0_to_1": 0, "0_to_2": 0, "0_to_3": 0, "1_to_2": 0.05, "1_to_3": 0.05, "2_to_3": 0.1}
    )
    assert build().net.context.project[-1].p == 0.1 and isinstance(build().net.context.project[-1], nn.Dropout2d)


def test_grids_follow_the_image_size_and_cells_the_seed():
    assert [attention_grid(512, stage) for stage in (2, 3, 4)] == [32, 16, 8]
    assert [attention_grid(64, stage) for stage in (2, 3, 4)] == [4, 4, 4]

    def gates(**options):
        return [m for m in build(**options).modules() if isinstance(m, ScaleVariantAttention)]

    assert [gate.grid for gate in gates()] == [32, 16, 8, 16, 8, 8]
    first, again, other = (gates(mask_seed=seed)[3].scale_of_cell for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_any_size_in_the_same_size_or_the_published_one_out():
    model = small(num_classes=3).eval()
    with torch.no_grad():
        output = model(torch.rand(1, 2, 3, 64, 96))
        model.net.output_size = 128
        square = model(torch.rand(1, 2, 3, 64, 96))
    assert output.mask_logits.shape == (1, 3, 2, 64, 96) and output.activation == "softmax"
    assert square.mask_logits.shape == (1, 3, 2, 128, 128)
    with pytest.raises(ValueError, match="expected multiples of 32"):
        model(torch.rand(1, 1, 3, 60, 64))


def test_no_frame_knows_of_another_in_evaluation():
    model, frames = small().eval(), torch.rand(1, 3, 3, 64, 64)
    with torch.no_grad():
        together, alone = model(frames).mask_logits, model(frames[:, 1:2]).mask_logits
    torch.testing.assert_close(together[:, :, 1:2], alone, atol=1e-4, rtol=0)


FIVE = {"last_stage": 5, "branch_depths": (1, None, 0, 1, 1)}


@pytest.mark.parametrize("options", [{}, {"gate": "max", "link": "add"}, {"first_stage": 2, "link_depth": None}, FIVE])
def test_every_parameter_that_is_trained_gets_a_gradient(options):
    model = small(**options).train()
    torch.manual_seed(1)
    model(torch.rand(2, 1, 3, 64, 64)).mask_logits.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad != (p.grad is not None)] == []
    still_there = {name for name, p in model.named_parameters() if not p.requires_grad}
    context = {f"net.context.{name}" for name, _ in model.net.context.named_parameters()}
    assert still_there == (context if options is FIVE else set())


@pytest.mark.parametrize("more", [{}, {"first_stage": 3}, {"link": "none"}, {"guidance": False, "bottleneck": False}])
def test_a_branch_of_the_deepest_stage_takes_the_place_of_the_context(more):
    model = small(**FIVE, **more).eval()
    first = more.get("first_stage", 1)
    assert len(model.net.branches) == 6 - first
    assert model.net.classifier.in_channels == sum((64, 64, 128, 256, 512)[first - 1 :])
    frames = torch.rand(1, 1, 3, 64, 64)
    with torch.no_grad():
        before = model(frames).mask_logits
        for parameter in model.net.context.parameters():
            parameter.zero_()
        assert torch.equal(model(frames).mask_logits, before) and before.shape == (1, 2, 1, 64, 64)


def test_the_deepest_branch_hears_all_finer_ones_and_stands_behind_its_paths():
    model = build(last_stage=5, branch_depths=(2,) * 5)
    halvings = {name: len(path.steps) for name, path in model.net.guidance.paths.items()}
    assert halvings == {f"{a}_to_{b}": b - a for a in range(5) for b in range(a + 1, 5)}
    assert model.net.guidance.drops["3_to_4"].p == pytest.approx(0.15)
    assert model.net.guidance.paths["0_to_4"].gate.grid == 4
    places = [name.split(".")[1] for name in to_official(model.state_dict()) if name.startswith("SegHead.")]
    order = "ConvB1 Convr12 Convr13 Convr14 Convr15 ConvB2 Convr23 Convr24 Convr25 ConvB3 Convr34 Convr35 ConvB4 "
    assert list(dict.fromkeys(places)) == [*(order + "Convr45 ConvB5 LinkHead Aspp Classifier").split()]


def test_training_repeats_under_the_same_seed():
    model = small().train()
    frames = torch.rand(2, 1, 3, 64, 64)

    def logits(seed):
        torch.manual_seed(seed)
        return model(frames).mask_logits

    with torch.no_grad():
        assert torch.equal(logits(1), logits(1)) and not torch.equal(logits(1), logits(2))


def test_one_frame_cannot_train():
    with pytest.raises(ValueError, match="a single frame in training.*train.batch_size"):
        small().train()(torch.rand(1, 1, 3, 64, 64))


def test_the_largest_class_is_predicted():
    model = small(num_classes=3).eval()
    with torch.no_grad():
        output = model(torch.rand(1, 2, 3, 64, 64))
    prediction = model.predict(output, ClipInfo("v", ("a", "b"), (64, 64), (2, 64, 64)))
    winner = output.mask_logits[0].argmax(0).numpy()
    assert np.array_equal(prediction.mask, np.stack([winner == 1, winner == 2]))


@pytest.mark.parametrize("net", ["svanet", "deeplabv3"])
def test_weights_build_their_model(tmp_path, net):
    backbone = builds(ResNetBackbone, name="resnet18")
    depths = (2, None, 0, 1)
    nets = {
        "svanet": builds(SvANet, backbone=backbone, image_size=64, branch_depths=depths, mask_seed=3),
        "deeplabv3": builds(DeepLabV3, backbone=backbone, num_classes=3),
    }
    asis = {"pixel_mean": (0.0, 0.0, 0.0), "pixel_std": (1.0, 1.0, 1.0)}
    node = OmegaConf.structured(builds(PerFrame, net=nets[net], decision="softmax", **asis))
    model = build_config(node).eval()
    save_weights(tmp_path / "w.safetensors", model.state_dict(), to_json(node))
    again = lgrnet.load(tmp_path / "w.safetensors")
    frames = torch.rand(1, 1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(frames).mask_logits, model(frames).mask_logits)
    assert again.pixel_std.flatten().tolist() == [1, 1, 1]
    buffers = dict(model.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in again.named_buffers())
    assert {f"lgrnet.models.{net}.{type(model.net).__name__}", "lgrnet.models.resnet.ResNetBackbone"} <= set(ALLOWED)


def test_torchvision_names_are_the_backbone_s_names(tmp_path):
    from torchvision.models import resnet18

    torch.manual_seed(5)
    theirs, model = resnet18().eval(), small().eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    result = load_backbone(model, tmp_path / "resnet18.pth")
    assert result.dropped == ["fc.weight", "fc.bias"] and result.complete
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        stem = theirs.relu(theirs.bn1(theirs.conv1(x)))
        deepest = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(theirs.maxpool(stem)))))
        maps = model.backbone(x)
    torch.testing.assert_close(maps["res1"], stem)
    torch.testing.assert_close(maps["res5"], deepest)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNetBackbone("resnet51"), "no ResNet 'resnet51'; the nearest names are resnet"),
        (lambda: ResNetBackbone("pvt_v2_b0"), "no ResNet 'pvt_v2_b0'"),
        (lambda: small(first_stage=5), "first_stage is 5"),
        (lambda: small(branch_depths=(2, 2)), r"branch_depths \(2, 2\); expected .* a depth or None for each"),
        (lambda: small(last_stage=5), r"last_stage is 5 .* for each of the stages 1 to last_stage"),
        (lambda: small(last_stage=3, branch_depths=(2, 2, 2)), "last_stage is 3"),
        (lambda: small(gate="mean"), "gate is 'mean'"),
        (lambda: small(link="sum"), "link is 'sum', expected one of concatenate, add"),
        (lambda: small(branch_attention="se"), "channel attention is 'se'"),
        (lambda: SvANet(TimmBackbone("pvt_v2_b0")), "the backbone has res2, res3, res4, res5; SvANet needs res1..res5"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("size", [(32, 32), (64, 32)])
def test_frames_whose_deepest_map_has_no_patch(size):
    """What no patch covers is zero in the global half; here that is all of it."""
    model = small(**FIVE).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 1, 3, *size)).mask_logits.isfinite().all()
