"""Depthwise convolution and GELU: the reference against its definition, the compiled kernel against the reference."""

from __future__ import annotations

import math

import pytest
import torch

from lgrnet.ops import cpu, depthwise_gelu
from lgrnet.ops.backends import BackendError
from lgrnet.ops.depthwise.cpu import depthwise_backward, depthwise_forward, depthwise_gelu_cpu
from lgrnet.ops.depthwise.reference import depthwise_gelu_reference
from tests.ops.errors import relative

compiled = pytest.mark.skipif(cpu.missing() is not None, reason=f"compiled CPU kernels: {cpu.missing()}")
SIZES = [(1, 1, 1, 1), (2, 1, 6, 3), (1, 5, 1, 8), (2, 5, 7, 70), (3, 33, 4, 17), (1, 65, 3, 130), (2, 9, 9, 64)]


def inputs(batch, height, width, channels, dtype=torch.float64):
    generator = torch.Generator().manual_seed(height * width)
    shapes = ((batch, height * width, channels), (channels, 1, 3, 3), (channels,))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def test_the_reference_is_its_definition():
    x, weight, bias = inputs(2, 3, 4, 5)
    out = depthwise_gelu(x, weight, bias, (3, 4))
    for b in range(2):
        for y in range(3):
            for z in range(4):
                for c in range(5):
                    total = float(bias[c])
                    for j in range(max(0, y - 1), min(3, y + 2)):
                        for i in range(max(0, z - 1), min(4, z + 2)):
                            total += float(x[b, j * 4 + i, c] * weight[c, 0, j - y + 1, i - z + 1])
                    expected = total * 0.5 * (1 + math.erf(total / math.sqrt(2)))
                    assert float(out[b, y * 4 + z, c]) == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_gradients_of_the_reference():
    tensors = [t.requires_grad_() for t in inputs(1, 3, 2, 2)]
    assert torch.autograd.gradcheck(lambda *t: depthwise_gelu(*t, (3, 2)), tensors)


