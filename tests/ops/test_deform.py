"""Multi-scale deformable attention: against its definition written out, and its gradients."""

import math

import pytest
import torch

from lgrnet.ops import ms_deform_attn

SHAPES = ((2, 3), (4, 5))


def inputs(batch=2, queries=4, heads=2, dim=3, points=3, shapes=SHAPES):
    generator = torch.Generator().manual_seed(queries)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tokens, levels = sum(h * w for h, w in shapes), len(shapes)
    return [
        normal(batch, tokens, heads, dim),
        normal(batch, queries, heads, levels, points, 2) * 1.5,
        normal(batch, queries, heads, levels * points),
        normal(1, queries, levels, 2).sigmoid(),
    ]


def written_out(value, offsets, weight_logits, reference, shapes):
    batch, queries, heads, levels, points, _ = offsets.shape
    weights = weight_logits.softmax(-1).reshape(batch, queries, heads, levels, points)
    reference = reference.expand(batch, -1, -1, -1)
    out = torch.zeros(batch, queries, heads, value.shape[-1], dtype=value.dtype)
    start = 0
    for level, (height, width) in enumerate(shapes):
        for b in range(batch):
            for q in range(queries):
                for h in range(heads):
                    for p in range(points):
                        x = (reference[b, q, level, 0] * width + offsets[b, q, h, level, p, 0]).item() - 0.5
                        y = (reference[b, q, level, 1] * height + offsets[b, q, h, level, p, 1]).item() - 0.5
                        for j in (math.floor(y), math.floor(y) + 1):
                            for i in (math.floor(x), math.floor(x) + 1):
                                if 0 <= j < height and 0 <= i < width:
                                    share = (1 - abs(y - j)) * (1 - abs(x - i)) * weights[b, q, h, level, p]
                                    out[b, q, h] += share * value[b, start + j * width + i, h]
        start += height * width
    return out.flatten(2)


@pytest.mark.parametrize("sizes", [{}, {"queries": 1}, {"batch": 1, "shapes": ((1, 1),)}, {"points": 1, "dim": 1}])
def test_value(sizes):
    arguments, shapes = inputs(**sizes), sizes.get("shapes", SHAPES)
    expected = written_out(*arguments, shapes)
    torch.testing.assert_close(ms_deform_attn(*arguments, shapes), expected, rtol=1e-10, atol=1e-12)


def test_reference_points_of_each_clip():
    value, offsets, weights, reference = inputs()
    each = ms_deform_attn(value, offsets, weights, reference.expand(2, -1, -1, -1), SHAPES)
    assert torch.equal(each, ms_deform_attn(value, offsets, weights, reference, SHAPES))


def test_every_gradient():
    tensors = [t.requires_grad_() for t in inputs(batch=1, queries=3, points=2)]
    assert torch.autograd.gradcheck(lambda *t: ms_deform_attn(*t, SHAPES), tensors)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("heads, queries, levels", [(0, 7, 2), (2, 0, 2), (2, 7, 0), (2, 7, 3)])
def test_nothing_gives_nothing_and_levels_may_be_empty(heads, queries, levels, backend):
    shapes = ((4, 5), (2, 3), (0, 4))[:levels]
    value = torch.randn(2, sum(h * w for h, w in shapes), heads, 5)
    offsets, logits = torch.randn(2, queries, heads, levels, 3, 2), torch.randn(2, queries, heads, levels * 3)
    out = ms_deform_attn(value, offsets, logits, torch.rand(2, queries, levels, 2), shapes, backend=backend)
    assert out.shape == (2, queries, heads * 5) and bool(out.any()) == (heads * queries * levels > 0)


def test_bad_input():
    value, offsets, weights, reference = inputs()
    with pytest.raises(ValueError, match="value has shape .* expected"):
        ms_deform_attn(value[:, 1:], offsets, weights, reference, SHAPES)
    with pytest.raises(ValueError, match="weight_logits has shape"):
        ms_deform_attn(value, offsets, weights[..., 1:], reference, SHAPES)
    with pytest.raises(ValueError, match="reference has shape"):
        ms_deform_attn(value, offsets, weights, reference[:, :, :1], SHAPES)
    with pytest.raises(ValueError, match="expected \\[B, S, heads, d\\]"):
        ms_deform_attn(value[0], offsets, weights, reference, SHAPES)
    with pytest.raises(ValueError, match="expected no side below 0"):
        ms_deform_attn(value, offsets, weights, reference, ((-1, -4),))
    with pytest.raises(ValueError, match="one of .*reference"):
        ms_deform_attn(value, offsets, weights, reference, SHAPES, backend="abacus")
