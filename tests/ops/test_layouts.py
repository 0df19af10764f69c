"""Every compiled op gives the same numbers wherever and however its tensors lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import lgrnet.ops
from lgrnet.ops import cpu
from tests.ops.errors import relative

pytestmark = pytest.mark.skipif(cpu.missing() is not None, reason=f"compiled CPU kernels: {cpu.missing()}")
LEVELS, TOKENS = ((2, 3), (4, 6)), 30
ORDER = torch.stack([torch.randperm(12, generator=torch.Generator().manual_seed(g)) for g in range(2)])
REFERENCE = torch.rand(1, TOKENS, 2, 2, generator=torch.Generator().manual_seed(0))
# Op -> shapes of its tensors, what calls it with them and a backend, and whether its kernel has gradients.
OPS: dict[str, tuple[tuple[tuple[int, ...], ...], Callable[..., Tensor], bool]] = {
    "selective_scan": (
        ((2, 12, 6), (2, 12, 2, 3), (2, 12, 2, 4), (2, 12, 2, 4), (2, 6, 3), (2, 6), (2, 6, 4), (2, 6), (2, 2, 6, 4)),
        lambda x, dt, b, c, weight, bias, a, skip, state, **how: lgrnet.ops.selective_scan(
            x, dt, b, c, weight, bias, -a.abs(), skip, ORDER, state, **how
        ),
        True,
    ),
    "neighborhood_attention": (
        ((2, 3, TOKENS, 2, 4),) * 3,
        lambda q, k, v, **how: lgrnet.ops.neighborhood_attention(q, k, v, LEVELS, 3, **how),
        True,
    ),
    "ms_deform_attn": (
        ((2, TOKENS, 2, 4), (2, TOKENS, 2, 2, 3, 2), (2, TOKENS, 2, 6)),
        lambda value, offsets, logits, **how: lgrnet.ops.ms_deform_attn(
            value, offsets, logits, REFERENCE, LEVELS, **how
        ),
        True,
    ),
    "depthwise_gelu": (
        ((2, TOKENS, 20), (20, 1, 3, 3), (20,)),
        lambda x, weight, bias, **how: lgrnet.ops.depthwise_gelu(x, weight, bias, (5, 6), **how),
        True,
    ),
    "linear": (
        ((3, 40, 24), (10, 24), (10,), (3, 40, 10)),
        lambda x, weight, bias, residual, **how: lgrnet.ops.linear(x, weight, bias, residual=residual, **how),
        True,
    ),
    "layer_norm": (((3, 40, 24), (24,), (24,)), lgrnet.ops.layer_norm, False),
    "multi_head_attention": (
        ((3, 40, 24), (3, 17, 24), (3, 17, 24)),
        lambda q, k, v, **how: lgrnet.ops.multi_head_attention(q, k, v, 4, **how),
        False,
    ),
    "mask_logits": (((2, 4, 8), (2, 3, 8, 5, 7)), lgrnet.ops.mask_logits, False),
}


def layouts(tensor: Tensor) -> Iterator[Tensor]:
    """The same numbers: every second of more, behind others, and with the axes the other way round."""
    yield torch.stack((tensor, tensor + 1), -1)[..., 0]
    yield torch.cat((tensor + 1, tensor), -1)[..., tensor.shape[-1] :]
    yield tensor.permute(*range(tensor.ndim)[::-1]).contiguous().permute(*range(tensor.ndim)[::-1])


@pytest.mark.parametrize("op, backward", [(op, b) for op, (_, _, has) in OPS.items() for b in (False, True)[: 1 + has]])
def test_the_same_numbers_in_another_layout(op, backward):
    shapes, call, _ = OPS[op]
    generator = torch.Generator().manual_seed(len(op))
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]

    def numbers(inputs: list[Tensor], backend: str) -> list[Tensor]:
        inputs = [t.requires_grad_(backward) for t in inputs]
        result = call(*inputs, backend=backend)
        return [result, *torch.autograd.grad(result.square().sum(), inputs)] if backward else [result]

    expected = numbers([t.double() for t in tensors], "reference")
    for i, tensor in enumerate(tensors):
        for other in (*layouts(tensor), tensor[:1].expand_as(tensor)):
            inputs = [t.clone() for t in tensors]
            inputs[i] = other.detach()
            truth = numbers([t.double() for t in inputs], "reference") if other.stride(0) == 0 else expected
            for found, true in zip(numbers(inputs, "cpu"), truth, strict=True):
                assert relative(found, true) < 1e-5, f"input {i} with strides {other.stride()}"
