"""Layer norm: the compiled kernel against torch's own in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lgrnet.layers.norm import LayerNorm, normalised
from lgrnet.ops import cpu, layer_norm
from lgrnet.ops.backends import BackendError
from tests.ops.errors import relative

compiled = pytest.mark.skipif(cpu.missing() is not None, reason=f"compiled CPU kernels: {cpu.missing()}")
ERRORS = {torch.float32: 5e-7, torch.bfloat16: 2**-8}
SIZES = {  # tokens, C
    "one of each": (1, 1),
    "odd numbers": (7, 5),
    "a vector and one more": (17, 17),
    "PVTv2's stage 1, smaller": (300, 64),
    "PVTv2's stage 3": (33, 320),
    "more tokens than a task takes": (1100, 36),
}


def inputs(tokens, channels, dtype=torch.float32):
    generator = torch.Generator().manual_seed(tokens + channels)
    x, weight, bias = (torch.randn(n, channels, generator=generator) for n in (tokens, 1, 1))
    return [t.to(dtype) for t in (2 * x + 3, weight[0], bias[0])]


@compiled
@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", SIZES)
def test_value(name, threads, dtype, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    low = inputs(*SIZES[name], dtype)
    expected = layer_norm(*(t.double() for t in low), 1e-3)
    assert relative(layer_norm(*low, 1e-3, backend="cpu"), expected) < ERRORS[dtype]


@compiled
def test_a_mean_far_from_zero_and_numbers_that_are_all_the_same():
    x, weight, bias = inputs(20, 64)
    expected = layer_norm((x + 1000).double(), weight.double(), bias.double())
    assert relative(layer_norm(x + 1000, weight, bias, backend="cpu"), expected) < 1e-4
    assert torch.equal(layer_norm(torch.full((3, 64), 7.0), weight, bias, backend="cpu"), bias.expand(3, 64))


@compiled
@pytest.mark.parametrize("dtype", ERRORS)
def test_a_token_is_the_same_whatever_stands_beside_it_and_where_it_lies(dtype):
    x, weight, bias = inputs(100, 20, dtype)
    whole = layer_norm(x, weight, bias, backend="cpu")
    assert torch.equal(torch.cat([layer_norm(part, weight, bias, backend="cpu") for part in x.split(7)]), whole)
    wider = torch.cat((x, x), 1)[:, :20]
    crooked = x.T.contiguous().T
    for other in (wider, crooked):
        assert not other.is_contiguous() and torch.equal(layer_norm(other, weight, bias, backend="cpu"), whole)
    assert torch.equal(layer_norm(x.view(4, 25, 20), weight, bias, backend="cpu").flatten(0, 1), whole)


@compiled
@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
def test_not_a_number_stays_in_its_token(strange):
    x, weight, bias = inputs(20, 36)
    x[3, 5] = strange
    spoilt = layer_norm(x, weight, bias, backend="cpu").isnan()
    assert spoilt[3].all() and spoilt.any(1).sum() == 1


@pytest.mark.parametrize("backend", ["auto", "reference", pytest.param("cpu", marks=compiled)])
def test_of_nothing(backend):
    assert layer_norm(torch.zeros(0, 4), torch.ones(4), torch.ones(4), backend=backend).shape == (0, 4)


def test_gradients_other_types_and_autocast_take_torchs_own():
    x, weight, bias = inputs(5, 8)
    assert layer_norm(x.requires_grad_(), weight, bias).requires_grad
    with torch.no_grad():
        assert layer_norm(x.double(), weight.double(), bias.double()).dtype == torch.float64
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer_norm(x, weight, bias), F.layer_norm(x, (8,), weight, bias))


def test_layers_of_libraries():
    """Without parameters, of several axes, or no layer norm at all: as they are."""
    x = inputs(6, 8)[0].view(2, 3, 8)
    others = nn.LayerNorm(8, elementwise_affine=False), nn.LayerNorm(8, bias=False), nn.LayerNorm((3, 8)), nn.Identity()
    with torch.no_grad():
        for norm in others:
            assert torch.equal(normalised(norm, x), norm(x))
        ours, theirs = LayerNorm(8, eps=0.1), nn.LayerNorm(8, eps=0.1)
        torch.testing.assert_close(ours(x), theirs(x))
        torch.testing.assert_close(normalised(theirs, x), theirs(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: layer_norm(torch.tensor(1.0), torch.ones(1), torch.ones(1)), "x has no axis"),
        (
            lambda: layer_norm(torch.ones(2, 3), torch.ones(2), torch.ones(3)),
            r"weight has shape \(2,\), expected \(3,\)",
        ),
        (lambda: layer_norm(torch.ones(2, 3), torch.ones(3), torch.ones(1)), r"bias has shape \(1,\), expected \(3,\)"),
        (
            lambda: layer_norm(torch.ones(2, 3), torch.ones(3), torch.ones(3, device="meta")),
            "bias is on meta, x on cpu",
        ),
        (lambda: layer_norm(torch.ones(2, 3), torch.ones(3), torch.ones(3), backend="mkl"), "backend is 'mkl'"),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@compiled
def test_the_kernel_by_name_says_what_it_cannot():
    x, weight, bias = inputs(2, 4)
    with pytest.raises(BackendError, match="it has no gradients"):
        layer_norm(x.requires_grad_(), weight, bias, backend="cpu")
    with pytest.raises(BackendError, match="takes float32 or bfloat16, not .*64"):
        layer_norm(*(t.double() for t in (x, weight, bias)), backend="cpu")
