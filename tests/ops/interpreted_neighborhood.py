"""Neighborhood attention's Triton kernels in Triton's interpreter; test_neighborhood_triton.py runs this file there.

The interpreter works element by element, so everything is tiny.
"""

from __future__ import annotations

import pytest
import torch

from lgrnet.ops import neighborhood_attention
from lgrnet.ops.neighborhood import triton_kernels as kernels
from lgrnet.ops.neighborhood.reference import neighborhood_attention_reference
from tests.ops.errors import relative
from tests.ops.test_neighborhood import draw

CASES = {
    # shapes, window, dilation, frames, frame_shift, heads, channels
    "levels shorter than the window": (((2, 3), (4, 6)), 5, 1, 2, 1, 2, 4),
    "the middle and every border": (((9, 8),), 3, 1, 1, 0, 1, 2),
    "dilation, odd sizes, heads and channels": (((3, 3), (7, 5)), 3, 2, 2, 1, 3, 3),
    "dilation on a level shorter than it needs": (((2, 5),), 3, 2, 1, 1, 1, 2),
    "three frames back": (((4, 4),), 3, 1, 4, 3, 1, 8),
    "a clip of one frame": (((5, 4),), 3, 1, 1, 1, 2, 2),
    "further back than the clip is long": (((2, 3),), 3, 1, 2, 5, 1, 2),
    "one token": (((1, 1),), 5, 1, 2, 0, 1, 1),
    "more heads than a program takes": (((2, 2),), 1, 1, 1, 0, 3, 256),
}


def both(shapes, frames, heads, channels, dtype=torch.float32, clips=1):
    """The same values for the kernels and, in float64, for the reference."""
    tokens = sum(h * w for h, w in shapes)
    low = [draw(clips, frames, tokens, heads, channels, seed=i).to(dtype) for i in range(3)]
    return [t.requires_grad_() for t in low], [t.detach().double().requires_grad_() for t in low]


def compare(tensors, truth, case, tolerances=(2e-6, 1e-5)):
    """Value and every gradient against the reference in float64."""
    got = neighborhood_attention(*tensors, *case, backend="triton")
    expected = neighborhood_attention_reference(*truth, *case)
    assert got.dtype == tensors[0].dtype and relative(got, expected) < tolerances[0]
    weights = draw(*got.shape, seed=9)
    found = torch.autograd.grad((got * weights.to(got.dtype)).sum(), tensors)
    true = torch.autograd.grad((expected * weights.to(got.dtype).double()).sum(), truth)
    for one, exact, tensor in zip(found, true, tensors, strict=True):
        assert one.dtype == tensor.dtype and relative(one, exact) < tolerances[1]


@pytest.mark.parametrize("name", CASES)
def test_value_and_every_gradient(name):
    shapes, window, dilation, frames, shift, heads, channels = CASES[name]
    compare(*both(shapes, frames, heads, channels), (shapes, window, dilation, shift))


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_half_precision_comes_and_goes_with_float32_inside(dtype, tolerance):
    compare(*both(((3, 4),), 2, 1, 8, dtype), (((3, 4),), 3, 1, 1), (tolerance, 2 * tolerance))


def test_halves_of_one_projection_are_read_where_they_are():
    shapes = ((3, 4),)
    (q, *_), (q64, *_) = both(shapes, 1, 2, 4, clips=2)
    whole = draw(2, 1, 12, 2, 2, 4, seed=7).float()
    k, v = (t.requires_grad_() for t in whole.clone().unbind(3))
    assert kernels._rows(k) is k and not k.is_contiguous()
    compare([q, k, v], [q64, *(t.double().requires_grad_() for t in whole.unbind(3))], (shapes, 3, 1, 1))


def test_inputs_that_are_not_contiguous():
    shapes = ((3, 3),)
    tensors, truth = both(shapes, 2, 2, 4)
    crooked = [t.detach().transpose(2, 4).contiguous().transpose(2, 4).requires_grad_() for t in tensors]
    compare(crooked, truth, (shapes, 3, 1, 1))


@pytest.mark.parametrize("token", [0, 3])
@pytest.mark.parametrize("which", ["q", "k", "v", "dout"])
def test_not_a_number_reaches_who_looks_at_it_and_nobody_else(which, token):
    """Two rows of queries share the rows of keys that either sees."""
    q, k, v = (t.detach() for t in both(((7, 1),), 2, 1, 2)[0])
    tensors = {"q": q, "k": k, "v": v, "dout": torch.ones_like(q)}
    tensors[which][0, 0, token, 0, 0] = float("nan")
    found = []
    for attend in (neighborhood_attention, neighborhood_attention_reference):
        leaves = [t.clone().requires_grad_() for t in (q, k, v)]
        out = attend(*leaves, ((7, 1),), 3, 1, 1, **({"backend": "triton"} if attend is neighborhood_attention else {}))
        found.append([out, *torch.autograd.grad(out, leaves, tensors["dout"])])
    assert any(t.isnan().any() for t in found[0])
    for got, expected in zip(*found, strict=True):
        assert torch.equal(got.isnan().any(-1), expected.isnan().any(-1))


def test_logits_of_any_size():
    q = torch.tensor([1e4, -1e4, 1e-30]).view(1, 1, 3, 1, 1)
    k = torch.tensor([1e4, 1.0, -1e4]).view(1, 1, 3, 1, 1)
    v = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 3, 1, 1)
    out = neighborhood_attention(q, k, v, ((1, 3),), 3, backend="triton")
    torch.testing.assert_close(out, neighborhood_attention_reference(q, k, v, ((1, 3),), 3, 1, 1))


@pytest.mark.parametrize("clips, heads", [(0, 2), (1, 0)])
def test_nothing_gives_nothing(clips, heads):
    tensors, _ = both(((2, 2),), 2, heads, 4, clips=clips)
    out = neighborhood_attention(*tensors, ((2, 2),), 3, backend="triton")
    out.sum().backward()
    assert out.shape == tensors[0].shape and all(t.grad.shape == t.shape for t in tensors)


def test_without_gradients_nothing_is_kept():
    tensors, _ = both(((2, 2),), 1, 1, 2)
    arguments = ([2, 2], 3, 1, 0)
    assert kernels.neighborhood_forward(*(t.detach() for t in tensors), *arguments, False)[1].numel() == 0
    out = neighborhood_attention(*(t.detach() for t in tensors), ((2, 2),), 3, backend="triton")
    assert not out.requires_grad


def test_the_ops_keep_torchs_rules():
    q, k, v = (t.detach() for t in both(((2, 2),), 1, 1, 2)[0])
    arguments, tests = ([2, 2], 3, 1, 0), ("test_schema", "test_faketensor")
    torch.library.opcheck(kernels.neighborhood_forward, (q, k, v, *arguments, True), test_utils=tests)
    out, lse = kernels.neighborhood_forward(q, k, v, *arguments, True)
    torch.library.opcheck(kernels.neighborhood_backward, (q, k, v, out, lse, q, *arguments), test_utils=tests)
