"""Neighborhood attention's Triton kernels: in Triton's interpreter on any machine, and on a GPU where there is one."""

from __future__ import annotations

import os

import pytest
import torch

from lgrnet.ops import neighborhood_attention
from lgrnet.ops.backends import BackendError
from tests.ops.errors import relative
from tests.ops.own_process import assert_passes_in_interpreter
from tests.ops.test_neighborhood import draw

PYRAMID = ((11, 11), (22, 22), (44, 44))


def test_everything_in_tritons_interpreter():
    assert_passes_in_interpreter("interpreted_neighborhood.py")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton interprets its kernels here")
def test_on_a_cpu_it_says_why_not():
    q = torch.zeros(1, 1, 4, 1, 2)
    with pytest.raises(BackendError, match="'triton' cannot be used because (it works on CUDA|triton cannot be)"):
        neighborhood_attention(q, q, q, ((2, 2),), 3, backend="triton")


def on_gpu(frames=6, dtype=torch.float32):
    """LGRNet's sizes for the kernels, and in float64 for the reference."""
    tokens = sum(h * w for h, w in PYRAMID)
    low = [draw(1, frames, tokens, 8, 8, seed=i).cuda().to(dtype) for i in range(3)]
    return [t.requires_grad_() for t in low], [t.detach().double().requires_grad_() for t in low]


class TestOnGpu:
    """At the sizes of LGRNet."""

    pytestmark = [
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ]

    @pytest.mark.parametrize("dtype, value, gradient", [(torch.float32, 1e-5, 1e-5), (torch.bfloat16, 1e-2, 2e-2)])
    @pytest.mark.parametrize("window, dilation, shift", [(5, 1, 1), (3, 2, 2), (7, 1, 0)])
    def test_value_and_every_gradient(self, window, dilation, shift, dtype, value, gradient):
        tensors, truth = on_gpu(dtype=dtype)
        case = (PYRAMID, window, dilation, shift)
        got = neighborhood_attention(*tensors, *case, backend="triton")
        expected = neighborhood_attention(*truth, *case, backend="reference")
        assert relative(got, expected) < value
        weights = draw(*got.shape, seed=9).cuda().to(dtype)
        found = torch.autograd.grad((got * weights).sum(), tensors)
        true = torch.autograd.grad((expected * weights.double()).sum(), truth)
        for one, exact in zip(found, true, strict=True):
            assert relative(one, exact) < gradient

    def test_the_same_bits_each_time(self):
        tensors, _ = on_gpu()
        results = []
        for _ in range(3):
            out = neighborhood_attention(*tensors, PYRAMID, 5, backend="triton")
            results.append([out, *torch.autograd.grad(out.square().sum(), tensors)])
        for again in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], again, strict=True))

    def test_offsets_beyond_two_gigabytes(self):
        frames = 7000  # more than 2 ** 31 bytes of one tensor
        q = torch.randn(1, frames, 2541, 8, 8, device="cuda", dtype=torch.bfloat16)
        out = neighborhood_attention(q, q, q, PYRAMID, 5, backend="triton")
        tail = neighborhood_attention(*(q[:, -3:],) * 3, PYRAMID, 5, backend="triton")
        assert torch.equal(out[:, -2:], tail[:, -2:])

    def test_a_cuda_graph_can_hold_it(self):
        tensors = [t.detach() for t in on_gpu()[0]]
        expected = neighborhood_attention(*tensors, PYRAMID, 5, backend="triton")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = neighborhood_attention(*tensors, PYRAMID, 5, backend="triton")
        got.zero_()
        graph.replay()
        assert torch.equal(got, expected)
