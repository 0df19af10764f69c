"""LGRNet against the numbers of the published model: every tensor within 2e-5 of its largest value."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lgrnet.checkpoint.official import to_official
from tests.models.golden import SETTINGS, build, frames_of, golden_model, pairs, relative_error, seed_weights

TOLERANCE = 2e-5
CASES = ("fibroid_pvt_B1T6_96x128", "sunseg_pvt_B1T1_64x64", "sunseg_pvt_B1T6_64x64", "sunseg_res_B1T4_64x96")
PARAMETERS = {"sunseg_pvt": 27_655_266, "fibroid_pvt": 27_655_266, "sunseg_res": 30_742_602}


def compare(case: str, path: Path) -> int:
    """Asserts every golden tensor of a case; returns how many there were."""
    golden = torch.load(path, weights_only=True)
    frames = frames_of(case, golden)
    compared = 0
    for name, ours, expected in pairs(golden_model(case.rsplit("_", 2)[0]), frames, golden):
        if expected.dtype == torch.bool:
            assert torch.equal(ours, expected), name
        else:
            assert relative_error(ours, expected) < TOLERANCE, name
        compared += 1
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