@compiled
@pytest.mark.parametrize("sizes", SIZES)
def test_value_and_every_gradient(sizes):
    low = [t.float().requires_grad_() for t in inputs(*sizes)]
    high = [t.detach().double().requires_grad_() for t in low]
    got, expected = depthwise_gelu_cpu(*low, sizes[1:3]), depthwise_gelu_reference(*high, sizes[1:3])
    assert relative(got, expected) < 3e-7
    dout = torch.randn(got.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(got, low, dout)
    for found, true in zip(gradients, torch.autograd.grad(expected, high, dout.double()), strict=True):
        assert relative(found, true) < 1e-6


@compiled
@pytest.mark.parametrize("sizes", SIZES)
def test_a_shift_is_added_inside_the_map_alone(sizes):
    low = [t.float().requires_grad_() for t in (*inputs(*sizes), torch.linspace(-1, 2, sizes[3]))]
    high = [t.detach().double().requires_grad_() for t in low]
    got = depthwise_gelu(*low[:3], sizes[1:3], shift=low[3], backend="cpu")
    expected = depthwise_gelu_reference(high[0] + high[3], *high[1:3], sizes[1:3])
    assert torch.equal(depthwise_gelu(*high[:3], sizes[1:3], shift=high[3]), expected)  # the reference
    assert relative(got, expected) < 3e-7
    gradients = torch.autograd.grad(got.square().sum(), low)
    for found, true in zip(gradients, torch.autograd.grad(expected.square().sum(), high), strict=True):
        assert relative(found, true) < 2e-6


@compiled
def test_the_gelu_is_exact_to_the_last_digits_everywhere():
    x = torch.linspace(-12, 12, 200_001)[None, :, None].requires_grad_()
    middle = torch.zeros(1, 1, 3, 3)
    middle[..., 1, 1] = 1
    got = depthwise_gelu_cpu(x, middle, torch.zeros(1), (1, x.shape[1]))
    (slope,) = torch.autograd.grad(got.sum(), x)
    true = x.detach().double().requires_grad_()
    expected = true * 0.5 * torch.special.erfc(-true * math.sqrt(0.5))  # special.ndtr loses the digits of the tail
    (expected_slope,) = torch.autograd.grad(expected.sum(), true)
    error = (got.detach() - expected.detach()).abs()
    assert float((error / true.detach().abs().clamp(min=1e-3)).max()) < 2e-7
    tail = (true.detach() < 0) & (true.detach() > -8)
    assert float((error / expected.detach().abs())[tail].max()) < 2e-5
    assert float((slope - expected_slope).abs().max()) < 3e-7


@compiled
@pytest.mark.parametrize("value", [-1e30, -100.0, 100.0, 1e30])
def test_large_numbers(value):
    x = torch.full((1, 1, 1), value)
    out = depthwise_gelu_cpu(x, torch.ones(1, 1, 3, 3), torch.zeros(1), (1, 1))
    assert out.item() == pytest.approx(max(0.0, value), rel=1e-6, abs=1e-6)


@compiled
def test_no_number_is_so_small_that_it_is_slow():
    """Denormal numbers take a processor many times longer."""
    x = torch.linspace(-40, -5, 1001)[None, :, None].requires_grad_()
    middle = torch.zeros(1, 1, 3, 3)
    middle[..., 1, 1] = 1
    out = depthwise_gelu_cpu(x, middle, torch.zeros(1), (1, 1001))
    out.sum().backward()
    for numbers in (out.detach(), x.grad):
        assert float(numbers.abs().min()) > torch.finfo(torch.float32).tiny


@compiled
@pytest.mark.parametrize("which", [0, 1, 2])
def test_not_a_number_reaches_what_depends_on_it_and_nothing_else(which):
    tensors = inputs(2, 5, 7, 20, torch.float32)
    tensors[which].view(-1)[4] = float("nan")
    out = depthwise_gelu_cpu(*tensors, (5, 7))
    spoilt, expected = out.isnan(), torch.zeros_like(out, dtype=torch.bool)
    if which == 0:  # token 0, channel 4
        expected.view(2, 5, 7, 20)[0, :2, :2, 4] = True
    else:  # the middle tap of channel 0, the bias of channel 4
        expected[..., 0 if which == 1 else 4] = True
    assert torch.equal(spoilt, expected)


@compiled
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_half_precision_comes_and_goes_with_float32_inside(dtype, tolerance):
    low = [t.requires_grad_() for t in inputs(2, 5, 7, 20, dtype)]
    got = depthwise_gelu_cpu(*low, (5, 7))
    assert got.dtype == dtype
    assert relative(got, depthwise_gelu_reference(*(t.double() for t in low), (5, 7))) < tolerance
    got.float().sum().backward()
    assert all(t.grad.dtype == dtype and t.grad.isfinite().all() for t in low)


@compiled
@pytest.mark.parametrize("sizes", SIZES)
def test_bfloat16_is_rounded_as_torch_rounds(sizes):
    """Also zeros of either sign, infinity, NaN, and numbers that lie half-way between two of bfloat16."""
    x, weight, bias = inputs(*sizes, torch.float32)
    x, shift = x.bfloat16(), bias / 2
    flat = x.view(-1)
    for i, value in enumerate((0.0, -0.0, math.inf, -math.inf, math.nan, 3e38)[: len(flat)]):
        flat[7 * i % len(flat)] = value
    expected = depthwise_gelu_cpu(x.float(), weight, bias, sizes[1:3], shift)
    got = depthwise_gelu_cpu(x, weight, bias, sizes[1:3], shift)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.nan_to_num(), expected.bfloat16().nan_to_num())


@compiled
@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_of_bfloat16_are_those_of_float32_of_the_same_numbers(sizes, shifted):
    x, weight, bias = inputs(*sizes, torch.float32)
    dout = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    gradients = []
    for tokens in (x.bfloat16(), x.bfloat16().float()):
        leaves = [t.clone().requires_grad_() for t in (tokens, weight, bias, bias / 2)[: 3 + shifted]]
        out = depthwise_gelu_cpu(*leaves[:3], sizes[1:3], *leaves[3:])
        gradients.append(torch.autograd.grad(out, leaves, dout.to(out.dtype)))
    (dx, *others), (expected, *same) = gradients
    assert dx.dtype == torch.bfloat16 and torch.equal(dx, expected.bfloat16())
    assert all(torch.equal(a, b) for a, b in zip(others, same, strict=True))


