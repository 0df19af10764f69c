"""What torch may ask of ops that are its own (scan, neighborhood, deform, depthwise) besides a plain backward pass."""

from __future__ import annotations

import pytest
import torch

from lgrnet.ops import cpu, depthwise_gelu, ms_deform_attn, neighborhood_attention, selective_scan
from lgrnet.ops.backends import BackendError

compiled = pytest.mark.skipif(cpu.missing() is not None, reason=f"compiled CPU kernels: {cpu.missing()}")
LEVELS = ((4, 5), (2, 3))
ORDER = torch.tensor([[0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4]])
OPS = {  # the op of its differentiable inputs, and their shapes
    "scan": (
        lambda *t, **more: selective_scan(*t[:6], -t[6].abs(), t[7], ORDER.to(t[0].device), **more),
        [(2, 6, 4), (2, 6, 2, 2), (2, 6, 2, 3), (2, 6, 2, 3), (2, 4, 2), (2, 4), (2, 4, 3), (2, 4)],
    ),
    "neighborhood": (
        lambda q, k, v, **more: neighborhood_attention(q, k, v, LEVELS, 3, **more),
        [(1, 2, 26, 2, 4)] * 3,
    ),
    "deform": (
        lambda value, offsets, logits, **more: ms_deform_attn(
            value, offsets, logits, torch.full((1, 3, 2, 2), 0.4, device=value.device), LEVELS, **more
        ),
        [(2, 26, 2, 4), (2, 3, 2, 2, 2, 2), (2, 3, 2, 4)],
    ),
    "depthwise": (
        lambda x, weight, bias, **more: depthwise_gelu(x, weight, bias, (4, 5), **more),
        [(2, 20, 3), (3, 1, 3, 3), (3,)],
    ),
}


@pytest.fixture(params=OPS)
def case(request):
    op, shapes = OPS[request.param]
    generator = torch.Generator().manual_seed(0)
    return op, [torch.randn(shape, generator=generator) for shape in shapes]


def test_torch_func_takes_the_reference(case):
    op, tensors = case
    many = [torch.stack((t, t / 2)) for t in tensors]
    for transform in (
        lambda f: torch.func.grad(lambda *t: f(*t).square().sum(), tuple(range(len(tensors))))(*tensors),
        lambda f: (torch.func.vjp(f, *tensors)[0],),
        lambda f: (torch.func.vmap(f)(*many),),
    ):
        found, expected = transform(op), transform(lambda *t: op(*t, backend="reference"))
        for one, same in zip(found, expected, strict=True):
            torch.testing.assert_close(one, same)


def test_gradients_through_vmap(case):
    op, tensors = case
    leaves = [torch.stack((t, t / 2)).requires_grad_() for t in tensors]
    torch.func.vmap(op)(*leaves).square().sum().backward()
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in leaves)


@compiled
def test_forward_mode_is_that_of_the_reference_or_an_error(case):
    op, tensors = case
    tangents = [torch.ones_like(t) for t in tensors]
    try:
        _, expected = torch.func.jvp(lambda *t: op(*t, backend="reference"), tuple(tensors), tuple(tangents))
    except NotImplementedError:  # torch's grid_sample has none
        with pytest.raises(NotImplementedError):
            torch.func.jvp(op, tuple(tensors), tuple(tangents))
    else:
        _, found = torch.func.jvp(op, tuple(tensors), tuple(tangents))
        torch.testing.assert_close(found, expected)
    with pytest.raises(BackendError, match="does not know torch.func or forward mode; choose auto or reference"):
        torch.func.jvp(lambda *t: op(*t, backend="cpu"), tuple(tensors), tuple(tangents))


@compiled
def test_second_derivatives_are_refused_wherever_they_are_asked_for(case):
    op, tensors = case
    leaves = [t.requires_grad_() for t in tensors]
    y = op(*leaves, backend="cpu").square().sum() + (leaves[0] ** 3).sum()
    with pytest.raises(RuntimeError, match="no second derivatives; choose backend='reference'"):
        torch.autograd.grad(y, leaves[0], create_graph=True)


@compiled
def test_many_gradients_at_once(case):
    op, tensors = case
    leaves = [t.requires_grad_() for t in tensors]
    out = op(*leaves, backend="cpu")
    several = torch.stack((torch.ones_like(out), torch.randn(out.shape, generator=torch.Generator().manual_seed(1))))
    found = torch.autograd.grad(out, leaves, several, is_grads_batched=True, retain_graph=True)
    for i, dout in enumerate(several):
        for one, same in zip(found, torch.autograd.grad(out, leaves, dout, retain_graph=True), strict=True):
            torch.testing.assert_close(one[i], same)


@compiled
def test_hooks_may_lay_saved_tensors_out_otherwise(case):
    op, tensors = case

    def turned(t):
        return t if t.ndim < 2 else t.transpose(0, -1).contiguous().transpose(0, -1)

    leaves = [t.requires_grad_() for t in tensors]
    expected = torch.autograd.grad(op(*leaves, backend="cpu").square().sum(), leaves)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, turned):
        out = op(*leaves, backend="cpu")
    found = torch.autograd.grad(out.square().sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_type_under_autocast_is_that_of_the_inputs(case, backend):
    op, tensors = case
    with torch.autocast("cpu", torch.bfloat16):
        assert op(*tensors, backend=backend).dtype == torch.float32


def test_meta_tensors_tell_the_shape(case):
    op, tensors = case
    assert op(*(t.to("meta") for t in tensors)).shape == op(*tensors).shape
