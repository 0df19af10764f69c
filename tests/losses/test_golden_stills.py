"""Losses of SSFormer, its reproduction study and SvANet: published values, and gradients where they were kept."""

import numpy as np
import pytest
import torch

from lgrnet.losses.published_criteria import SSFormerCriterion, StructureCriterion, TverskyCriterion
from lgrnet.losses.softmax_criterion import SoftmaxCriterion, balanced_weights, class_pixels, study_criterion
from lgrnet.losses.target_maps import class_map
from lgrnet.structures import SegOutput
from tests.losses.stills import binary_targets, index_targets, weighted_sum

TOLERANCE = 1e-6
SIGMOID = {
    "official_train (sigmoid then dice_bce_loss)": SSFormerCriterion(),
    "dice_bce_loss(logits)": SSFormerCriterion(double_sigmoid=False),
    "bce_iou_loss(logits)": StructureCriterion(bce="weighted", iou="pixel"),
    "structure_loss(logits)": StructureCriterion(bce="plain"),
    "tversky_loss(logits)": TverskyCriterion(),
    "tversky_bce_loss(logits)": TverskyCriterion(mask_bce=1.0),
}
SOFTMAX = {
    "repro DiceLoss": study_criterion(),
    "repro CrossEntropy": study_criterion("ce"),
    "repro Dice": study_criterion("raw_dice"),
    "repro DCE": study_criterion("raw_dice_ce"),
}
CASES = [(name, kind) for name in SIGMOID for kind in ("blob", "empty", "full", "soft")]
CASES += [(name, kind) for name in SOFTMAX for kind in ("blob", "empty", "full")]


def result(golden, name, kind):
    """The loss of one golden case, and its gradient with regard to the logits [B, C, H, W]."""
    softmax = name in SOFTMAX
    logits = torch.from_numpy(golden["logits2" if softmax else "logits"]).requires_grad_()
    truth = torch.from_numpy(golden[f"target/{kind}"])
    criterion = SOFTMAX[name] if softmax else SIGMOID[name]
    output = SegOutput(logits[:, :, None], activation="softmax" if softmax else "sigmoid")
    loss = weighted_sum(criterion, criterion(output, binary_targets(truth)))
    loss.backward()
    return loss.item(), logits.grad.numpy()


@pytest.fixture(scope="module")
def values(golden):
    with np.load(golden / "ssformer" / "loss_values.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def svanet(golden):
    with np.load(golden / "svanet" / "losses.npz") as stored:
        return dict(stored)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_values_of_ssformer_and_the_study(values, name, kind):
    loss, gradient = result(values, name, kind)
    assert loss == pytest.approx(float(values[f"loss/{name}|{kind}"]), rel=TOLERANCE)
    assert np.isfinite(gradient).all()


def test_every_published_loss_is_there(values):
    names = {key.removeprefix("loss/").partition("|")[0] for key in values if key.startswith("loss/")}
    assert names == set(SIGMOID) | set(SOFTMAX)


def test_gradients_of_ssformer_and_the_study(shared):
    with np.load(shared / "golden" / "ssformer" / "losses.npz") as stored:
        golden = dict(stored)
    for name, kind in CASES:
        _, gradient = result(golden, name, kind)
        published = golden[f"grad/{name}|{kind}"]
        assert abs(gradient - published).max() <= TOLERANCE * abs(published).max(), (name, kind)


@pytest.mark.parametrize("channels", [2, 5])
@pytest.mark.parametrize(
    ("name", "target", "arguments"),
    [
        ("ce", "target", {}),
        ("ce_ignore", "target_ignore", {}),
        ("ce_ls0.1", "target_ignore", {"label_smoothing": 0.1}),
        ("ce_classweights", "target", {"balance_classes": True}),
        ("ce_classweights_ignore", "target_ignore", {"balance_classes": True}),
        *(
            (
                f"softdice_batch{int(over == 'batch')}_bg{int(background)}",
                "target",
                {"mask_ce": 0, "mask_dice": 1, "dice_over": over, "dice_background": background},
            )
            for over in ("frame", "batch")
            for background in (True, False)
        ),
    ],
)
def test_values_of_svanet(svanet, channels, name, target, arguments):
    golden = {key.removeprefix(f"c{channels}_"): value for key, value in svanet.items()}
    logits = torch.from_numpy(golden["logits"]).requires_grad_()
    criterion = SoftmaxCriterion(**arguments)
    output = SegOutput(logits[:, :, None], activation="softmax")
    loss = weighted_sum(criterion, criterion(output, index_targets(golden[target])))
    # Published soft Dice is -Dice, ours 1 - Dice.
    assert loss.item() - ("dice" in name) == pytest.approx(float(golden[name]), rel=TOLERANCE)
    loss.backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().max() > 0


@pytest.mark.parametrize("channels", [2, 5])
def test_svanet_with_an_auxiliary_output_a_small_one_and_weights_of_classes(svanet, channels):
    golden = {key.removeprefix(f"c{channels}_"): value for key, value in svanet.items()}
    targets = index_targets(golden["target_ignore"])
    small = SegOutput(torch.from_numpy(golden["aux"])[:, :, None], activation="softmax")
    output = SegOutput(torch.from_numpy(golden["logits"])[:, :, None], activation="softmax", aux=(small,))
    assert SoftmaxCriterion()(small, targets)["mask_ce"].item() == pytest.approx(
        float(golden["ce_smallpred"]), rel=1e-6
    )
    assert SoftmaxCriterion()(output, targets)["mask_ce"].item() == pytest.approx(float(golden["ce_aux0.4"]), rel=1e-6)
    for name in ("target", "target_ignore"):
        pixels = class_pixels(*class_map(index_targets(golden[name]), channels), channels)
        published = golden["classweights" + name.removeprefix("target")]
        assert balanced_weights(pixels).numpy() == pytest.approx(published, rel=TOLERANCE)
