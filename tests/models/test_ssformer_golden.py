"""SSFormer, its ablation and its reproduction study against numbers of the published code, with seeded weights."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from timm.layers import DropPath
from torch import nn

from lgrnet.checkpoint.official_stills import to_official
from lgrnet.data.transforms import resize_for_eval
from lgrnet.inference.predictor import Predictor
from lgrnet.layers.mask_head import resized_probabilities
from lgrnet.records import read_frame
from lgrnet.structures import ClipInfo
from tests.models.golden_stills import (
    FOLDER,
    TOLERANCE,
    build,
    golden_input,
    golden_model,
    logits_error,
    module_by_published_name,
)

WITH_LOGITS = (
    "ssformer_S",
    "ssformer_add_b2",
    "official_sed_b2",
    "official_mla_b2",
    "repro_PLD_MiT-B0",
    "repro_SeD_MiT-B0",
)
# only shape, smallest, mean, largest value and deviation of their logits are kept
WITH_STATISTICS = (
    "ssformer_L",
    "repro_PLD_MiT-B2",
    "repro_SeD_MiT-B2",
    "repro_PLD_PVTv2-B2",
    "repro_SeD_PVTv2-B2",
)


@pytest.fixture(scope="module")
def published(shared):
    return shared / "golden" / "ssformer"


@pytest.mark.parametrize("name", WITH_LOGITS)
def test_logits_of_a_small_frame(name):
    golden = np.load(FOLDER / "logits_small.npz")
    cases = [key.split("/") for key in golden if key.startswith(f"{name}/")]
    errors = {
        (recipe, case): logits_error(name, recipe, case, golden[f"{name}/{recipe}/{case}"]) for _, recipe, case in cases
    }
    assert errors and all(error < TOLERANCE[recipe] for (recipe, _), error in errors.items()), errors


@pytest.mark.parametrize("recipe", TOLERANCE)
@pytest.mark.parametrize("name", WITH_LOGITS)
def test_logits_of_every_size(published, name, recipe):
    golden = np.load(published / f"outputs_{name}.npz")
    cases = [key.split("/")[1] for key in golden if key.startswith(f"{recipe}/")]
    errors = {case: logits_error(name, recipe, case, golden[f"{recipe}/{case}"]) for case in cases}
    assert len(errors) >= 2 and max(errors.values()) < TOLERANCE[recipe], errors


@pytest.mark.parametrize("name", WITH_STATISTICS)
def test_statistics_of_logits(published, name):
    golden = json.loads((published / "models_meta.json").read_text())["outputs"]
    kept = {case: golden.get(f"{name}/fanin/{case}") for case in ("small", "odd")}
    assert kept["small"] is not None
    for case in (case for case, values in kept.items() if values is not None):
        check_statistics(golden_model(name).net, golden_input(case), kept[case], TOLERANCE["fanin"])


@pytest.mark.parametrize("recipe", TOLERANCE)
def test_progressive_upsampling_of_the_published_square(published, recipe):
    """The published decoder makes every map square, of twice the width, whatever the frame's shape."""
    golden = json.loads((published / "models_meta.json").read_text())["outputs"][f"official_pup_b2/{recipe}/small"]
    assert golden["shape"] == [1, 1, 48, 48]
    check_statistics(golden_model("official_pup_b2", recipe).net, golden_input("small"), golden, TOLERANCE[recipe])


@torch.no_grad()
def check_statistics(net, frames, kept, tolerance):
    logits = net(frames)
    assert list(logits.shape) == kept["shape"]
    found = [logits.min(), logits.mean(), logits.max(), logits.std()]
    np.testing.assert_allclose(found, kept["min_mean_max_std"], rtol=0, atol=tolerance)


# published enlarging by a module of its own, ours is a function
NO_MODULE = {
    "ssformer_S": set(),
    "repro_PLD_MiT-B0": {f"decode_head.layers.{i}{j}" for i in range(4) for j in ("", ".1")},
}


