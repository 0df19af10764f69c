"""Multi-head attention: the reference against its definition, the compiled kernel against the reference."""

from __future__ import annotations

import math

import pytest
import torch

from lgrnet.ops import cpu, multi_head_attention
from lgrnet.ops.attention.cpu import multi_head_attention_cpu
from lgrnet.ops.backends import BackendError
from tests.ops.errors import relative

compiled = pytest.mark.skipif(cpu.missing() is not None, reason=f"compiled CPU kernels: {cpu.missing()}")
SIZES = {  # B, N, M, heads, channels of a head
    "one of each": (1, 1, 1, 1, 1),
    "odd numbers": (2, 5, 7, 3, 5),
    "a full vector of queries and one more": (1, 49, 4, 1, 8),
    "PVTv2's stage 3, smaller": (2, 130, 121, 5, 64),
    "as many keys as queries": (1, 121, 121, 8, 64),
    "LGRNet's queries": (2, 20, 254, 8, 8),
    "keys of several sums": (1, 3, 1025, 2, 16),
    "a head of 100 channels": (1, 17, 33, 1, 100),
    "many queries and keys of several sums": (1, 70, 545, 2, 34),
    "more queries than a task takes": (1, 3100, 6, 1, 4),
}
ERRORS = {torch.float32: 1e-6, torch.bfloat16: 2**-8 + 2**-9}  # weights and the result are rounded


def inputs(batch, queries, keys, heads, channels, dtype=torch.float32):
    generator = torch.Generator().manual_seed(queries * keys)
    shapes = ((batch, n, heads * channels) for n in (queries, keys, keys))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def test_the_reference_is_its_definition():
    q, k, v = inputs(1, 2, 3, 2, 4, torch.float64)
    out = multi_head_attention(q, k, v, 2)
    for n in range(2):
        for head in (slice(0, 4), slice(4, 8)):
            weights = [math.exp(float(q[0, n, head] @ k[0, m, head]) / 2) for m in range(3)]
            expected = sum(w * v[0, m, head] for m, w in enumerate(weights)) / sum(weights)
            torch.testing.assert_close(out[0, n, head], expected)


@compiled
@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("name", SIZES)
def test_value(name, dtype):
    low = inputs(*SIZES[name], dtype)
    expected = multi_head_attention(*(t.double() for t in low), SIZES[name][3])
    assert relative(multi_head_attention(*low, SIZES[name][3], backend="cpu"), expected) < ERRORS[dtype]


@compiled
def test_strong_logits_and_far_ones():
    """Of softmax only the differences count, however large the logits are, and a key may have all of the weight."""
    q, k, v = inputs(1, 30, 50, 2, 16)
    for factor in (30, 3000):
        low = (q * factor, k + 100, v)
        expected = multi_head_attention(*(t.double() for t in low), 2)
        found = multi_head_attention(*low, 2, backend="cpu")
        torch_error = relative(multi_head_attention(*low, 2, backend="reference"), expected)
        assert relative(found, expected) < max(1e-5, 2 * torch_error)


@compiled
@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_not_a_number_reaches_what_depends_on_it_and_nothing_else(which, dtype):
    tensors = inputs(2, 30, 20, 2, 4, dtype)
    tensors[which][1, 3, 5] = float("nan")  # of the second head
    spoilt = multi_head_attention(*tensors, 2, backend="cpu").isnan()
    expected = torch.zeros_like(spoilt)
    if which == 0:
        expected[1, 3, 4:] = True
    elif which == 1:
        expected[1, :, 4:] = True
    else:
        expected[1, :, 5] = True
    assert torch.equal(spoilt, expected)


