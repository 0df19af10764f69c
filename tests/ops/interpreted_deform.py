"""Deformable attention's Triton kernels in Triton's interpreter; test_deform_triton.py runs this file there.

The interpreter works element by element, so everything is tiny.
"""

from __future__ import annotations

import pytest
import torch

from lgrnet.ops import ms_deform_attn
from lgrnet.ops.deform import triton_kernels as kernels
from lgrnet.ops.deform.reference import ms_deform_attn_reference
from tests.ops.errors import relative
from tests.ops.test_deform import SHAPES, inputs

THREE = ((9, 11), (5, 6), (3, 3))
CASES = {
    "two levels, odd sizes": {},
    "one query": {"queries": 1},
    "one of everything": {"batch": 1, "shapes": ((1, 1),), "points": 1, "dim": 1, "heads": 1},
    "LGRNet's heads, channels and points": {"shapes": THREE, "heads": 8, "dim": 8, "points": 4, "batch": 1},
    "padded points and channels": {"shapes": THREE, "heads": 2, "dim": 9, "points": 7, "queries": 3, "batch": 1},
    "tiles in both directions": {"shapes": ((20, 13),), "heads": 1, "dim": 16, "points": 2, "queries": 9, "batch": 1},
    "more channels than a tile": {"shapes": ((2, 2),), "heads": 1, "dim": 70, "points": 1, "queries": 2, "batch": 1},
    "more boxes than are seen at once": {
        "shapes": ((5, 6),), "heads": 1, "dim": 1, "points": 1, "queries": 1100, "batch": 1,
    },
    "more points than under a box": {
        "shapes": ((4, 5),), "heads": 1, "dim": 3, "points": 70, "queries": 3, "batch": 1,
    },
}  # fmt: skip


def both(sizes, dtype=torch.float32, batch_of_references=False):
    """The same values for the kernels and, in float64, for the reference."""
    tensors = inputs(**sizes)
    if batch_of_references:
        tensors[3] = tensors[3].repeat(len(tensors[0]), 1, 1, 1)
    low = [t.to(dtype) for t in tensors]
    return [t.requires_grad_() for t in low], [t.detach().double().requires_grad_() for t in low]


def compare(tensors, truth, shapes, tolerances=(2e-6, 1e-5)):
    """Value and every gradient against the reference in float64."""
    got = ms_deform_attn(*tensors, shapes, backend="triton")
    expected = ms_deform_attn_reference(*truth, shapes)
    assert got.dtype == tensors[0].dtype and relative(got, expected) < tolerances[0]
    weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(1)).to(got.dtype)
    found = torch.autograd.grad((got * weights).sum(), tensors)
    true = torch.autograd.grad((expected * weights.double()).sum(), truth)
    for one, exact, tensor in zip(found, true, tensors, strict=True):
        assert one.dtype == tensor.dtype and relative(one, exact) < tolerances[1]


@pytest.mark.parametrize("name", CASES)
def test_value_and_every_gradient(name):
    compare(*both(CASES[name]), CASES[name].get("shapes", SHAPES))


def test_reference_points_of_each_clip():
    compare(*both({}, batch_of_references=True), SHAPES)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_half_precision_comes_and_goes_with_float32_inside(dtype, tolerance):
    compare(*both({"dim": 8, "points": 4, "batch": 1}, dtype), SHAPES, (tolerance, tolerance))


def test_types_may_differ():
    tensors, truth = both({"batch": 1})
    value = tensors[0].detach().bfloat16()
    tensors[0], truth[0] = value.requires_grad_(), value.detach().double().requires_grad_()
    compare(tensors, truth, SHAPES, (1e-2, 2e-2))


@pytest.mark.parametrize("where", [-1e30, -1.25, 6.25, 1e30])
def test_samples_outside_are_zero_and_have_no_gradient(where):
    value, offsets, logits, reference = both({"batch": 1, "queries": 2})[0]
    offsets = (torch.zeros_like(offsets) + where).requires_grad_()
    out = ms_deform_attn(value, offsets, logits, reference.detach() * 0, SHAPES, backend="triton")
    assert not out.any()
    out.sum().backward()
    assert not offsets.grad.any() and not value.grad.any() and not logits.grad.any()


def test_the_last_pixels_of_a_map_count():
    value = torch.ones(1, 6, 1, 8)
    at = torch.tensor([[-0.5, 0.5], [2.5, 0.0], [1.5, 1.75], [0.0, -0.25]]).view(1, 4, 1, 1, 1, 2)
    zeros = torch.zeros(1, 4, 1, 1), torch.zeros(1, 4, 1, 2)
    out = ms_deform_attn(value, at, *zeros, ((2, 3),), backend="triton")
    assert out[0, :, 0].tolist() == [0.0, 0.5, 0.75, 0.125]


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_not_a_number_reaches_the_output_and_nothing_else(which):
    tensors = [t.detach() for t in both({})[0]]
    tensors[which].view(-1)[0] = float("nan")
    out = ms_deform_attn(*tensors, SHAPES, backend="triton")
    spoilt = out.isnan()
    assert spoilt.any() and not spoilt.all()
    if which:
        assert not spoilt[:, 1:].any(), "another query"
        clean = ms_deform_attn(*(t.nan_to_num(0.3) for t in tensors), SHAPES, backend="triton")
        assert torch.equal(out[~spoilt], clean[~spoilt])


@pytest.mark.parametrize("sizes", [{"batch": 0}, {"queries": 0}, {"points": 0}])
def test_nothing_gives_nothing(sizes):
    tensors, _ = both(sizes)
    out = ms_deform_attn(*tensors, SHAPES, backend="triton")
    assert out.shape == (len(tensors[0]), tensors[1].shape[1], 6) and not out.any()
    out.sum().backward()
    assert all(t.grad is None or not t.grad.any() for t in tensors)


def test_inputs_that_are_not_contiguous():
    tensors, truth = both({"batch": 1})
    crooked = [t.detach().transpose(1, -1).contiguous().transpose(1, -1).requires_grad_() for t in tensors]
    compare(crooked, truth, SHAPES)


def test_the_ops_keep_torchs_rules():
    tensors = [t.detach() for t in both({"batch": 1, "queries": 1})[0]]
    sides, tests = [side for shape in SHAPES for side in shape], ("test_schema", "test_faketensor")
    torch.library.opcheck(kernels.deform_forward, (*tensors, sides), test_utils=tests)
    torch.library.opcheck(kernels.deform_backward, (*tensors, torch.ones(1, 1, 6), sides), test_utils=tests)