@pytest.mark.parametrize("name", NO_MODULE)
def test_features(published, name):
    """Every module's output; an epsilon of 1e-5 for 1e-6 in the norms would show as 3e-5."""
    golden = dict(np.load(published / f"features_{name}_fanin_small.npz"))
    model, seen = copy.deepcopy(golden_model(name)), {}
    for key in golden.keys() - {"backbone", "c1", "c2", "c3", "c4"} - NO_MODULE[name]:
        module = module_by_published_name(model, key)
        module.register_forward_hook(lambda module, inputs, output, key=key: seen.setdefault(key, output.clone()))
    with torch.no_grad():
        maps = model.net.backbone(golden_input("small"))
        model.net.decoder(maps)
    seen |= {f"c{i + 1}": level for i, level in enumerate(maps.values())}
    assert seen.keys() == golden.keys() - {"backbone"} - NO_MODULE[name] and len(seen) > 70
    errors = {key: np.abs(in_layout_of(golden[key], value) - golden[key]).max() for key, value in seen.items()}
    assert max(errors.values()) < 2e-5, sorted(errors.items(), key=lambda item: -item[1])[:3]


def in_layout_of(golden, value):
    """Our [batch, C, h, w] as tokens [batch, h * w, C], where the golden ones are."""
    return (value.flatten(2).transpose(1, 2) if value.ndim == 4 and golden.ndim == 3 else value).numpy()


@pytest.mark.parametrize("name", ["ssformer_S", "repro_PLD_MiT-B0"])
def test_forward_in_training(published, name):
    """Batch norm takes the batch's statistics and keeps a running mean of them; dropout and drop path are off."""
    golden = np.load(published / f"trainstep_{name}_fanin.npz")
    model = copy.deepcopy(golden_model(name)).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0
    with torch.no_grad():
        logits = model.net(torch.from_numpy(golden["x"]))
    assert np.abs(logits.numpy() - golden["y"]).max() < 2e-5
    official = to_official(model.state_dict())
    buffers = {key.removeprefix("buf/") for key in golden if key.startswith("buf/") and "linear_fuse." not in key}
    assert len(buffers) >= 6
    for key in buffers:
        np.testing.assert_allclose(official[key], golden[f"buf/{key}"], rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.fixture(scope="module")
def end_to_end():
    """SSFormer-S with the bias of its last layer as in the published run."""
    model = copy.deepcopy(golden_model("ssformer_S"))
    model.net.decoder.classes.bias.data.fill_(0.18)
    return model


def test_one_image_from_disk_to_mask(end_to_end):
    golden = np.load(FOLDER / "e2e_small.npz")
    check_image(end_to_end, FOLDER / "e2e_small_image.png", golden["prob"], golden["input_mean_std"])
    prediction = Predictor(end_to_end, (352, 352)).predict_frames(read_frame(FOLDER / "e2e_small_image.png"))
    assert np.array_equal(prediction.mask[0, 0], golden["prob"] > 0.5)


SETS = ("CVC-300", "CVC-ColonDB", "CVC-ClinicDB", "ETIS-LaribPolypDB", "Kvasir")


@pytest.mark.parametrize("folder", SETS)
def test_images_from_disk_to_mask(published, end_to_end, folder):
    golden = np.load(published / "e2e_test_py.npz")
    for image in (0, 1):
        path = published / "e2e" / "TestDataset" / folder / "images" / f"{image}.png"
        key = f"{folder}/{image}"
        check_image(end_to_end, path, golden[f"{key}/prob"], golden[f"{key}/input_mean_std"])


@torch.no_grad()
def check_image(model, path, probability, statistics):
    frame = read_frame(path)
    small = torch.from_numpy(resize_for_eval(frame, (352, 352))).permute(2, 0, 1)[None, None].float() / 255
    normalised = model.normalise(small)
    assert [normalised.mean(), normalised.std(correction=0)] == pytest.approx(statistics[:2].tolist(), abs=1e-5)
    output = model(small)
    sizes = ((352, 352), frame.shape[:2], model.net.mask_stride)
    (found,) = resized_probabilities(output.mask_logits[0], *sizes)
    assert np.abs(found[0].numpy() - probability).max() < 1e-5
    prediction = model.predict(output, ClipInfo("polyp", ("0",), frame.shape[:2], (1, 352, 352)))
    assert np.array_equal(prediction.mask[0, 0], probability > 0.5)
    assert np.abs(prediction.probability[0, 0] / 255 - probability).max() < 0.5 / 255 + 1e-5
    assert 0.05 < prediction.mask.mean() < 0.5


@pytest.mark.parametrize("name", ["ssformer_S", "repro_PLD_MiT-B0", "repro_SeD_PVTv2-B2"])
def test_epsilons_and_momenta_are_the_published_ones(name):
    model = build(name)
    for path, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            coarse = name != "ssformer_S" or "patch_embed" in path or path.endswith("attn.norm")
            assert module.eps == (1e-5 if coarse else 1e-6), path
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (1e-5, 0.1), path
