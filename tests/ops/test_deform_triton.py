"""Deformable attention's Triton kernels: in Triton's interpreter on any machine, and on a GPU where there is one."""

from __future__ import annotations

import os

import pytest
import torch

from lgrnet.layers.deformable import token_centres
from lgrnet.ops import ms_deform_attn
from lgrnet.ops.backends import BackendError
from tests.ops.errors import relative
from tests.ops.own_process import assert_passes_in_interpreter
from tests.ops.test_deform import SHAPES, inputs

PYRAMID = ((11, 11), (22, 22), (44, 44))


def test_everything_in_tritons_interpreter():
    assert_passes_in_interpreter("interpreted_deform.py")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton interprets its kernels here")
def test_on_a_cpu_it_says_why_not():
    tensors = [t.float() for t in inputs()]
    with pytest.raises(BackendError, match="'triton' cannot be used because (it works on CUDA|triton cannot be)"):
        ms_deform_attn(*tensors, SHAPES, backend="triton")


def on_gpu(dtype=torch.float32, spread=1.5):
    """LGRNet's sizes for the kernels, and in float64 for the reference; `spread` of the offsets in pixels."""
    tensors = inputs(batch=2, queries=2541, heads=8, dim=8, points=4, shapes=PYRAMID)
    tensors[1] = tensors[1] / 1.5 * spread
    tensors[3] = token_centres(PYRAMID)[None, :, None].expand(-1, -1, 3, -1)
    low = [t.cuda().to(dtype) for t in tensors]
    return [t.requires_grad_() for t in low], [t.detach().double().requires_grad_() for t in low]


class TestOnGpu:
    """At the sizes of LGRNet."""

    pytestmark = [
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ]

    @pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
    @pytest.mark.parametrize("spread", [1.5, 20.0])
    def test_value_and_every_gradient(self, spread, dtype, tolerance):
        tensors, truth = on_gpu(dtype, spread)
        got = ms_deform_attn(*tensors, PYRAMID, backend="triton")
        expected = ms_deform_attn(*truth, PYRAMID, backend="reference")
        assert relative(got, expected) < tolerance
        weights = torch.randn(got.shape, device="cuda", generator=torch.Generator("cuda").manual_seed(0)).to(dtype)
        found = torch.autograd.grad((got * weights).sum(), tensors)
        true = torch.autograd.grad((expected * weights.double()).sum(), truth)
        assert relative(found[0], true[0]) < tolerance and relative(found[2], true[2]) < tolerance
        # The slope jumps where a place crosses a pixel's centre: a few of a million places round to the other side.
        apart = (found[1].double() - true[1]).abs() > tolerance * true[1].abs().max()
        assert apart.double().mean() < 1e-4

    def test_the_same_bits_each_time(self):
        tensors, _ = on_gpu()
        results = []
        for _ in range(3):
            out = ms_deform_attn(*tensors, PYRAMID, backend="triton")
            results.append([out, *torch.autograd.grad(out.square().sum(), tensors)])
        for again in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], again, strict=True))

    def test_a_cuda_graph_can_hold_it(self):
        tensors = [t.detach() for t in on_gpu()[0]]
        expected = ms_deform_attn(*tensors, PYRAMID, backend="triton")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = ms_deform_attn(*tensors, PYRAMID, backend="triton")
        got.zero_()
        graph.replay()
        assert torch.equal(got, expected)
