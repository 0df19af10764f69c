"""However inputs lie in memory, the CPU kernels read them right; of axes of one number torch may give any stride."""

from __future__ import annotations

import pytest
import torch

from lgrnet.ops import (
    cpu,
    depthwise_gelu,
    linear,
    ms_deform_attn,
    multi_head_attention,
    neighborhood_attention,
    selective_scan,
)

pytestmark = pytest.mark.skipif(cpu.missing() is not None, reason=f"compiled CPU kernels: {cpu.missing()}")


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def scan(batch, length, directions, rank, states, channels):
    order = torch.stack([torch.randperm(length, generator=torch.Generator().manual_seed(g)) for g in range(directions)])
    inputs = [normal(batch, length, channels)]
    inputs += [normal(batch, length, directions, n) for n in (rank, states, states)]
    inputs += [normal(directions, channels, rank), normal(directions, channels)]
    inputs += [-normal(directions, channels, states).abs(), normal(directions, channels)]
    return inputs, lambda *t: selective_scan(*t, order, backend="cpu")


def neighborhood(clips, frames, side, heads, channels):
    inputs = [normal(clips, frames, side * side, heads, channels) for _ in range(3)]
    return inputs, lambda *t: neighborhood_attention(*t, [(side, side)], window=3, backend="cpu")


def deform(clips, side, heads, channels):
    tokens, points = side * side, 2
    inputs = [normal(clips, tokens, heads, channels), normal(clips, 3, heads, 1, points, 2)]
    inputs += [normal(clips, 3, heads, points)]
    reference = torch.rand(clips, 3, 1, 2)
    return inputs, lambda *t: ms_deform_attn(*t, reference, [(side, side)], backend="cpu")


def depthwise(batch, height, width, channels):
    inputs = [normal(batch, height * width, channels), normal(channels, 1, 3, 3), normal(channels), normal(channels)]
    return inputs, lambda x, w, b, s: depthwise_gelu(x, w, b, (height, width), shift=s, backend="cpu")


def attention(batch, queries, keys, heads, channels):
    inputs = [normal(batch, n, heads * channels) for n in (queries, keys, keys)]
    return inputs, lambda *t: multi_head_attention(*t, heads, backend="cpu")


def product(rows, inputs, outputs):
    tensors = [normal(rows, inputs), normal(outputs, inputs), normal(outputs), normal(rows, outputs)]
    return tensors, lambda x, w, b, r: linear(x, w, b, residual=r, backend="cpu")


CASES = {
    "scan of one token": (scan, (3, 1, 2, 3, 4, 5)),
    "scan of one direction and clip": (scan, (1, 6, 1, 2, 3, 4)),
    "scan of ones": (scan, (2, 4, 2, 1, 1, 1)),
    "product": (product, (5, 6, 7)),
    "product of one row": (product, (1, 6, 7)),
    "product of one channel": (product, (5, 1, 1)),
    "neighborhood of one frame": (neighborhood, (2, 1, 4, 2, 3)),
    "neighborhood of one head": (neighborhood, (1, 3, 3, 1, 8)),
    "deform of one head": (deform, (2, 3, 1, 8)),
    "deform of one token": (deform, (3, 1, 2, 4)),
    "depthwise of one token": (depthwise, (3, 1, 1, 6)),
    "depthwise of one channel": (depthwise, (2, 3, 4, 1)),
    "attention of one query": (attention, (3, 1, 5, 2, 4)),
    "attention to one key": (attention, (3, 5, 1, 2, 4)),
    "attention of ones": (attention, (2, 3, 3, 1, 1)),
}


def lying(tensor, seed):
    """The same numbers with the axes in another order in memory."""
    order = torch.randperm(tensor.ndim, generator=torch.Generator().manual_seed(seed)).tolist()
    laid = tensor.permute(order).clone(memory_format=torch.contiguous_format)
    return laid.permute([order.index(axis) for axis in range(tensor.ndim)])


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_are_those_of_tensors_in_order(name):
    make, sizes = CASES[name]
    inputs, op = make(*sizes)
    differentiable = make not in (attention, product)
    plain = [t.clone().requires_grad_(differentiable) for t in inputs]
    expected = op(*plain)
    dout = normal(*expected.shape)
    gradients = torch.autograd.grad(expected, plain, dout) if differentiable else ()
    for seed in range(20):
        strange = [lying(t, seed + i).requires_grad_(differentiable) for i, t in enumerate(inputs)]
        got = op(*strange)
        assert torch.equal(got, expected)
        if differentiable:
            found = torch.autograd.grad(got, strange, lying(dout, seed))
            assert all(torch.equal(one, other) for one, other in zip(found, gradients, strict=True))
