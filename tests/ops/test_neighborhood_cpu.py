"""The compiled neighborhood attention against the reference in float64: value, every gradient, odd sizes, bad input."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest
import torch

from lgrnet.ops import cpu, neighborhood_attention
from lgrnet.ops.neighborhood.cpu import neighborhood_attention_cpu, neighborhood_backward, neighborhood_forward
from lgrnet.ops.neighborhood.reference import neighborhood_attention_reference
from tests.ops import errors

pytestmark = pytest.mark.skipif(cpu.missing() is not None, reason=f"compiled CPU kernels: {cpu.missing()}")

# levels, heads, d, window, dilation, frames, frame_shift
CASES = [
    (((44, 44), (22, 22), (11, 11)), 8, 8, 5, 1, 2, 1),
    (((9, 13), (5, 7), (2, 3)), 8, 8, 5, 1, 3, 1),
    (((9, 13), (5, 7), (2, 3)), 3, 5, 5, 1, 3, 2),
    (((17, 35), (3, 2)), 1, 1, 3, 1, 2, 0),
    (((7, 23),), 4, 16, 7, 1, 1, 1),
    (((13, 21), (4, 9)), 4, 16, 3, 2, 3, 2),
    (((19, 31), (6, 5)), 8, 8, 3, 3, 2, 1),
    (((12, 15), (4, 8)), 8, 11, 7, 1, 2, 1),
    (((26, 22),), 3, 5, 5, 2, 2, -1),
    (((5, 40),), 2, 32, 3, 4, 2, 5),
    (((3, 18), (18, 3)), 5, 8, 1, 1, 2, 1),
    (((9, 13), (2, 3)), 16, 5, 3, 2, 3, 1),
    (((1, 1), (1, 9), (9, 1)), 2, 3, 9, 1, 2, 1),
]
OURS = (((30, 13), (5, 7)), 8, 8, 5, 1, 2, 1)  # heads, channels and window of LGRNet, which have code of their own
SMALL = (((9, 13), (2, 3)), 4, 8, 5, 1, 3, 1)
relative = partial(errors.relative, least=1)  # numbers here are like 1


def inputs(case, dtype=torch.float32, clips=2):
    """q, k, v, the weights of a sum over the result, and the other arguments."""
    shapes, heads, d, window, dilation, frames, shift = case
    generator, tokens = torch.Generator().manual_seed(0), sum(h * w for h, w in shapes)
    tensors = [torch.randn(clips, frames, tokens, heads, d, generator=generator).to(dtype) for _ in range(4)]
    return [t.requires_grad_() for t in tensors[:3]], tensors[3], (shapes, window, dilation, shift)


def with_gradients(attention, tensors, weights, arguments):
    out = attention(*tensors, *arguments)
    return [out, *torch.autograd.grad(out, tensors, weights.to(out.dtype))]


def exact(tensors, weights, arguments):
    truth = [t.detach().double().requires_grad_() for t in tensors]
    return with_gradients(neighborhood_attention_reference, truth, weights.double(), arguments)


def check(tensors, weights, arguments):
    found = with_gradients(neighborhood_attention_cpu, tensors, weights, arguments)
    value, *gradients = (relative(*pair) for pair in zip(found, exact(tensors, weights, arguments), strict=True))
    assert value < 3e-6 and max(gradients) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_value_and_every_gradient(case):
    check(*inputs(case))


def test_large_logits():
    (q, k, v), weights, arguments = inputs(SMALL)
    given = ([(30 * q).detach().requires_grad_(), k, v], weights, arguments)
    found, expected = with_gradients(neighborhood_attention_cpu, *given), exact(*given)
    for ours, true in zip(found, expected, strict=True):
        assert ours.isfinite().all() and relative(ours, true) < 1e-4  # the logits' last digit is 1e-5


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_half_precision_comes_and_goes_with_float32_inside(dtype, tolerance):
    given = inputs(SMALL, dtype)
    found, expected = with_gradients(neighborhood_attention_cpu, *given), exact(*given)
    for ours, true in zip(found, expected, strict=True):
        assert ours.dtype == dtype and relative(ours, true) < tolerance


@pytest.mark.parametrize("case", [(((60, 9), (8, 8)), 2, 8, 3, 1, 1, 1), (((50, 7),), 3, 5, 3, 2, 2, 1), SMALL, OURS])
def test_the_number_of_threads_changes_no_bit(case):
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 8):
            torch.set_num_threads(threads)
            results.append(with_gradients(neighborhood_attention_cpu, *inputs(case)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("heads, window", [(3, 3), (8, 5)])
@pytest.mark.parametrize("dilation, place", [(1, (0, 0)), (1, (4, 6)), (2, (8, 12)), (1, (3, 11))])
@pytest.mark.parametrize("which", range(3))
def test_not_a_number_stays_where_it_belongs(which, dilation, place, heads, window):
    tensors, weights, arguments = inputs((((10, 13),), heads, 8, window, dilation, 3, 1))
    with torch.no_grad():
        tensors[which][0, 1, place[0] * 13 + place[1], 2, 4] = float("nan")
    found, expected = (
        with_gradients(attention, tensors, weights, arguments)
        for attention in (neighborhood_attention_cpu, neighborhood_attention_reference)
    )
    for ours, true in zip(found, expected, strict=True):
        assert torch.equal(ours.isnan(), true.isnan())
    assert found[0].isnan().any() and not found[0].isnan().all()


@pytest.mark.parametrize("shape", [(0, 2, 7, 2, 3), (2, 0, 7, 2, 3), (2, 2, 7, 0, 3), (2, 2, 7, 2, 0)])
def test_nothing_gives_nothing(shape):
    tensors = [torch.zeros(shape, requires_grad=True) for _ in range(3)]
    out = neighborhood_attention_cpu(*tensors, ((2, 3), (1, 1)), 3, 1, 1)
    assert out.shape == shape
    assert all(g.shape == shape for g in torch.autograd.grad(out.sum(), tensors))


def test_a_level_without_tokens():
    tensors, weights, _ = inputs((((3, 4),), 2, 8, 3, 1, 2, 1))
    shapes = ((0, 5), (3, 4), (2, 0))
    for alone, among in zip(
        with_gradients(neighborhood_attention_cpu, tensors, weights, (((3, 4),), 3, 1, 1)),
        with_gradients(neighborhood_attention_cpu, tensors, weights, (shapes, 3, 1, 1)),
        strict=True,
    ):
        assert torch.equal(alone, among)


def test_inputs_that_are_not_contiguous():
    (q, k, v), weights, arguments = inputs(SMALL)
    expected = with_gradients(neighborhood_attention_cpu, (q, k, v), weights, arguments)
    k, v = torch.stack((k, v), 3).detach().unbind(3)  # the halves of a projection of tokens
    q = q.detach().transpose(1, 2).contiguous().transpose(1, 2)
    crooked = weights.transpose(0, 4).contiguous().transpose(0, 4)
    tensors = [t.requires_grad_() for t in (q, k, v)]
    assert not any(t.is_contiguous() for t in (*tensors, crooked))
    for a, b in zip(with_gradients(neighborhood_attention_cpu, tensors, crooked, arguments), expected, strict=True):
        assert torch.equal(a, b)
    heads_apart = [t.detach().transpose(2, 3).contiguous().transpose(2, 3) for t in tensors]
    assert torch.equal(neighborhood_attention_cpu(*heads_apart, *arguments), expected[0])


def test_a_gradient_of_one_number_for_all():
    (q, k, v), _, arguments = inputs(SMALL)
    check((q, k, v), torch.ones(()).expand(q.shape), arguments)


@pytest.mark.parametrize("sides", [[-2, -6], [3, 5], [12]])
def test_sides_that_do_not_fit_are_refused(sides):
    q = torch.zeros(1, 1, 12, 1, 8)
    with pytest.raises(ValueError):
        neighborhood_forward(q, q, q, sides, 3, 1, 0)


def test_auto_takes_it():
    tensors, _, (shapes, *others) = inputs(SMALL)
    ours = neighborhood_attention(*tensors, shapes, *others)
    assert torch.equal(ours, neighborhood_attention_cpu(*tensors, shapes, *others))
    assert torch.equal(ours, neighborhood_attention(*tensors, shapes, *others, backend="cpu"))


def test_the_ops_keep_torchs_rules():
    tensors, weights, ((*shapes,), *others) = inputs(SMALL)
    sides = [side for shape in shapes for side in shape]
    torch.library.opcheck(neighborhood_forward, (*tensors, sides, *others))
    detached = [t.detach() for t in tensors]
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(neighborhood_backward, (*detached, weights, sides, *others), test_utils=tests)


MEMORY = """
import resource, torch
from lgrnet.ops import neighborhood_attention
torch.set_num_threads(1)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
q, k, v = (torch.randn(1, 48, 44 * 44, 8, 8) for _ in range(3))
neighborhood_attention(q[:, :1], k[:, :1], v[:, :1], [(44, 44)], 5, backend="cpu")
before = peak()
out = neighborhood_attention(q, k, v, [(44, 44)], 5, backend="cpu")
print(peak() - before - out.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss differs between systems")
def test_memory_without_gradients_is_less_than_that_of_one_frames_copies():
    one_frame = 2 * 44 * 44 * 64 * 4
    more = int(subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout)
    assert more < 2 * one_frame  # a gather of the keys has 25 * 48 times one_frame
