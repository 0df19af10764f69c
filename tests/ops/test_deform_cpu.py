"""The compiled deformable attention against the reference in float64: value, every gradient, borders and bad input."""

from __future__ import annotations

import pytest
import torch

from lgrnet.ops import cpu, ms_deform_attn
from lgrnet.ops.deform.cpu import deform_forward, ms_deform_attn_cpu
from lgrnet.ops.deform.reference import ms_deform_attn_reference
from tests.ops.errors import relative
from tests.ops.test_deform import SHAPES, inputs

pytestmark = pytest.mark.skipif(cpu.missing() is not None, reason=f"compiled CPU kernels: {cpu.missing()}")

THREE = ((9, 11), (5, 6), (3, 3))
SIZES = [
    {},
    {"queries": 1},
    {"batch": 1, "shapes": ((1, 1),), "points": 1, "dim": 1, "heads": 1},
    {"shapes": THREE, "heads": 8, "dim": 8, "points": 4, "queries": 17},
    {"shapes": THREE, "heads": 2, "dim": 8, "points": 1, "queries": 5},
    {"shapes": THREE, "heads": 3, "dim": 16, "points": 2, "queries": 9},
    {"shapes": THREE, "heads": 2, "dim": 21, "points": 7, "queries": 6},
]


def both(sizes, dtype=torch.float32, batch_of_references=False):
    tensors = inputs(**sizes)
    if batch_of_references:
        tensors[3] = tensors[3].repeat(len(tensors[0]), 1, 1, 1)
    low = [t.to(dtype) for t in tensors]
    return [t.requires_grad_() for t in low], [t.detach().double().requires_grad_() for t in low]


@pytest.mark.parametrize("batch_of_references", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_value_and_every_gradient(sizes, batch_of_references):
    tensors, truth = both(sizes, batch_of_references=batch_of_references)
    shapes = sizes.get("shapes", SHAPES)
    got, expected = ms_deform_attn_cpu(*tensors, shapes), ms_deform_attn_reference(*truth, shapes)
    assert relative(got, expected) < 2e-6
    weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((got * weights).sum(), tensors)
    for found, true in zip(gradients, torch.autograd.grad((expected * weights).sum(), truth), strict=True):
        assert relative(found, true) < 1e-5


@pytest.mark.parametrize("where", [-1e30, -50.0, -1.25, 6.25, 50.0, 1e30])
def test_samples_outside_are_zero_and_have_no_gradient(where):
    value, offsets, logits, reference = both({})[0]
    offsets = (torch.zeros_like(offsets) + where).requires_grad_()
    out = ms_deform_attn_cpu(value, offsets, logits, reference.detach() * 0, SHAPES)
    assert not out.any()
    out.sum().backward()
    assert not offsets.grad.any() and not value.grad.any() and not logits.grad.any()


@pytest.mark.parametrize("axis", [0, 1])
def test_one_pixel_before_the_map_the_slope_is_that_of_grid_sample(axis):
    """A kink: whole offsets from pixel centres meet it."""
    shapes = ((1, 4), (4, 1))[axis]
    value = torch.arange(1.0, 5.0).view(1, 4, 1, 1)
    found = []
    for backend in ("cpu", "reference"):
        offsets = torch.zeros(1, 1, 1, 1, 1, 2)
        offsets[..., axis] = -1
        center = torch.tensor([0.5 / shapes[1], 0.5 / shapes[0]]).view(1, 1, 1, 2)
        out = ms_deform_attn(
            value, offsets.requires_grad_(), torch.zeros(1, 1, 1, 1), center, (shapes,), backend=backend
        )
        found.append(torch.autograd.grad(out.sum(), offsets)[0])
    assert torch.equal(*found) and found[0].any()


@pytest.mark.parametrize("where", [-1000.0, -1.5, 5.5, 1000.0])
def test_what_is_outside_sees_no_infinity_inside(where):
    value = torch.full((1, 6, 1, 8), torch.inf)
    offsets = torch.full((1, 1, 1, 1, 1, 2), where)
    out = ms_deform_attn(value, offsets, torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 2), ((2, 3),), backend="cpu")
    assert torch.equal(out, torch.zeros(1, 1, 8))


def test_the_last_pixels_of_a_map_count():
    value = torch.ones(1, 6, 1, 8)
    at = torch.tensor([[-0.5, 0.5], [2.5, 0.0], [1.5, 1.75], [0.0, -0.25]])
    out = ms_deform_attn(
        value, at.view(1, 4, 1, 1, 1, 2), torch.zeros(1, 4, 1, 1), torch.zeros(1, 4, 1, 2), ((2, 3),), backend="cpu"
    )
    assert out[0, :, 0].tolist() == [0.0, 0.5, 0.75, 0.125]


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_half_precision_comes_and_goes_with_float32_inside(dtype, tolerance):
    tensors, truth = both(SIZES[3], dtype)
    got = ms_deform_attn_cpu(*tensors, THREE)
    assert got.dtype == dtype
    assert relative(got, ms_deform_attn_reference(*truth, THREE)) < tolerance
    got.float().sum().backward()
    assert all(t.grad.dtype == dtype and t.grad.isfinite().all() for t in tensors)


def test_the_number_of_threads_changes_no_bit():
    tensors, _ = both(SIZES[3])
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            out = ms_deform_attn_cpu(*tensors, THREE)
            results.append([out, *torch.autograd.grad(out.square().sum(), tensors)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_not_a_number_reaches_the_output_and_nothing_else(which):
    tensors = [t.detach() for t in both(SIZES[3])[0]]
    tensors[which].view(-1)[0] = float("nan")
    with torch.no_grad():
        out = ms_deform_attn_cpu(*tensors, THREE)
    clean = ms_deform_attn_cpu(*(t.nan_to_num(0.3) for t in tensors), THREE)
    spoilt = out.isnan()
    assert spoilt.any() and not spoilt.all()
    if which:
        assert not spoilt[:, 1:].any(), "another query"
    assert torch.equal(out[~spoilt], clean[~spoilt]) or which == 0


@pytest.mark.parametrize("sizes", [{"batch": 0}, {"queries": 0}, {"points": 0}])
def test_nothing_gives_nothing(sizes):
    tensors, _ = both(sizes)
    out = ms_deform_attn_cpu(*tensors, SHAPES)
    assert out.shape == (len(tensors[0]), tensors[1].shape[1], 6) and not out.any()
    out.sum().backward()
    assert all(t.grad is None or not t.grad.any() for t in tensors)


def test_inputs_that_are_not_contiguous():
    tensors, truth = both(SIZES[3])
    crooked = [t.detach().transpose(1, -1).contiguous().transpose(1, -1) for t in tensors]
    assert relative(ms_deform_attn_cpu(*crooked, THREE), ms_deform_attn_reference(*truth, THREE)) < 2e-6


def test_the_op_keeps_torchs_rules():
    tensors, _ = both({})
    sides = [side for shape in SHAPES for side in shape]
    torch.library.opcheck(deform_forward, (*tensors, sides), test_utils=("test_schema", "test_faketensor"))
