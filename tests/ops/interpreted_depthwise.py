"""Depthwise convolution's Triton kernels in Triton's interpreter; test_depthwise_triton.py runs this file there.

The interpreter works element by element, so everything is tiny.
"""

from __future__ import annotations

import pytest
import torch

from lgrnet.ops import depthwise_gelu
from lgrnet.ops.depthwise import triton_kernels as kernels
from lgrnet.ops.depthwise.reference import depthwise_gelu_reference
from tests.ops.errors import relative
from tests.ops.test_depthwise import inputs

CASES = {
    # batch, height, width, channels
    "one of everything": (1, 1, 1, 1),
    "one row": (2, 1, 5, 3),
    "one column": (1, 6, 1, 8),
    "patches cut at both ends": (2, 5, 3, 20),
    "more channels than a program takes": (1, 2, 2, 130),
}


def both(sizes, dtype=torch.float32):
    """The same values for the kernels and, in float64, for the reference."""
    low = inputs(*sizes, dtype)
    return [t.requires_grad_() for t in low], [t.detach().double().requires_grad_() for t in low]


def compare(tensors, truth, shape, tolerances=(3e-7, 1e-6)):
    """Value and every gradient against the reference in float64."""
    got = depthwise_gelu(*tensors, shape, backend="triton")
    expected = depthwise_gelu_reference(*truth, shape)
    assert got.dtype == tensors[0].dtype and relative(got, expected) < tolerances[0]
    dout = torch.randn(got.shape, generator=torch.Generator().manual_seed(1)).to(got.dtype)
    found = torch.autograd.grad(got, tensors, dout)
    true = torch.autograd.grad(expected, truth, dout.double())
    for one, exact, tensor in zip(found, true, tensors, strict=True):
        assert one.dtype == tensor.dtype and relative(one, exact) < tolerances[1]


@pytest.mark.parametrize("name", CASES)
def test_value_and_every_gradient(name):
    compare(*both(CASES[name]), CASES[name][1:3])


def test_a_shift_is_added_inside_the_map_alone():
    tensors, truth = both((2, 5, 3, 20))
    shift = torch.linspace(-1, 2, 20, requires_grad=True)
    got = depthwise_gelu(*tensors, (5, 3), shift=shift, backend="triton")
    expected = depthwise_gelu_reference(truth[0] + shift.double(), *truth[1:], (5, 3))
    assert relative(got, expected) < 3e-7
    (found,), (true,) = torch.autograd.grad(got.sum(), shift), torch.autograd.grad(expected.sum(), shift)
    assert relative(found, true) < 1e-6


@pytest.mark.parametrize("programs", [1, 5])
def test_a_program_goes_on_to_the_next_patch_and_image(programs, monkeypatch):
    monkeypatch.setattr(kernels, "PROGRAMS", programs)
    compare(*both((3, 5, 3, 20)), (5, 3))


@pytest.mark.parametrize("images", [0, 2])
def test_the_backward_pass_takes_some_images_at_a_time(images, monkeypatch):
    tensors, truth = both((3, 2, 3, 4))
    monkeypatch.setattr(kernels, "SCRATCH", images * tensors[0][0].numel() * 4)
    compare(tensors, truth, (2, 3))


# The interpreter cuts off what does not fit into bfloat16, where a GPU rounds.
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_half_precision_comes_and_goes_with_float32_inside(dtype, tolerance):
    compare(*both((2, 5, 3, 20), dtype), (5, 3), (tolerance, 2 * tolerance))


def test_tokens_in_half_precision_and_weights_in_float32_as_under_autocast():
    tensors, truth = both((1, 5, 3, 20))
    x = tensors[0].detach().bfloat16()
    tensors[0], truth[0] = x.requires_grad_(), x.detach().double().requires_grad_()
    compare(tensors, truth, (5, 3), (1e-2, 1e-2))


def middle(channels):
    """Taps that hand on the token itself."""
    weight = torch.zeros(channels, 1, 3, 3)
    weight[..., 1, 1] = 1
    return weight, torch.zeros(channels)


def test_the_gelu_is_exact_to_the_last_digits_everywhere():
    x = torch.linspace(-12, 12, 2000).view(1, 1, -1).requires_grad_()
    got = depthwise_gelu(x, *middle(2000), (1, 1), backend="triton")
    (slope,) = torch.autograd.grad(got.sum(), x)
    true = x.detach().double().requires_grad_()
    expected = true * 0.5 * torch.special.erfc(-true * 0.5**0.5)
    (expected_slope,) = torch.autograd.grad(expected.sum(), true)
    error = (got.detach() - expected.detach()).abs()
    assert float((error / true.detach().abs().clamp(min=1e-3)).max()) < 2e-7
    assert float((slope - expected_slope).abs().max()) < 3e-7


