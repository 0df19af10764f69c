"""Linear layers: the compiled kernel against torch's own in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from lgrnet.ops import cpu, linear
from lgrnet.ops.backends import BackendError
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
}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@compiled
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", SIZES)
def test_linear(name, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    rows, inputs, outputs = SIZES[name]
    x, weight, bias, residual = normal(rows, inputs), normal(outputs, inputs), normal(outputs), normal(rows, outputs)
    plain = x.double() @ weight.double().T
    assert relative(linear(x, weight, backend="cpu"), plain) < 2e-6
    assert relative(linear(x, weight, bias, backend="cpu"), plain + bias) < 2e-6
    assert relative(linear(x, weight, bias, residual=residual, backend="cpu"), plain + bias + residual) < 2e-6
    kept = residual.clone()
    assert linear(x, weight, residual=kept, out=kept, backend="cpu") is kept
    assert relative(kept, plain + residual) < 2e-6


@compiled
def test_a_row_is_the_same_whatever_stands_beside_it_and_on_any_number_of_threads(monkeypatch):
    x, weight, bias = normal(900, 400), normal(70, 400), normal(70)
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
def test_not_a_number_stays_in_its_row():
    x = normal(20, 16)
    x[3, 5] = float("nan")
    y = linear(x, normal(16, 16), normal(16), backend="cpu")
    assert y[3].isnan().all() and y.isnan().any(1).sum() == 1


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


@compiled
def test_the_kernel_by_name_says_what_it_cannot():
    x, weight = torch.ones(2, 3), torch.ones(4, 3)
    for given, reason in ((x.requires_grad_(), "it has no gradients"), (x.double(), "takes float32 alone, not .*64")):
        with pytest.raises(BackendError, match=f"backend 'cpu' cannot be used because .*{reason}"):
            linear(given, weight, backend="cpu")
