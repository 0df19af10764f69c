"""What all losses of still models share: what takes part, parts of a step, ranks, empty clips, clear errors."""

import math

import pytest
import torch
import torch.nn.functional as F

from lgrnet.losses import softmax_criterion, target_maps
from lgrnet.losses.dense_criterion import DenseCriterion
from lgrnet.losses.published_criteria import (
    SSFormerCriterion,
    StructureCriterion,
    TverskyCriterion,
    ssformer_criterion,
)
from lgrnet.losses.softmax_criterion import SoftmaxCriterion, nnunet_criterion, study_criterion
from lgrnet.losses.target_maps import class_map
from lgrnet.structures import SegOutput, Targets
from tests.losses.stills import weighted_sum

SIGMOID = [DenseCriterion(), SSFormerCriterion(), StructureCriterion(), StructureCriterion(bce="plain", iou="pixel")]
SIGMOID += [TverskyCriterion(mask_bce=1.0), SSFormerCriterion(double_sigmoid=False)]
SOFTMAX = [SoftmaxCriterion(), study_criterion(), nnunet_criterion(), nnunet_criterion("batch", dice_background=True)]
SOFTMAX += [SoftmaxCriterion(balance_classes=True, label_smoothing=0.1), study_criterion("raw_dice_ce")]
ALL = [*SIGMOID, *SOFTMAX]
WHOLE_CALL = (TverskyCriterion,)


def of_whole_call(criterion):
    """Whether a ratio is taken over all frames of a call, so that parts of a step are not the whole."""
    return isinstance(criterion, WHOLE_CALL) or getattr(criterion, "dice_over", "") == "batch"


def clip(seed, labels=(0, 1), frames=2, size=(12, 16)):
    generator = torch.Generator().manual_seed(seed)
    masks = (torch.rand(len(labels), frames, *size, generator=generator) > 0.6).float()
    everywhere = torch.ones(frames, *size, dtype=torch.bool)
    return Targets(torch.tensor(labels, dtype=torch.int64), masks, everywhere, torch.ones(frames, dtype=torch.bool))


def output_for(criterion, logits):
    softmax = isinstance(criterion, SoftmaxCriterion)
    return SegOutput(logits if softmax else logits[:, 1:], activation="softmax" if softmax else "sigmoid")


def logits_of(clips=4, channels=3, frames=2, size=(12, 16), seed=0):
    return torch.randn(clips, channels, frames, *size, generator=torch.Generator().manual_seed(seed))


def loss_of(criterion, logits, targets, **more):
    return weighted_sum(criterion, criterion(output_for(criterion, logits), targets, **more))


