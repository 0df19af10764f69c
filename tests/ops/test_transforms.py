"""Kernels that are called past torch's dispatcher, where torch changes calls on their way: the reference runs there."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from lgrnet.ops import cpu, layer_norm, linear, mask_logits, multi_head_attention
from lgrnet.ops.backends import BackendError

OPS = {
    "linear": (linear, [(6, 4), (5, 4)]),
    "layer_norm": (layer_norm, [(6, 4), (4,), (4,)]),
    "mask_logits": (mask_logits, [(1, 2, 4), (1, 3, 4, 5, 6)]),
    "multi_head_attention": (lambda q, k, v, **more: multi_head_attention(q, k, v, 2, **more), [(1, 6, 4)] * 3),
}


@pytest.fixture(params=OPS)
def case(request):
    op, shapes = OPS[request.param]
    generator = torch.Generator().manual_seed(0)
    return op, [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("which", [0, 1])
def test_derivatives_in_forward_mode(case, which):
    op, tensors = case
    if len(tensors) == 3 and op is not layer_norm:
        pytest.skip("torch's own attention has no derivatives in forward mode on a CPU, and says so")
    before, behind, tangent = tensors[:which], tensors[which + 1 :], torch.ones_like(tensors[which])
    _, expected = torch.func.jvp(lambda x: op(*before, x, *behind, backend="reference"), (tensors[which],), (tangent,))
    _, found = torch.func.jvp(lambda x: op(*before, x, *behind), (tensors[which],), (tangent,))
    torch.testing.assert_close(found, expected)
    with torch.no_grad(), forward_ad.dual_level():
        dual = forward_ad.make_dual(tensors[which], tangent)
        torch.testing.assert_close(forward_ad.unpack_dual(op(*before, dual, *behind)).tangent, expected)


def test_vmap(case):
    op, (first, *others) = case
    many = torch.stack((first, 2 * first, -first))
    expected = torch.stack([op(each, *others, backend="reference") for each in many])
    torch.testing.assert_close(torch.func.vmap(lambda each: op(each, *others))(many), expected)


def test_fake_tensors_beside_real_ones(case):
    op, tensors = case
    for fake in range(len(tensors)):
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        mixed = [mode.from_tensor(t) if i == fake else t for i, t in enumerate(tensors)]
        assert op(*mixed).shape == op(*tensors).shape
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert op(*tensors).shape == op(*tensors, backend="reference").shape


def test_what_records_sees_the_products(case):
    op, tensors = case
    graph = make_fx(lambda *given: op(*given))(*tensors)
    others = [t + 1 for t in tensors]
    torch.testing.assert_close(graph(*others), op(*others, backend="reference"))
    counts = []
    for backend in ("auto", "reference"):
        with FlopCounterMode(display=False) as counter:
            op(*tensors, backend=backend)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


@pytest.mark.skipif(cpu.missing() is not None, reason=f"compiled CPU kernels: {cpu.missing()}")
def test_the_kernel_by_name_says_so(case):
    op, (first, *others) = case
    with pytest.raises(BackendError, match="torch.func, forward-mode gradients, fake tensors"):
        torch.func.vmap(lambda each: op(each, *others, backend="cpu"))(first[None])