@compiled
def test_the_compiled_ops_read_no_type_or_shape_that_they_do_not_know():
    x, weight, bias = inputs(1, 2, 3, 4, torch.float32)
    with pytest.raises(ValueError, match="x is torch.float16, expected torch.float32 or torch.bfloat16"):
        depthwise_forward(x.half(), weight, bias, None, 2, 3)
    for dout, words in ((x.bfloat16(), "dout is torch.bfloat16"), (x[:, :1], r"of shape \(1, 1, 4\), expected")):
        with pytest.raises(ValueError, match=words):
            depthwise_backward(x, weight, bias, None, dout, 2, 3)


@compiled
def test_half_way_goes_to_the_even_number():
    """Large numbers pass the GELU as they are, and the middle tap alone."""
    bits = torch.arange(0x42C80000, 0x42CA0000, 0x1000, dtype=torch.int32)  # from 100 on, sixteenths of a step
    x = torch.full((1, 1, 1), 64.0, dtype=torch.bfloat16)
    middle = torch.zeros(1, 1, 3, 3)
    middle[..., 1, 1] = 1
    for bias in bits.view(torch.float32) - 64:
        got = depthwise_gelu_cpu(x, middle, bias[None], (1, 1))
        assert got.item() == (64 + bias).bfloat16().item()


@compiled
def test_the_number_of_threads_changes_no_bit():
    tensors = [t.requires_grad_() for t in inputs(2, 70, 5, 150, torch.float32)]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            out = depthwise_gelu_cpu(*tensors, (70, 5))
            results.append([out, *torch.autograd.grad(out.square().sum(), tensors)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@compiled
@pytest.mark.parametrize("sizes", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 3, 0)])
def test_nothing_gives_nothing(sizes):
    tensors = [t.requires_grad_() for t in inputs(*sizes, torch.float32)]
    out = depthwise_gelu_cpu(*tensors, sizes[1:3])
    assert out.shape == tensors[0].shape
    out.sum().backward()
    assert not any(t.grad.any() for t in tensors)


@compiled
def test_inputs_that_are_not_contiguous():
    tensors = inputs(2, 5, 7, 20, torch.float32)
    crooked = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in tensors]
    assert torch.equal(depthwise_gelu_cpu(*crooked, (5, 7)), depthwise_gelu_cpu(*tensors, (5, 7)))


@compiled
def test_the_op_keeps_torchs_rules():
    tensors = [t.requires_grad_() for t in inputs(2, 5, 7, 20, torch.float32)]
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    for shift in (None, torch.randn(20, requires_grad=True)):
        torch.library.opcheck(depthwise_forward, (*tensors, shift, 5, 7), test_utils=tests)


@pytest.mark.parametrize("change, name", list(enumerate(("x", "weight", "bias", "shift"))))
def test_shapes_that_do_not_fit(change, name):
    tensors = [*inputs(2, 5, 7, 20), torch.zeros(20)]
    tensors[change] = tensors[change][:, :-1] if change < 2 else tensors[change][:-1]
    with pytest.raises(ValueError, match=f"{name} has shape"):
        depthwise_gelu(*tensors[:3], (5, 7), shift=tensors[3])


def test_a_backend_that_is_not_there():
    with pytest.raises(BackendError, match="backend is 'abacus', expected auto or one of cpu, triton, reference"):
        depthwise_gelu(*inputs(1, 2, 2, 2), (2, 2), backend="abacus")
    with pytest.raises(BackendError, match="it computes in float32, not in torch.float64"):
        depthwise_gelu(*inputs(1, 2, 2, 2), (2, 2), backend="cpu")


@compiled
def test_the_kernel_refuses_sides_that_are_not_the_maps():
    with pytest.raises(ValueError, match="expected"):
        depthwise_forward(*inputs(1, 2, 3, 4, torch.float32), None, 3, 3)


@pytest.mark.parametrize("batch, height, width, channels", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_of_nothing(batch, height, width, channels, backend):
    x, weight, bias = inputs(batch, height, width, channels, torch.float32)
    assert depthwise_gelu(x, weight, bias, (height, width), backend=backend).shape == x.shape


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_weights_of_another_type(backend):
    x, weight, bias = inputs(1, 2, 3, 4, torch.float32)
    expected = depthwise_gelu_reference(x.bfloat16().double(), weight.double(), bias.double(), (2, 3))
    got = depthwise_gelu(x.bfloat16(), weight, bias, (2, 3), backend=backend)
    assert got.dtype == torch.bfloat16 and relative(got, expected) < 1e-2
