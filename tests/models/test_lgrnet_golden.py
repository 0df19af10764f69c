"""LGRNet against the numbers of the published model: every tensor within 2e-5 of its largest value."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lgrnet.checkpoint.official import to_official
from lgrnet.layers.mask_head import published_masks
from tests.models.golden import SETTINGS, build, golden_model, relative_error, seed_weights, taps

TOLERANCE = 2e-5
CASES = ("fibroid_pvt_B1T6_96x128", "sunseg_pvt_B1T1_64x64", "sunseg_pvt_B1T6_64x64", "sunseg_res_B1T4_64x96")
NOT_TENSORS_OF_THE_MODEL = {"meta", "input.videos01", "input.hilbert_curve", "video_projs.res2"}
PARAMETERS = {"sunseg_pvt": 27_655_266, "fibroid_pvt": 27_655_266, "sunseg_res": 30_742_602}


def frames_of(case: str, meta: dict) -> torch.Tensor:
    shape = (meta["B"], meta["T"], 3, meta["H"], meta["W"])
    return torch.from_numpy(seed_weights().seeded_input(f"video_{case}", shape, "uniform"))


def compare(case: str, path: Path) -> int:
    """Asserts every golden tensor of a case; returns how many there were."""
    golden = torch.load(path, weights_only=True)
    frames = golden.get("input.videos01", frames_of(case, golden["meta"]))
    model = golden_model(case.rsplit("_", 2)[0])
    seen, output = taps(model, frames)
    batch, length = frames.shape[:2]
    compared = 0
    for name, expected in golden.items():
        layer = name.partition(".")[0]
        if name in seen:
            assert relative_error(seen[name], expected) < TOLERANCE, name
        elif name.endswith("_stride4"):
            assert relative_error(seen[name.removesuffix("_stride4")][..., ::4, ::4], expected) < TOLERANCE, name
        elif name.endswith("attn_logits"):
            logits = output.layers[int(layer[3:])].mask_logits.transpose(1, 2).flatten(0, 1)
            ours = nn.functional.interpolate(logits, size=expected.shape[-2:], mode="bilinear")
            assert relative_error(ours, expected) < TOLERANCE, name
        elif name.endswith("attn_mask_raw"):
            index = int(layer[3:])
            shape = seen["encoder_out." + ("res5", "res4", "res3")[index % 3]].shape[-2:]
            assert torch.equal(model.decoder.low(output.layers[index].mask_logits, shape)[:, 0], expected), name
        elif name == "sample.pred_masks":
            size = expected.shape[-2:]
            ours = published_masks(output.mask_logits[0], size, size).transpose(0, 1)
            certain = seen["dec_out3.pred_masks"][0, ..., : size[0], : size[1]].abs() > 1e-5
            assert torch.equal(ours[certain], expected[certain]), name
        elif name == "sample.pred_class":
            assert relative_error(seen["dec_out3.pred_class"][0], expected) < TOLERANCE, name
        else:
            assert name in NOT_TENSORS_OF_THE_MODEL or "margin" in name or "sample.video" in name, name
            continue
        compared += 1
    assert output.mask_logits.shape == (batch, 10, length, frames.shape[-2] // 4, frames.shape[-1] // 4)
    return compared


@pytest.mark.parametrize("case", CASES)
def test_the_part_that_travels_with_the_project(case, golden):
    assert compare(case, golden / "lgrnet" / f"case_{case}.pt") > 20


@pytest.mark.parametrize("case", CASES)
def test_every_golden_tensor(case, shared):
    assert compare(case, shared / "golden" / "lgrnet" / f"case_{case}.pt") > 15


@pytest.mark.parametrize("name", SETTINGS)
def test_parameters_and_weights_are_the_published_ones(name, golden):
    model = golden_model(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    record = json.loads((golden / "lgrnet" / f"state_{name}.json").read_text())
    assert seed_weights().state_digest(to_official(model.state_dict())) == record["digest_sha256"]


def test_every_norm_has_the_published_epsilon():
    """A wrong one hides under the tolerance of the golden numbers: spec sections 0 and 2."""
    model = build("sunseg_pvt")
    for name, module in model.named_modules():
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            parts = name.split(".")
            in_backbone = parts[0] == "backbone"
            patch_or_reduction = "downsample" in parts or "patch_embed" in parts or "attn" in parts
            assert module.eps == (1e-6 if in_backbone and not patch_or_reduction else 1e-5), name
    for name, module in build("sunseg_res").named_modules():
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)):
            assert module.eps == 1e-5, name


def test_drop_path_rises_from_zero_to_a_tenth():
    rates = [m.drop_prob for m in build("sunseg_pvt").backbone.modules() if type(m).__name__ == "DropPath"]
    expected = [i * 0.1 / 15 for i in range(1, 16) for _ in range(2)]
    assert rates == pytest.approx(expected, abs=1e-7)


def test_fresh_weights_are_drawn_as_published(golden):
    """Range and deviation of every fresh tensor, against those of a freshly made published model."""
    torch.manual_seed(2024)
    ours = to_official(build("sunseg_pvt").state_dict())
    published = torch.load(golden / "lgrnet" / "micro.pt", weights_only=True)["init_stats_min_max_std"]
    for name, (low, high, deviation) in published.items():
        tensor = ours[name].float()
        if deviation == 0:
            assert tensor.min() == pytest.approx(low) and tensor.max() == pytest.approx(high), name
        elif tensor.numel() >= 512:
            assert tensor.std().item() == pytest.approx(deviation, rel=0.12), name
            if "level_embed" not in name and "temporal_query" not in name:
                assert tensor.max().item() == pytest.approx(high, rel=0.06), name


def test_layers_start_as_published():
    model = build("sunseg_pvt")
    first, *others = model.decoder.layers
    encoder_first, *encoder_others = model.encoder.layers
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    for other in encoder_others:
        assert torch.equal(encoder_first.ffn.linear1.bias, other.ffn.linear1.bias)
        assert not torch.equal(encoder_first.ffn.linear1.weight, other.ffn.linear1.weight)
