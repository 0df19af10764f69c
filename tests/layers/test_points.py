"""Sampling at points against F.interpolate followed by grid_sample, in double precision."""

import pytest
import torch
import torch.nn.functional as F

from lgrnet.layers.points import sample_points, sample_upsampled, uncertain_points


def enlarge_and_sample(maps, points, scale):
    """The published way: the whole enlargement, then grid_sample."""
    large = F.interpolate(maps[:, None], scale_factor=scale, mode="bilinear", align_corners=False)
    grid = (2 * points - 1).expand(maps.shape[0], -1, -1)[:, None]
    return F.grid_sample(large, grid, align_corners=False)[:, 0, 0]


def random_points(rows, count, seed=0):
    """Points inside, beyond the borders, and exactly on corners, edges and pixel centres."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(rows, count, 2, generator=generator, dtype=torch.float64) * 1.2 - 0.1
    special = torch.tensor([0.0, 1.0, 0.5, 1 / 64, 63 / 64, 0.01, 0.99, 0.25], dtype=torch.float64)
    corners = torch.cartesian_prod(special, special).expand(rows, -1, -1)
    return torch.cat((points, corners), 1)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 2), (16, 24)])
@pytest.mark.parametrize("shared_points", [False, True])
def test_sampling_equals_enlarging_first(scale, size, shared_points):
    maps = torch.randn(3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    points = random_points(1 if shared_points else 3, 200)
    expected = enlarge_and_sample(maps, points, scale)
    ours = sample_upsampled(maps, points, scale)
    assert ours.shape == (3, points.shape[1])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)

    weight = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((ours * weight).sum(), maps)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), maps)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-11)


def test_gradients_are_those_of_finite_differences():
    maps = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    points = random_points(2, 9)
    assert torch.autograd.gradcheck(lambda m: sample_upsampled(m, points, 4), maps)


def test_points_outside_read_zero_and_the_centre_of_a_pixel_reads_it():
    maps = torch.arange(6.0).reshape(1, 2, 3) + 1
    points = torch.tensor([[[0.5, 0.25], [5 / 6, 0.75], [-0.5, 0.5], [0.5, 1.5]]])
    assert sample_points(maps, points).tolist() == [[2.0, 6.0, 0.0, 0.0]]


def test_no_enlargement_is_made(monkeypatch):
    monkeypatch.setattr(F, "interpolate", None)
    largest = []
    real = F.grid_sample

    def watched(images, grid, **arguments):
        largest.append(images.numel())
        return real(images, grid, **arguments)

    monkeypatch.setattr(F, "grid_sample", watched)
    for scale in (3, 4, 8):
        sample_upsampled(torch.randn(2, 8, 8), torch.rand(2, 5, 2), scale)
    assert largest == [2 * 8 * 8, 2 * 16 * 16, 2 * 16 * 16]


def test_half_precision_maps_are_read_with_full_precision_points():
    maps = torch.randn(2, 88, 88).bfloat16()
    points = torch.rand(2, 300, 2)
    values = sample_upsampled(maps, points, 4)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, enlarge_and_sample(maps.float(), points, 4), rtol=0, atol=1e-4)


def test_no_maps_give_no_values_but_keep_the_graph():
    maps = torch.randn(2, 4, 4, requires_grad=True)
    values = sample_upsampled(maps[:0], torch.rand(0, 7, 2), 4)
    assert values.shape == (0, 7)
    values.sum().backward()
    assert maps.grad.abs().max() == 0


def test_uncertain_points_are_those_nearest_to_zero():
    ramp = torch.linspace(-1, 1, 9).expand(1, 9, 9)  # the logit grows with x and is 0 in the middle
    candidates = torch.rand(1, 60, 2, generator=torch.Generator().manual_seed(3))
    candidates[..., 1] = 0.5  # away from the border, where the zeros outside pull every logit towards 0
    chosen = uncertain_points(ramp, candidates, 20, scale=1)
    distance = (candidates[0, :, 0] - 0.5).abs()
    assert chosen.shape == (1, 20, 2)
    assert (chosen[0, :, 0] - 0.5).abs().max() == distance.sort().values[19]


def test_unusable_candidates_come_last():
    candidates = torch.rand(2, 30, 2)
    usable = candidates[..., 0] > 0.5
    count = int(usable.sum(1).min())
    chosen = uncertain_points(torch.zeros(2, 4, 4), candidates, count, usable=usable)
    assert (chosen[..., 0] > 0.5).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_points(torch.zeros(2, 4, 4), torch.zeros(3, 5, 2)), r"maps \(2, 4, 4\) and points \(3, 5, 2\)"),
        (lambda: sample_points(torch.zeros(4, 4), torch.zeros(1, 5, 2)), "expected"),
        (lambda: sample_upsampled(torch.zeros(1, 4, 4), torch.zeros(1, 5, 2), 0), "scale is 0"),
        (lambda: uncertain_points(torch.zeros(1, 4, 4), torch.zeros(1, 5, 2), 6), "6 uncertain points of 5"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