def test_large_numbers():
    x = torch.tensor([-1e30, -100.0, 100.0, 1e30, float("inf")]).view(1, 1, 5).requires_grad_()
    weight, bias = middle(5)
    out = depthwise_gelu(x, weight, bias, (1, 1), backend="triton")
    assert out.flatten().tolist() == [0.0, 0.0, 100.0, pytest.approx(1e30), float("inf")]
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert slope.flatten()[:4].tolist() == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_not_a_number_reaches_what_depends_on_it_and_nothing_else(which):
    tensors = inputs(2, 5, 3, 20, torch.float32)
    tensors[which].view(-1)[4] = float("nan")
    spoilt = depthwise_gelu(*tensors, (5, 3), backend="triton").isnan()
    assert torch.equal(spoilt, depthwise_gelu_reference(*tensors, (5, 3)).isnan()) and spoilt.any()


def test_gradients_where_the_output_has_none_that_is_a_number():
    tensors, _ = both((1, 3, 3, 2))
    dout = torch.zeros(1, 9, 2)
    dout[0, 0, 1] = float("nan")
    dx, dweight, dbias = torch.autograd.grad(depthwise_gelu(*tensors, (3, 3), backend="triton"), tensors, dout)
    assert dx.isnan().nonzero()[:, 1:].tolist() == [[0, 1], [1, 1], [3, 1], [4, 1]]
    assert dweight[1].isnan().all() and dbias.isnan().tolist() == [False, True] and not dweight[0].any()


@pytest.mark.parametrize("sizes", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 3, 0)])
def test_nothing_gives_nothing(sizes):
    tensors, _ = both(sizes)
    out = depthwise_gelu(*tensors, sizes[1:3], backend="triton")
    assert out.shape == tensors[0].shape
    out.sum().backward()
    assert all(t.grad.shape == t.shape and not t.grad.any() for t in tensors)


def test_inputs_that_are_not_contiguous():
    tensors, truth = both((2, 5, 3, 20))
    crooked = [t.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for t in tensors]
    compare(crooked, truth, (5, 3))


WANTED = {
    "all": ((True, True, True), (True, True)),
    "frozen": ((True, False, False), (True, False)),
    "a frozen weight": ((True, False, True), (True, True)),
    "tokens that need none": ((False, True, True), (False, True)),
}


@pytest.mark.parametrize("name", WANTED)
def test_only_gradients_that_are_wanted_are_computed(name, monkeypatch):
    wanted, expected = WANTED[name]
    seen, through_gelu = [], kernels._through_gelu

    def record(*arguments):
        found = through_gelu(*arguments)
        seen.append(tuple(t.numel() > 0 for t in found))
        return found

    monkeypatch.setattr(kernels, "_through_gelu", record)
    tensors, truth = both((1, 2, 3, 4))
    for group in (tensors, truth):
        for tensor, wants in zip(group, wanted, strict=True):
            tensor.requires_grad_(wants)
    depthwise_gelu(*tensors, (2, 3), backend="triton").square().sum().backward()
    depthwise_gelu_reference(*truth, (2, 3)).square().sum().backward()
    assert seen == [expected]
    for tensor, exact, wants in zip(tensors, truth, wanted, strict=True):
        assert relative(tensor.grad, exact.grad) < 1e-6 if wants else tensor.grad is None


def test_the_ops_keep_torchs_rules():
    tensors = both((1, 2, 3, 4))[0]
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        kernels.depthwise_forward, (*tensors, 2, 3), test_utils=(*tests, "test_autograd_registration")
    )
    plain = [t.detach() for t in tensors]
    for wanted in ((True, True), (True, False), (False, True)):
        arguments = (*plain, torch.ones(1, 6, 4), 2, 3, *wanted)
        torch.library.opcheck(kernels.depthwise_backward, arguments, test_utils=tests)


@pytest.mark.parametrize("frozen", [False, True])
def test_torch_compile_takes_it_whole(frozen):
    def loss(*tensors):
        return depthwise_gelu(*tensors, (2, 3), backend="triton").square().sum()

    results = []
    for function in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        tensors = both((1, 2, 3, 4))[0]
        for tensor in tensors[1:]:
            tensor.requires_grad_(not frozen)
        function(*tensors).backward()
        results.append([t.grad for t in tensors if t.requires_grad])
    assert len(results[0]) == (1 if frozen else 3)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