@compiled
@pytest.mark.parametrize("dtype", ERRORS)
def test_the_number_of_threads_and_the_other_clips_change_no_bit(dtype):
    tensors = inputs(3, 3100, 6, 2, 4, dtype)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(multi_head_attention(*tensors, 2, backend="cpu"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)
    assert torch.equal(multi_head_attention(*(t[1:2] for t in tensors), 2, backend="cpu"), results[0][1:2])


@compiled
@pytest.mark.parametrize("dtype", ERRORS)
def test_keys_and_values_are_read_where_they_lie_and_others_are_copied(dtype):
    q, k, v = inputs(2, 5, 7, 3, 4, dtype)
    expected = multi_head_attention(q, k, v, 3, backend="cpu")
    apart = torch.cat((k, v), -1).chunk(2, -1)
    assert not apart[0].is_contiguous() and torch.equal(multi_head_attention(q, *apart, 3, backend="cpu"), expected)
    crooked = (t.transpose(0, 2).contiguous().transpose(0, 2) for t in (q, k, v))
    assert torch.equal(multi_head_attention(*crooked, 3, backend="cpu"), expected)
    one = (t[:1].expand_as(t) for t in (q, k, v))
    assert torch.equal(multi_head_attention(*one, 3, backend="cpu")[1], expected[0])


@compiled
@pytest.mark.parametrize("sizes", [(0, 2, 3, 2, 4), (2, 0, 3, 2, 4), (2, 3, 0, 2, 4), (2, 3, 4, 1, 0)])
def test_nothing_gives_nothing(sizes):
    tensors = inputs(*sizes)
    out = multi_head_attention(*tensors, sizes[3], backend="cpu")
    assert out.shape == tensors[0].shape and not out.any()
    if sizes[4]:
        assert torch.equal(out, multi_head_attention(*tensors, sizes[3], backend="reference"))


def test_gradients_and_half_precision_are_torchs():
    low = [t.requires_grad_() for t in inputs(2, 5, 7, 3, 4)]
    multi_head_attention(*low, 3).sum().backward()
    assert all(t.grad is not None for t in low)
    with torch.no_grad():
        assert multi_head_attention(*(t.bfloat16() for t in low), 3).dtype == torch.bfloat16
    high = [t.requires_grad_() for t in inputs(1, 2, 3, 2, 2, torch.float64)]
    assert torch.autograd.gradcheck(lambda *t: multi_head_attention(*t, 2), high)


@compiled
def test_the_op_keeps_torchs_rules():
    torch.library.opcheck(
        multi_head_attention_cpu, (*inputs(2, 5, 7, 3, 4), 3), test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize("change, says", [(0, "k has shape"), (1, "k has shape"), (2, "v has shape")])
def test_shapes_that_do_not_fit(change, says):
    tensors = inputs(2, 5, 7, 3, 4)
    tensors[change] = tensors[change][:, :-1] if change else tensors[change][:-1]
    with pytest.raises(ValueError, match="v has shape" if change == 1 else says):
        multi_head_attention(*tensors, 3)
    with pytest.raises(ValueError, match="expected .* a multiple of heads = 5"):
        multi_head_attention(*inputs(2, 5, 7, 3, 4), 5)


def test_a_backend_that_is_not_there_or_cannot():
    tensors = inputs(1, 2, 2, 1, 2)
    with pytest.raises(BackendError, match="backend is 'abacus', expected auto or one of cpu, reference"):
        multi_head_attention(*(t.clone().requires_grad_() for t in tensors), 1, backend="abacus")
    with pytest.raises(BackendError, match="it takes float32 or bfloat16, not float64"):
        multi_head_attention(*(t.double() for t in tensors), 1, backend="cpu")
    with pytest.raises(BackendError, match="it has no gradients"):
        multi_head_attention(*(t.requires_grad_() for t in tensors), 1, backend="cpu")


@compiled
def test_the_kernel_refuses_what_is_not_as_it_reads():
    q, k, v = inputs(1, 2, 3, 1, 2)
    for wrong in ((q, k[:, 1:], v, 1), (q, k, v, 0), (q.double(), k, v, 1), (q[..., :1], k, v, 1)):
        with pytest.raises(ValueError, match="expected float32 or bfloat16"):
            multi_head_attention_cpu(*wrong)
