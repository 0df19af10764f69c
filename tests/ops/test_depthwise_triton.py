"""Depthwise convolution's Triton kernels: in Triton's interpreter on any machine, and on a GPU where there is one."""

from __future__ import annotations

import os

import pytest
import torch

from lgrnet.ops import depthwise_gelu
from lgrnet.ops.backends import BackendError
from tests.ops.errors import relative
from tests.ops.own_process import assert_passes_in_interpreter
from tests.ops.test_depthwise import inputs

STAGES = [(88, 512), (44, 1024), (22, 1280), (11, 2048)]
"""Side of the map and hidden channels of PVTv2-B2 at 352 pixels."""


def test_everything_in_tritons_interpreter():
    assert_passes_in_interpreter("interpreted_depthwise.py")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton interprets its kernels here")
def test_on_a_cpu_it_says_why_not():
    tensors = inputs(1, 2, 2, 2, torch.float32)
    with pytest.raises(BackendError, match="'triton' cannot be used because (it works on CUDA|triton cannot be)"):
        depthwise_gelu(*tensors, (2, 2), backend="triton")


def on_gpu(side, channels, dtype=torch.float32, batch=6):
    """Tokens, weight and bias for the kernels, and in float64 for the reference."""
    low = [t.cuda().to(dtype) for t in inputs(batch, side, side, channels)]
    return [t.requires_grad_() for t in low], [t.detach().double().requires_grad_() for t in low]


class TestOnGpu:
    """At the sizes of PVTv2-B2."""

    pytestmark = [
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ]

    @pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
    @pytest.mark.parametrize("side, channels", [*STAGES, (13, 70)])
    def test_value_and_every_gradient(self, side, channels, dtype, tolerance):
        tensors, truth = on_gpu(side, channels, dtype)
        got = depthwise_gelu(*tensors, (side, side), backend="triton")
        expected = depthwise_gelu(*truth, (side, side), backend="reference")
        assert got.dtype == dtype and relative(got, expected) < tolerance
        dout = torch.randn(got.shape, device="cuda", generator=torch.Generator("cuda").manual_seed(0)).to(dtype)
        found = torch.autograd.grad(got, tensors, dout)
        for one, exact in zip(found, torch.autograd.grad(expected, truth, dout.double()), strict=True):
            assert relative(one, exact) < tolerance

    def test_the_same_bits_each_time(self):
        tensors, _ = on_gpu(*STAGES[0])
        results = []
        for _ in range(3):
            out = depthwise_gelu(*tensors, (88, 88), backend="triton")
            results.append([out, *torch.autograd.grad(out.square().sum(), tensors)])
        for again in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], again, strict=True))

    def test_offsets_beyond_two_gigabytes(self):
        images = 600  # more than 2 ** 31 numbers
        weight, bias = (t.cuda().bfloat16().requires_grad_() for t in inputs(0, 1, 1, 512)[1:])
        x = torch.randn(images, 88 * 88, 512, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        out = depthwise_gelu(x, weight, bias, (88, 88), backend="triton")
        last = x.detach()[-1:].requires_grad_()
        alone = depthwise_gelu(last, weight, bias, (88, 88), backend="triton")
        assert torch.equal(out[-1:], alone)
        (dx,), (expected,) = (torch.autograd.grad(o, t, torch.ones_like(o)) for o, t in ((out, x), (alone, last)))
        assert torch.equal(dx[-1:], expected)

    def test_a_cuda_graph_can_hold_it(self):
        tensors = [t.detach() for t in on_gpu(*STAGES[2])[0]]
        expected = depthwise_gelu(*tensors, (22, 22), backend="triton")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = depthwise_gelu(*tensors, (22, 22), backend="triton")
        got.zero_()
        graph.replay()
        assert torch.equal(got, expected)
