"""Linear layers: the compiled kernel against torch's own in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from lgrnet.ops import cpu, layer_norm, linear
from lgrnet.ops.backends import BackendError
from lgrnet.ops.projection import WORTH
from lgrnet.ops.projection.cpu import linear_backward, linear_forward
from tests.ops.errors import relative

compiled = pytest.mark.skipif(cpu.missing() is not None, reason=f"compiled CPU kernels: {cpu.missing()}")
SIZES = {  # rows, C, D
    "one of each": (1, 1, 1),
    "odd numbers": (7, 3, 5),
    "a panel and one more": (13, 17, 33),
    "a row more than a tile": (13, 64, 64),
    "PVTv2's stage 1, smaller": (300, 64, 64),
    "channels in two shares": (40, 512, 48),
    "channels in shares that are not alike": (9, 1000, 20),
    "columns in several parts": (30, 320, 500),
    "more rows than are laid out at once": (2000, 30, 20),
    "rows whose shares of the weights' gradient are added": (9000, 30, 10),
}


ERRORS = {torch.float32: 2e-6, torch.bfloat16: 2**-8}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@compiled
@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", SIZES)
def test_linear(name, threads, dtype, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    rows, inputs, outputs = SIZES[name]
    limit = ERRORS[dtype] * (1 + inputs % 2)  # of odd numbers of bfloat16 it is torch's own, which rounds more often
    shapes = ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))
    x, weight, bias, residual = (normal(*shape).to(dtype) for shape in shapes)
    plain = x.double() @ weight.double().T
    assert relative(linear(x, weight, backend="cpu"), plain) < limit
    assert relative(linear(x, weight, bias, backend="cpu"), plain + bias) < limit
    assert relative(linear(x, weight, bias, residual=residual, backend="cpu"), plain + bias + residual) < limit
    kept = residual.clone()
    assert linear(x, weight, residual=kept, out=kept, backend="cpu") is kept
    assert relative(kept, plain + residual) < limit


@compiled
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", SIZES)
def test_gradients(name, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    rows, inputs, outputs = SIZES[name]
    low = [normal(*shape) for shape in ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))]
    dout = normal(rows, outputs, seed=1)

    def gradients(tensors, backend):
        x, weight, bias, residual = leaves = [t.clone().requires_grad_() for t in tensors]
        y = linear(x, weight, bias, residual=residual, backend=backend)
        return y, *torch.autograd.grad(y, leaves, dout.to(y.dtype))

    expected = gradients([t.double() for t in low], "reference")
    for found, exact in zip(gradients(low, "cpu"), expected, strict=True):
        assert relative(found, exact) < 4e-6


@compiled
def test_gradients_are_the_same_on_any_number_of_threads_and_wherever_tensors_lie(monkeypatch):
    x, weight, dout = normal(9000, 40), normal(30, 40), normal(9000, 30)
    whole = linear_backward(x, weight, dout, [True, True])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    crooked = [t.T.contiguous().T for t in (x, weight, dout)]
    three = (x.view(3, 3000, 40), weight, dout.view(3, 3000, 30))
    for tensors in ((x, weight, dout), crooked, three):
        for found, expected in zip(linear_backward(*tensors, [True, True]), whole, strict=True):
            assert torch.equal(found.view_as(expected), expected)


@compiled
def test_only_the_gradients_that_are_wanted_and_those_of_gradients():
    x, weight, bias = normal(9, 5), normal(4, 5).requires_grad_(), normal(4).requires_grad_()
    dweight, dbias = torch.autograd.grad(linear(x, weight, bias, backend="cpu").sum(), (weight, bias))
    torch.testing.assert_close(dweight, x.sum(0).expand(4, 5))
    assert torch.equal(dbias, torch.full((4,), 9.0))
    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(linear(x, weight, backend="cpu").pow(2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), weight)
    (plain,) = torch.autograd.grad(F.linear(x, weight).pow(2).sum(), x, create_graph=True)
    torch.testing.assert_close(second, *torch.autograd.grad(plain.sum(), weight))
    torch.library.opcheck(linear_forward, (x, weight, bias), test_utils=("test_schema", "test_faketensor"))
    arguments = (x.detach(), weight.detach(), normal(9, 4), [True, False])
    torch.library.opcheck(linear_backward, arguments, test_utils=("test_schema", "test_faketensor"))


@compiled
def test_the_ops_refuse_what_is_not_as_they_read():
    x, weight = normal(3, 4), normal(2, 4)
    for wrong in ((x[:, 1:], weight), (x.double(), weight), (x, weight.bfloat16())):
        with pytest.raises(ValueError, match="expected float32"):
            linear_forward(*wrong, None)
        with pytest.raises(ValueError, match="expected float32"):
            linear_backward(*wrong, normal(3, 2), [True, True])
    for dout in (normal(2, 2), normal(3, 2).double()):
        with pytest.raises(ValueError, match="dout is"):
            linear_backward(x, weight, dout, [True, True])


@compiled
def test_training_takes_the_kernel_for_many_products_where_it_is_faster(monkeypatch):
    def by_kernel(rows):
        y = linear(normal(rows, 64), normal(64, 64).requires_grad_())
        return "linear_forward" in type(y.grad_fn).__name__

    monkeypatch.setattr(cpu, "is_faster", lambda dtype: True)
    for faster in (False, True):
        monkeypatch.setattr(cpu, "gradients_are_faster", lambda faster=faster: faster)
        assert by_kernel(WORTH // 64**2) == faster and not by_kernel(100)


@compiled
def test_bfloat16_is_rounded_once():
    """As float32 products of the same numbers, rounded at the end, in all but a few places near the middle of two."""
    x, weight, bias = (t.bfloat16() for t in (normal(50, 640), normal(40, 640), normal(40)))
    expected = (x.double() @ weight.double().T + bias).bfloat16()
    found = linear(x, weight, bias, backend="cpu")
    assert (found != expected).float().mean() < 0.01
    for strange in (x[:, 1:], x.flatten()[1:-639].view(-1, 640)):  # no whole pairs
        assert (
            relative(
                linear(strange, weight[:, : strange.shape[1]], backend="cpu"),
                strange.double() @ weight[:, : strange.shape[1]].double().T,
            )
            < ERRORS[torch.bfloat16]
        )


@compiled
@pytest.mark.parametrize("dtype", ERRORS)
def test_a_row_is_the_same_whatever_stands_beside_it_and_on_any_number_of_threads(dtype, monkeypatch):
    x, weight, bias = (t.to(dtype) for t in (normal(900, 400), normal(70, 400), normal(70)))
    whole = linear(x, weight, bias, backend="cpu")
    assert torch.equal(torch.cat([linear(part, weight, bias, backend="cpu") for part in x.split(7)]), whole)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert torch.equal(linear(x, weight, bias, backend="cpu"), whole)


@compiled
def test_parts_are_read_where_they_lie():
    x, weight = normal(2, 6, 40), normal(24, 40)
    parts = [linear(x[..., c : c + 20], weight[:, c : c + 20], backend="cpu") for c in (0, 20)]
    assert relative(sum(parts), x.double() @ weight.double().T) < 2e-6
    crooked = x.mT.contiguous().mT
    assert torch.equal(linear(crooked, weight.T.contiguous().T, backend="cpu"), linear(x, weight, backend="cpu"))


@compiled
@pytest.mark.parametrize("dtype", ERRORS)
def test_not_a_number_stays_in_its_row(dtype):
    x, weight, bias = (normal(*shape).to(dtype) for shape in ((20, 16), (16, 16), (16,)))
    x[3, 5] = float("nan")
    y = linear(x, weight, bias, backend="cpu")
    assert y[3].isnan().all() and y.isnan().any(1).sum() == 1


@compiled
def test_numbers_that_are_not_finite_or_of_any_size():
    x, weight, bias = normal(70, 70), normal(40, 70), normal(40)
    weight[:, 5], weight[7, 9] = 1.0, float("inf")
    x[3, 5], x[9, 6], x[20, 7], x[21, 5], x[21, 6] = (float(number) for number in ("inf", "-inf", "nan", "inf", "-inf"))
    x[40], x[50] = 1e36, x[50] * 1e-30
    y, expected = linear(x, weight, bias, backend="cpu"), F.linear(x, weight, bias)
    assert torch.equal(y.isnan(), expected.isnan()) and torch.equal(y.isinf(), expected.isinf())
    exact = F.linear(x.double(), weight.double(), bias.double())
    sizes = F.linear(x.double().abs(), weight.double().abs(), bias.double().abs())
    some = expected.isfinite()
    assert some.sum() > 2000 and ((y - exact).abs() / sizes)[some].max() < 1e-6


@pytest.mark.parametrize("backend", ["auto", "reference", pytest.param("cpu", marks=compiled)])
def test_of_nothing(backend):
    assert linear(torch.zeros(0, 4), torch.ones(3, 4), torch.ones(3), backend=backend).shape == (0, 3)
    assert linear(torch.zeros(2, 0), torch.ones(3, 0), torch.ones(3), backend=backend).eq(1).all()
    assert linear(torch.zeros(2, 4), torch.ones(0, 4), backend=backend).shape == (2, 0)


def test_gradients_other_types_autocast_and_graphs_take_torchs_own():
    x, weight, bias = normal(5, 8), normal(6, 8).requires_grad_(), normal(6)
    y = linear(x, weight, bias, residual=normal(5, 6))
    assert torch.equal(y, F.linear(x, weight, bias) + normal(5, 6)) and y.requires_grad
    with torch.no_grad():
        assert linear(x.double(), weight.double()).dtype == torch.float64
        assert linear(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x, weight).dtype == torch.bfloat16
        program = torch.export.export(Layer(), (torch.rand(4, 8),)).module()
        torch.testing.assert_close(program(torch.ones(4, 8)), Layer()(torch.ones(4, 8)))


def test_tensors_without_memory_take_torchs_own():
    with FakeTensorMode():
        assert linear(torch.ones(2, 3), torch.ones(4, 3)).shape == (2, 4)


class Layer(torch.nn.Module):
    """Linear, of fixed weights."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", normal(3, 8))

    def forward(self, x):
        return linear(x, self.weight)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: linear(torch.ones(2, 3), torch.ones(4, 5)), r"x has shape \(2, 3\) and weight \(4, 5\)"),
        (lambda: linear(torch.ones(2, 3), torch.ones(4, 3), torch.ones(3)), r"bias has shape \(3,\), expected \(4,\)"),
        (lambda: linear(torch.ones(2, 3), torch.ones(4, 3), residual=torch.ones(4)), r"residual has shape \(4,\)"),
        (lambda: linear(torch.ones(2, 3), torch.ones(4, 3), out=torch.ones(4, 2).T), "out is not contiguous"),
        (
            lambda: linear(torch.ones(2, 3), torch.ones(4, 3), backend="mkl"),
            "backend is 'mkl', expected auto or one of",
        ),
        (
            lambda: linear(torch.ones(2, 3), torch.ones(4, 3, device="meta")),
            "weight is on meta, x on cpu; move both to one device",
        ),
        (
            lambda: linear(torch.ones(2, 3), torch.ones(4, 3, dtype=torch.int32)),
            "weight is torch.int32, expected a floating-point type",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@torch.no_grad()
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_what_is_written_is_not_read_later(backend):
    room = torch.randn(40, 16)
    x, weight = room[:20], torch.randn(16, 16)
    for rows, out, name in ((x, x, "x"), (x, room[1:21], "x"), (weight + 1, weight, "weight")):
        with pytest.raises(ValueError, match=f"out shares memory with {name}; give another tensor"):
            linear(rows, weight, out=out, backend=backend)
    with pytest.raises(ValueError, match="out shares memory with residual"):
        linear(torch.randn(20, 16), weight, residual=room[:20], out=room[1:21], backend=backend)
    out, expected = room[20:], linear(x, weight, residual=room[20:].clone(), backend="reference")
    torch.testing.assert_close(linear(x, weight, residual=out, out=out, backend=backend), expected)


@compiled
@torch.no_grad()
def test_negative_views_have_their_own_sign():
    x, weight = torch.randn(4, 16)._neg_view(), torch.randn(5, 16)
    torch.testing.assert_close(linear(x, weight), linear(x, weight, backend="reference"))
    torch.testing.assert_close(linear(weight, x), linear(weight, x, backend="reference"))
    norm = torch.ones(16), torch.zeros(16)
    torch.testing.assert_close(layer_norm(x, *norm), layer_norm(x, *norm, backend="reference"))
    with pytest.raises(BackendError, match="a negative view with the wrong sign"):
        linear(x, weight, backend="cpu")


@compiled
def test_the_kernel_by_name_says_what_it_cannot():
    x, weight = torch.ones(2, 3), torch.ones(4, 3)
    with pytest.raises(BackendError, match="takes float32 or bfloat16, not .*64"):
        linear(x.double(), weight.double(), backend="cpu")
    with pytest.raises(BackendError, match="it has no gradients in bfloat16"):
        linear(x.bfloat16().requires_grad_(), weight.bfloat16(), backend="cpu")
    mixed = (x, weight.bfloat16())
    with pytest.raises(BackendError, match="of one type, not some of float32 and some of bfloat16"):
        linear(*mixed, backend="cpu")


@compiled
def test_a_processor_without_products_of_bfloat16_says_so_and_takes_torchs_own(monkeypatch):
    class Library:
        """Of AVX-512 without AVX512_BF16."""

        @staticmethod
        def lgrnet_bfloat16():
            return 0

    monkeypatch.setattr(cpu, "library", Library)
    cpu.is_faster.cache_clear()
    x, weight = normal(2, 4).bfloat16(), normal(3, 4).bfloat16()
    try:
        assert torch.equal(linear(x, weight), F.linear(x, weight))
        with pytest.raises(BackendError, match="no instructions for products of bfloat16"):
            linear(x, weight, backend="cpu")
    finally:
        cpu.is_faster.cache_clear()