def test_dense_criterion_at_full_resolution_is_bce_and_dice_of_every_image():
    logits, masks = torch.randn(3, 1, 1, 20, 24), (torch.rand(3, 1, 1, 20, 24) > 0.7).float()
    everywhere, one = torch.ones(1, 20, 24, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    terms = DenseCriterion()(SegOutput(logits), [Targets(torch.tensor([0]), m, everywhere, one) for m in masks])
    torch.testing.assert_close(terms["mask_bce"], F.binary_cross_entropy_with_logits(logits, masks))
    p = logits.sigmoid()
    dice = (2 * (p * masks).sum((1, 2, 3, 4)) + 1) / (p.sum((1, 2, 3, 4)) + masks.sum((1, 2, 3, 4)) + 1)
    torch.testing.assert_close(terms["mask_dice"], (1 - dice).mean())


@pytest.mark.parametrize("criterion", [c for c in ALL if not getattr(c, "dice_invalid", False)])
def test_pixels_that_are_not_valid_and_frames_without_annotation_take_no_part(criterion):
    logits, targets = logits_of(), [clip(i) for i in range(4)]
    valid = targets[0].valid.clone()
    valid[:, 6:] = False
    annotated = torch.tensor([True, False])
    targets[0] = Targets(targets[0].labels, targets[0].masks, valid, annotated)
    plain = loss_of(criterion, logits, targets)
    wrong, masks = logits.clone(), targets[0].masks.clone()
    wrong[0, :, :, 6:] = 20
    wrong[0, :, 1] = -20
    masks[:, :, 6:] = 1 - masks[:, :, 6:]
    masks[:, 1] = 1
    changed = [Targets(targets[0].labels, masks, valid, annotated), *targets[1:]]
    torch.testing.assert_close(loss_of(criterion, wrong, changed), plain)
    wrong[0, :, 0, :6] = 20
    assert not torch.isclose(loss_of(criterion, wrong, changed), plain)


def test_the_loss_of_the_study_counts_pixels_that_are_not_valid():
    logits, target = logits_of(1), clip(0)
    invalid = Targets(target.labels, target.masks, torch.zeros_like(target.valid), target.annotated)
    torch.testing.assert_close(
        loss_of(study_criterion(), logits, [invalid]), loss_of(study_criterion(), logits, [target])
    )
    nothing = Targets(target.labels, target.masks, target.valid, torch.zeros_like(target.annotated))
    assert loss_of(study_criterion(), logits, [nothing]) == 0


@pytest.mark.parametrize("criterion", ALL)
def test_parts_of_a_step_average_to_the_whole(criterion):
    logits, targets = logits_of(), [clip(i, labels=[(0, 1), (1,), (), (0,)][i]) for i in range(4)]
    targets[1] = Targets(*vars(targets[1]).values())
    targets[1].valid[:, :5] = False
    targets[1].annotated[0] = False
    parts = [loss_of(criterion, logits[i : i + 2], targets[i : i + 2], whole=targets) for i in (0, 2)]
    if of_whole_call(criterion):
        alone = [loss_of(criterion, logits[i : i + 2], targets[i : i + 2]) for i in (0, 2)]
        assert all(math.isfinite(value) for value in [*parts, *alone])
    else:
        torch.testing.assert_close(sum(parts) / 2, loss_of(criterion, logits, targets))


@pytest.mark.parametrize("criterion", [c for c in ALL if not of_whole_call(c)])
def test_ranks_average_to_the_whole(criterion, monkeypatch):
    """Two ranks, simulated: what the reduction of each would see is recorded first."""
    logits, targets = logits_of(), [clip(i) for i in range(4)]
    targets[0].annotated[:] = False
    targets[3].valid[:, :7] = False
    whole = loss_of(criterion, logits, targets)
    shares: list[list[torch.Tensor]] = [[], []]
    halves = [(logits[i : i + 2], targets[i : i + 2]) for i in (0, 2)]
    modules = (target_maps, softmax_criterion)
    for rank, half in enumerate(halves):
        for module in modules:
            monkeypatch.setattr(module, "reduce_mean", lambda x, r=rank: (shares[r].append(x.float()), x.float())[1])
        loss_of(criterion, *half)
    losses = []
    for half in halves:
        means = iter([(a + b) / 2 for a, b in zip(*shares, strict=True)])
        for module in modules:
            monkeypatch.setattr(module, "reduce_mean", lambda x, m=means: next(m))
        losses.append(loss_of(criterion, *half))
    torch.testing.assert_close(sum(losses) / 2, whole)


@pytest.mark.parametrize("criterion", ALL)
@pytest.mark.parametrize("kind", ["no objects", "not annotated", "nothing valid"])
def test_empty_batches_are_finite(criterion, kind):
    logits = logits_of(2).requires_grad_()
    targets = [clip(i, labels=() if kind == "no objects" else (0, 1)) for i in range(2)]
    for target in targets:
        target.annotated[:] = kind != "not annotated"
        target.valid[:] = kind != "nothing valid"
    loss = loss_of(criterion, logits, targets)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
    if kind == "not annotated":
        assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("criterion", ALL)
def test_half_precision_logits_and_a_video_of_one_frame(criterion):
    loss = loss_of(criterion, logits_of(1, frames=1).bfloat16(), [clip(0, frames=1)])
    assert loss.dtype == torch.float32 and torch.isfinite(loss)


@pytest.mark.parametrize("criterion", ALL)
def test_gradients_lead_to_the_truth(criterion):
    target = clip(0, labels=(1,), frames=1)
    logits = torch.zeros(1, 3, 1, 12, 16, requires_grad=True)
    loss_of(criterion, logits, [target]).backward()
    inside = target.masks[0, 0] > 0.5
    assert (logits.grad[0, 2, 0][inside] < 0).all()
    assert (logits.grad[0, 2, 0][~inside] > 0).all()


def test_class_map():
    masks = torch.zeros(3, 1, 2, 4)
    masks[0, 0, 0] = torch.tensor([1.0, 0.6, 0.5, 0.0])  # class 2
    masks[1, 0, 0] = torch.tensor([1.0, 0.9, 0.5, 0.0])  # class 0
    masks[2, 0, 1] = torch.tensor([0.0, 0.0, 0.51, 1.0])  # class 0 again
    valid = torch.ones(1, 2, 4, dtype=torch.bool)
    valid[0, 1, 3] = False
    target = Targets(torch.tensor([2, 0, 0]), masks, valid, torch.tensor([True]))
    classes, counted = class_map([target], channels=4)
    assert classes.tolist() == [[[[3, 1, 0, 0], [0, 0, 1, 1]]]]
    assert counted.tolist() == [valid.tolist()]
    unseen = Targets(target.labels, masks, valid, torch.tensor([False]))
    assert not class_map([unseen], 4)[1].any()
    with pytest.raises(ValueError, match=r"class 2, but the model has 2: 0\.\.1"):
        class_map([target], channels=3)


def test_outputs_of_another_kind_are_refused():
    logits, targets = logits_of(1), [clip(0)]
    for criterion in SIGMOID:
        with pytest.raises(ValueError, match=r"needs sigmoid masks.*softmax masks; take SoftmaxCriterion"):
            criterion(SegOutput(logits, activation="softmax"), targets)
    for criterion in SOFTMAX:
        with pytest.raises(ValueError, match="needs softmax masks.*sigmoid masks; take DenseCriterion"):
            criterion(SegOutput(logits), targets)
        with pytest.raises(ValueError, match="needs softmax masks.*sigmoid masks; take DenseCriterion"):
            criterion(SegOutput(logits[:, :1]), targets)
        with pytest.raises(ValueError, match="class 1, but the model has 1: 0..0"):
            criterion(SegOutput(logits[:, :2], activation="softmax"), targets)


def test_arguments_that_mean_nothing_are_refused():
    for wrong in ({"bce": "mean"}, {"iou": "mask"}):
        with pytest.raises(ValueError, match="expected"):
            StructureCriterion(**wrong)
    with pytest.raises(ValueError, match="gamma 0.5"):
        TverskyCriterion(gamma=0.5)
    with pytest.raises(ValueError, match="dice_over"):
        SoftmaxCriterion(dice_over="image")
    with pytest.raises(ValueError, match="dice_of"):
        SoftmaxCriterion(dice_of="sigmoid")
    with pytest.raises(ValueError, match="loss is 'ohem', expected one of dice, ce, raw_dice, raw_dice_ce"):
        study_criterion("ohem")
    with pytest.raises(ValueError, match="expected one of bce_dice, published, single_sigmoid"):
        ssformer_criterion("dice")
    with pytest.raises(ValueError, match="both 0"):
        SoftmaxCriterion(mask_ce=0)


def test_earlier_outputs_have_a_weight():
    logits, early, targets = logits_of(2), logits_of(2, size=(6, 8), seed=1), [clip(i) for i in range(2)]
    for make in (StructureCriterion, SoftmaxCriterion):
        full, part = output_for(make(), logits), output_for(make(), early)
        both = SegOutput(full.mask_logits, activation=full.activation, aux=(part,))
        for weight in (0.0, 0.3):
            found = make(aux_weight=weight)(both, targets)
            for name, value in make()(full, targets).items():
                torch.testing.assert_close(found[name], value + weight * make()(part, targets)[name])


@pytest.mark.parametrize("criterion", ALL, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("label", [-2, -1, 2])
def test_a_class_that_the_model_has_not_is_refused(criterion, label):
    """A class below 0 would count from the last one, or be the background."""
    with pytest.raises(ValueError, match=f"a target has class {label}, but the model has 2: 0..1"):
        loss_of(criterion, logits_of(1), [clip(0, labels=(0, label))])


@pytest.mark.parametrize("criterion", SOFTMAX, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("targets", [1, 3])
def test_targets_of_other_clips_or_frames_are_refused(criterion, targets):
    with pytest.raises(ValueError, match=f"of 2 clips of 2 frames, the targets of {targets} clips of 2 frames"):
        loss_of(criterion, logits_of(2), [clip(seed) for seed in range(targets)])
    with pytest.raises(ValueError, match="of 1 clips of 1 frames, the targets of 1 clips of 2 frames"):
        loss_of(criterion, logits_of(1, frames=1), [clip(0)])


@pytest.mark.parametrize("criterion", SOFTMAX)
def test_softmax_losses_in_float64(criterion):
    logits, targets = logits_of(2), [clip(0), clip(1)]
    exact = criterion(SegOutput(logits.double(), activation="softmax"), targets)
    for name, value in criterion(SegOutput(logits, activation="softmax"), targets).items():
        assert exact[name].dtype == torch.float64 and abs(exact[name] - value.double()) < 1e-5
