"""Binary cross-entropy and soft Dice for models without queries."""

import math

import pytest
import torch

from lgrnet.losses.dense_criterion import DenseCriterion
from lgrnet.losses.target_maps import membership_maps
from lgrnet.structures import SegOutput, Targets


def target(masks, labels, valid=None, annotated=None):
    frames = masks.shape[1]
    valid = torch.ones(masks.shape[1:], dtype=torch.bool) if valid is None else valid
    annotated = torch.ones(frames, dtype=torch.bool) if annotated is None else annotated
    return Targets(torch.tensor(labels, dtype=torch.long), masks, valid, annotated)


def test_values_by_hand():
    masks = torch.zeros(1, 1, 8, 8)
    masks[..., :4] = 1
    terms = DenseCriterion()(SegOutput(torch.zeros(1, 1, 1, 4, 4)), [target(masks, [0])])
    assert terms["mask_bce"].item() == pytest.approx(math.log(2))
    assert terms["mask_dice"].item() == pytest.approx(1 - (2 * 4 + 1) / (8 + 8 + 1))


def test_a_right_answer_costs_nothing_and_gradients_lead_there():
    masks = (torch.rand(2, 3, 16, 16) > 0.5).float()
    certain = SegOutput(((masks * 2 - 1) * 30)[None].repeat(1, 1, 1, 1, 1))
    terms = DenseCriterion()(certain, [target(masks, [0, 1])])
    assert terms["mask_bce"] < 1e-6 and terms["mask_dice"] < 1e-3
    logits = torch.zeros(1, 2, 3, 16, 16, requires_grad=True)
    sum(DenseCriterion()(SegOutput(logits), [target(masks, [0, 1])]).values()).backward()
    assert torch.equal(logits.grad[0] < 0, masks > 0.5)


def test_frames_without_annotation_and_invalid_pixels_take_no_part():
    masks = (torch.rand(1, 2, 8, 8) > 0.5).float()
    logits = torch.randn(1, 1, 2, 8, 8)
    annotated = torch.tensor([True, False])
    first = DenseCriterion()(SegOutput(logits), [target(masks, [0], annotated=annotated)])
    alone = DenseCriterion()(SegOutput(logits[:, :, :1]), [target(masks[:, :1], [0])])
    for name in first:
        torch.testing.assert_close(first[name], alone[name])
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    valid[:, 4:] = False
    wrong = logits.clone()
    wrong[..., 4:, :] = 100
    criterion = DenseCriterion()
    plain = criterion(SegOutput(logits), [target(masks, [0], valid)])
    for name, value in criterion(SegOutput(wrong), [target(masks, [0], valid)]).items():
        torch.testing.assert_close(value, plain[name])


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (10, 10), (128, 128)])
def test_ignored_pixels_of_a_cell_are_no_background(size):
    """The truth of a cell is the mean over what counts of it."""
    masks, valid = torch.ones(1, 1, 64, 64), torch.ones(1, 64, 64, dtype=torch.bool)
    valid[:, ::4] = False
    masks[:, :, ::4] = 0
    terms = DenseCriterion()(SegOutput(torch.full((1, 1, 1, *size), 20.0)), [target(masks, [0], valid)])
    assert terms["mask_bce"] < 1e-6 and terms["mask_dice"] < 1e-6
    masks[..., 32:] = 0
    truth, counted = membership_maps([target(masks, [0], valid)], 1, size)
    assert (truth[..., : size[1] // 2 - 1] * counted[..., : size[1] // 2 - 1] == counted[..., : size[1] // 2 - 1]).all()
    assert not truth[..., size[1] // 2 + 1 :].any() and truth.isfinite().all()


@pytest.mark.parametrize("kind", [torch.uint8, torch.bool, torch.float64])
def test_masks_of_any_type(kind):
    masks = (torch.rand(1, 2, 8, 8) > 0.5).float()
    output = SegOutput(torch.randn(1, 1, 2, 4, 4))
    expected = DenseCriterion()(output, [target(masks, [0])])
    for name, value in DenseCriterion()(output, [target(masks.to(kind), [0])]).items():
        torch.testing.assert_close(value.float(), expected[name])


def test_empty_clips_and_wrong_classes():
    logits = torch.zeros(1, 1, 2, 4, 4, requires_grad=True)
    terms = DenseCriterion()(SegOutput(logits), [target(torch.zeros(0, 2, 16, 16), [])])
    assert all(math.isfinite(v) for v in (term.item() for term in terms.values()))
    with pytest.raises(ValueError, match="class 1, but the model has 1: 0..0"):
        DenseCriterion()(SegOutput(logits), [target(torch.zeros(1, 2, 16, 16), [1])])
