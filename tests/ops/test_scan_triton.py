"""The scan's Triton kernels: in Triton's interpreter on any machine, and on a GPU where there is one."""

from __future__ import annotations

import os

import pytest
import torch

from lgrnet.ops import selective_scan
from lgrnet.ops.backends import BackendError
from tests.ops.errors import relative
from tests.ops.own_process import assert_passes_in_interpreter
from tests.ops.test_scan import inputs

gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_everything_in_tritons_interpreter():
    assert_passes_in_interpreter("interpreted_scan.py")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton interprets its kernels here")
def test_on_a_cpu_it_says_why_not():
    with pytest.raises(BackendError, match="'triton' cannot be used because (it works on CUDA|triton cannot be)"):
        selective_scan(**inputs() | {"x": inputs()["x"].float()}, backend="triton")


def on_gpu(arguments, dtype=torch.float32):
    """Tensors for the kernels and, in float64, for the reference, which want gradients; and the order."""
    order = arguments.pop("order").cuda()
    low = [t.cuda().to(dtype) for t in arguments.values()]
    return [t.requires_grad_() for t in low], [t.detach().double().requires_grad_() for t in low], order


class TestOnGpu:
    """At the sizes of LGRNet."""

    pytestmark = gpu

    @pytest.mark.parametrize("dtype, value, gradient", [(torch.float32, 1e-5, 1e-4), (torch.bfloat16, 1e-2, 2e-2)])
    @pytest.mark.parametrize("length, directions", [(120, 2), (120, 4), (1000, 2)])
    def test_value_and_every_gradient(self, length, directions, dtype, value, gradient):
        sizes = {"length": length, "dim": 128, "directions": directions, "states": 16, "rank": 4}
        tensors, truth, order = on_gpu(inputs(**sizes), dtype)
        got = selective_scan(*tensors, order, backend="triton")
        expected = selective_scan(*truth, order, backend="reference")
        assert relative(got, expected) < value
        weights = torch.randn(got.shape, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
        found = torch.autograd.grad((got.float() * weights).sum(), tensors)
        true = torch.autograd.grad((expected * weights).sum(), truth)
        for one, exact in zip(found, true, strict=True):
            assert relative(one, exact) < gradient

    def test_the_same_bits_each_time(self):
        tensors, _, order = on_gpu(inputs(length=3000, dim=128, states=16, rank=4))
        results = []
        for _ in range(3):
            y = selective_scan(*tensors, order, backend="triton")
            results.append([y, *torch.autograd.grad(y.square().sum(), tensors)])
        for again in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], again, strict=True))

    def test_a_hundred_thousand_tokens_at_once_and_streamed(self):
        sizes = {"length": 100_000, "dim": 16, "states": 16, "rank": 4, "batch": 1, "directions": 1}
        arguments = {k: v.cuda().float() for k, v in inputs(**sizes).items()}
        arguments["order"] = torch.arange(100_000, device="cuda")[None]
        whole, last = selective_scan(**arguments, return_state=True, backend="triton")
        parts, state = [], None
        for start in range(0, 100_000, 12_500):
            part = {k: v[:, start : start + 12_500] if v.shape[1] == 100_000 else v for k, v in arguments.items()}
            part["order"] = torch.arange(12_500, device="cuda")[None]
            y, state = selective_scan(**part, initial_state=state, return_state=True, backend="triton")
            parts.append(y)
        scale = whole.abs().max().item()
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-5 * scale)
        torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-5 * last.abs().max().item())

    @pytest.mark.parametrize("length", [120, 2000])
    def test_a_cuda_graph_can_hold_it(self, length):
        tensors, _, order = on_gpu(inputs(length=length, dim=128, states=16, rank=4))
        tensors = [t.detach() for t in tensors]
        order = order.int()
        expected = selective_scan(*tensors, order, backend="triton")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = selective_scan(*tensors, order, backend="triton")
        got.zero_()
        graph.replay()
        assert torch.equal(got, expected)
