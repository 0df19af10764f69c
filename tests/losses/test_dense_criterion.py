"""Binary cross-entropy and soft Dice for models without queries."""

import math

import pytest
import torch

from lgrnet.losses.dense_criterion import DenseCriterion
from lgrnet.losses.published_criteria import SSFormerCriterion, StructureCriterion, TverskyCriterion
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
    truth, counted = membership_maps([target(masks, [0], valid)], torch.zeros(1, 1, 1, *size))
    assert (truth[..., : size[1] // 2 - 1] * counted[..., : size[1] // 2 - 1] == counted[..., : size[1] // 2 - 1]).all()
    assert not truth[..., size[1] // 2 + 1 :].any() and truth.isfinite().all()


@pytest.mark.parametrize(
    "criterion", [DenseCriterion(), StructureCriterion(), SSFormerCriterion(), TverskyCriterion(1, 1)]
)
def test_a_frame_of_ignored_pixels_is_a_frame_without_annotation(criterion):
    masks, valid = (torch.rand(1, 2, 8, 8) > 0.5).float(), torch.ones(2, 8, 8, dtype=torch.bool)
    valid[1] = False
    output = SegOutput(torch.randn(1, 1, 2, 8, 8))
    expected = criterion(output, [target(masks, [0], annotated=torch.tensor([True, False]))])
    for name, value in criterion(output, [target(masks, [0], valid)]).items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize(("old", "new"), [(352, 104), (352, 112), (256, 352), (7, 3), (3, 7), (352, 88), (5, 10)])
def test_truth_is_the_mean_over_the_area_of_a_pixel(old, new):
    """As if both were cut into as many parts as they have in common."""
    masks = (torch.rand(1, 1, old, 12) > 0.5).float()
    truth, _ = membership_maps([target(masks, [0])], torch.zeros(1, 1, 1, new, 12))
    parts = masks[0, 0].double().repeat_interleave(new, 0).unflatten(0, (new, old)).mean(1)
    torch.testing.assert_close(truth[0, 0, 0].double(), parts, rtol=0, atol=1e-6)
    turned, _ = membership_maps([target(masks.mT, [0])], torch.zeros(1, 1, 1, 12, new))
    assert torch.equal(turned, truth.mT)
    one = torch.zeros(1, 1, old, old)
    one[..., old // 2, old // 3] = 1
    truth, _ = membership_maps([target(one, [0])], torch.zeros(1, 1, 1, new, new))
    assert truth.sum().item() == pytest.approx((new / old) ** 2, rel=1e-5)


def test_outputs_that_are_no_maps_of_these_clips_are_refused():
    masks = torch.zeros(1, 2, 8, 8)
    with pytest.raises(ValueError, match="DenseCriterion needs one map for each class.*20 queries.*SetCriterion"):
        DenseCriterion()(SegOutput(torch.zeros(1, 20, 2, 8, 8), torch.zeros(1, 20, 2)), [target(masks, [0])])
    for logits in (torch.zeros(1, 1, 3, 8, 8), torch.zeros(2, 1, 2, 8, 8)):
        with pytest.raises(
            ValueError, match="the output is of . clips of . frames, the targets of 1 clips of 2 frames"
        ):
            DenseCriterion()(SegOutput(logits), [target(masks, [0])])


def test_autocast_changes_no_truth():
    masks = (torch.rand(1, 2, 96, 96) > 0.5).float()
    output = SegOutput(torch.randn(1, 1, 2, 40, 40))
    expected = DenseCriterion()(output, [target(masks, [0])])
    with torch.autocast("cpu", torch.bfloat16):
        assert DenseCriterion()(output, [target(masks, [0])]) == expected


def test_float64_stays_float64():
    masks = (torch.rand(1, 2, 8, 8) > 0.5).float()
    logits = torch.randn(1, 1, 2, 6, 6, dtype=torch.float64)
    exact = DenseCriterion()(SegOutput(logits), [target(masks, [0])])
    rounded = DenseCriterion()(SegOutput(logits.float()), [target(masks, [0])])
    for name, value in exact.items():
        assert value.dtype == torch.float64 and rounded[name].dtype == torch.float32
        assert 0 < abs(value - rounded[name].double()) < 1e-6


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
