"""LGRNet against the numbers of the published model: every tensor within 2e-5 of its largest value."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lgrnet.checkpoint.official import to_official
from tests.conftest import GOLDEN, SHARED
from tests.models.golden import SETTINGS, build, frames_of, golden_model, pairs, relative_error, seed_weights

TOLERANCE = 2e-5
CASES = {"fibroid_pvt_B1T6_96x128", "sunseg_pvt_B1T1_64x64", "sunseg_pvt_B1T6_64x64", "sunseg_res_B1T4_64x96"}
PARAMETERS = {"sunseg_pvt": 27_655_266, "fibroid_pvt": 27_655_266, "sunseg_res": 30_742_602}


def cases(golden: Path) -> list[str]:
    """The cases that have to be in a folder of golden files, and all others that are."""
    found = (path.stem.removeprefix("case_") for path in (golden / "lgrnet").glob("case_*.pt"))
    return sorted(CASES.union(found))


def compare(path: Path) -> int:
    """Asserts every golden tensor of a case; returns how many there were."""
    golden = torch.load(path, weights_only=True)
    compared = 0
    for name, ours, expected in pairs(golden_model(golden["meta"]["config"]), frames_of(golden), golden):
        if expected.dtype == torch.bool:
            assert torch.equal(ours, expected), name
        else:
            assert relative_error(ours, expected) < TOLERANCE, name
        compared += 1
    return compared


@pytest.mark.parametrize("case", cases(GOLDEN))
def test_the_part_that_travels_with_the_project(case, golden):
    assert compare(golden / "lgrnet" / f"case_{case}.pt") > (20 if case in CASES else 0)


@pytest.mark.parametrize("case", cases(SHARED / "golden"))
def test_every_golden_tensor(case, shared):
    assert compare(shared / "golden" / "lgrnet" / f"case_{case}.pt") > (15 if case in CASES else 0)


def test_case_files_are_found_by_their_name(tmp_path):
    (tmp_path / "lgrnet").mkdir()
    (tmp_path / "lgrnet" / "case_sunseg_pvt_B1T4_96x128_orig3x90x120.pt").touch()
    (tmp_path / "lgrnet" / "state_sunseg_pvt.json").touch()
    assert cases(tmp_path) == sorted([*CASES, "sunseg_pvt_B1T4_96x128_orig3x90x120"])


@pytest.fixture(scope="module")
def padded() -> dict[str, object]:
    """A case of three frames of 64 x 64, of which two of 50 x 60 are not padding, as golden files store them."""
    frames = torch.zeros(1, 3, 3, 64, 64)
    frames[:, :2, :, :50, :60] = torch.rand(2, 3, 50, 60, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = golden_model("sunseg_pvt")(frames)
    logits = F.interpolate(output.mask_logits[0], scale_factor=4, mode="bilinear").transpose(0, 1)  # [T, Q, H, W]
    return {
        "meta": {"case": "sunseg_pvt_B1T3_64x64_orig2x50x60", "config": "sunseg_pvt", "B": 1, "T": 3, "H": 64, "W": 64},
        "input.videos01": frames,
        "dec_out3.pred_masks_stride8": logits[None, ..., ::8, ::8],
        "dec_out3.pred_masks_stride3": logits[None, ..., ::3, ::3],
        "sample.pred_masks": logits[:2, :, :50, :60] > 0,
        "sample.pred_class": output.class_logits.softmax(-1).expand(2, -1, -1),
    }


def test_a_case_may_be_padded_in_time_and_stored_with_any_stride(padded, tmp_path):
    torch.save(padded, tmp_path / "case.pt")
    assert compare(tmp_path / "case.pt") == 4


@pytest.mark.parametrize("name", ["dec_out3.pred_masks_stride8", "sample.pred_masks", "sample.pred_class"])
def test_a_wrong_tensor_of_such_a_case_is_found(name, padded, tmp_path):
    value = padded[name]
    wrong = ~value if value.dtype == torch.bool else value + 1
    torch.save({**padded, name: wrong}, tmp_path / "case.pt")
    with pytest.raises(AssertionError, match=name):
        compare(tmp_path / "case.pt")


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
