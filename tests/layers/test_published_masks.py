"""The published mask rule against the same steps taken on the whole tensor at once."""

import pytest
import torch
import torch.nn.functional as F

from lgrnet.layers.mask_head import decided_by_logit, published_masks


def _logits(queries=3, frames=4, height=12, width=9):
    return torch.randn(queries, frames, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("disk_size", [(100, 140), (48, 36), (17, 11), (41, 33), (1, 1)])
def test_masks_equal_the_rule_taken_literally(disk_size):
    logits = _logits()
    full = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False) > 0
    expected = F.interpolate(full[..., :41, :33].float(), size=disk_size, mode="nearest") > 0
    masks = published_masks(logits, valid_size=(41, 33), disk_size=disk_size)
    assert masks.dtype == torch.bool
    assert torch.equal(masks, expected)


def test_nearest_reads_the_floor_of_the_source_position():
    logits = torch.full((1, 1, 1, 4), -1.0)
    logits[..., 2] = 1.0
    masks = published_masks(logits, valid_size=(1, 4), disk_size=(1, 7), scale=1)
    columns = [int(i * 4 / 7) == 2 for i in range(7)]
    assert masks[0, 0, 0].tolist() == columns


def test_padding_is_cut_before_the_way_to_disk():
    logits = torch.full((1, 1, 8, 8), -5.0)
    logits[..., 4:, :] = 5.0
    masks = published_masks(logits, valid_size=(14, 32), disk_size=(28, 64))
    assert not masks.any()


def test_zero_is_background():
    assert not published_masks(torch.zeros(1, 2, 4, 4), (16, 16), (16, 16)).any()
    assert decided_by_logit(torch.zeros(1, 2, 4, 4), (16, 16), (16, 16))[0].unique().tolist() == [127]


def test_maps_agree_with_masks_where_no_second_resize_is_needed():
    logits = _logits() * 4
    maps = decided_by_logit(logits, (48, 36), (48, 36))[0]
    assert maps.dtype == torch.uint8
    assert torch.equal(maps > 127, published_masks(logits, (48, 36), (48, 36)))
    assert torch.equal(maps > 127, decided_by_logit(logits, (48, 36), (48, 36))[1])


def test_maps_are_the_sigmoid_at_disk_size():
    logits = _logits(1, 2, 4, 4)
    large = F.interpolate(logits, size=(16, 16), mode="bilinear")
    expected = F.interpolate(large, size=(23, 9), mode="bilinear").sigmoid() * 255
    assert (decided_by_logit(logits, (16, 16), (23, 9))[0].float() - expected).abs().max() <= 0.501


def test_half_precision_logits_are_enlarged_in_single_precision():
    logits = _logits().bfloat16()
    assert torch.equal(published_masks(logits, (48, 36), (50, 50)), published_masks(logits.float(), (48, 36), (50, 50)))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="cover only 16 x 16"):
        published_masks(torch.zeros(1, 1, 4, 4), (17, 16), (10, 10))
    with pytest.raises(ValueError, match=r"expected \[Q, T, h, w\]"):
        decided_by_logit(torch.zeros(1, 4, 4), (16, 16), (10, 10))[0]
