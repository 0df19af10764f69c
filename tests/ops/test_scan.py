"""The selective scan: against its formula written out, its gradients, its state."""

import numpy as np
import pytest
import torch

from lgrnet.ops import selective_scan


def inputs(batch=2, length=7, dim=3, directions=2, rank=2, states=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    order = torch.stack([torch.randperm(length, generator=generator) for _ in range(directions)]).int()
    return {
        "x": normal(batch, length, dim),
        "dt": normal(batch, length, directions, rank),
        "B": normal(batch, length, directions, states),
        "C": normal(batch, length, directions, states),
        "dt_weight": normal(directions, dim, rank),
        "dt_bias": normal(directions, dim),
        "A": -normal(directions, dim, states).exp(),
        "skip": normal(directions, dim),
        "order": order,
    }


def written_out(x, dt, B, C, dt_weight, dt_bias, A, skip, order):
    """The definition with one loop for every index."""
    x, dt, B, C, dt_weight, dt_bias, A, skip, order = (
        t.numpy() for t in (x, dt, B, C, dt_weight, dt_bias, A, skip, order)
    )
    y = np.zeros_like(x)
    for b in range(x.shape[0]):
        for g in range(order.shape[0]):
            for d in range(x.shape[2]):
                state = np.zeros(A.shape[-1])
                for p in order[g]:
                    delta = np.log1p(np.exp(dt_weight[g, d] @ dt[b, p, g] + dt_bias[g, d]))
                    state = np.exp(delta * A[g, d]) * state + delta * B[b, p, g] * x[b, p, d]
                    y[b, p, d] += C[b, p, g] @ state + skip[g, d] * x[b, p, d]
    return torch.from_numpy(y)


@pytest.mark.parametrize("sizes", [{}, {"length": 1}, {"directions": 1, "dim": 1}, {"directions": 4, "length": 13}])
def test_value(sizes):
    arguments = inputs(**sizes)
    torch.testing.assert_close(selective_scan(**arguments), written_out(**arguments), rtol=1e-12, atol=1e-12)


def test_every_gradient():
    arguments = inputs(length=5)
    order = arguments.pop("order")
    state = torch.randn(2, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tensors = [*arguments.values(), state]
    for tensor in tensors:
        tensor.requires_grad_()

    def scan(*values):
        *rest, initial = values
        return selective_scan(*rest, order, initial_state=initial, return_state=True)

    assert torch.autograd.gradcheck(scan, tensors)


def test_the_state_carries_a_sequence_on():
    """Direction by direction: two halves with the state between give the whole."""
    arguments = inputs(length=10, directions=1)
    arguments["order"] = torch.arange(10).int()[None]
    whole, last = selective_scan(**arguments, return_state=True)
    per_token = ("x", "dt", "B", "C")
    halves, state = [], None
    for part in (slice(0, 4), slice(4, 10)):
        half = {k: v[:, part] if k in per_token else v for k, v in arguments.items()}
        half["order"] = torch.arange(part.stop - part.start).int()[None]
        y, state = selective_scan(**half, initial_state=state, return_state=True)
        halves.append(y)
    torch.testing.assert_close(torch.cat(halves, 1), whole)
    torch.testing.assert_close(state, last)


def test_long_sequences_are_chunked_without_a_seam(monkeypatch):
    from lgrnet.ops.scan import reference

    arguments = inputs(length=23)
    whole = selective_scan(**arguments)
    monkeypatch.setattr(reference, "CHUNK", 4)
    assert torch.equal(selective_scan(**arguments), whole)


def test_half_precision_keeps_its_type_and_a_float_state():
    arguments = inputs(length=40, dtype=torch.float32)
    half = {k: v.bfloat16() if k in ("x", "dt", "B", "C") else v for k, v in arguments.items()}
    y, state = selective_scan(**half, return_state=True)
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32
    exact = selective_scan(**{k: v.float() if k != "order" else v for k, v in half.items()})
    torch.testing.assert_close(y.float(), exact, rtol=1e-2, atol=1e-2 * exact.abs().max().item())


@pytest.mark.parametrize("name", ["dt", "B", "C", "dt_weight", "dt_bias", "A", "skip", "order"])
def test_shapes_that_do_not_fit_are_named(name):
    arguments = inputs()
    arguments[name] = arguments[name][..., :-1]
    with pytest.raises(ValueError, match=r"has shape .*expected|expected \["):
        selective_scan(**arguments)


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend is 'abacus', expected auto or one of .*reference"):
        selective_scan(**inputs(), backend="abacus")
    with pytest.raises(ValueError, match="order is torch.float64, expected an integer type"):
        selective_scan(**{**inputs(), "order": inputs()["order"].double()})


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_no_token_leaves_the_state(backend):
    state = torch.randn(2, 1, 3, 4)
    per_token, weights = [torch.zeros(2, 0, 1, n) for n in (2, 4, 4)], [torch.zeros(1, 3, 2), torch.zeros(1, 3)]
    y, after = selective_scan(
        torch.zeros(2, 0, 3), *per_token, *weights, -torch.ones(1, 3, 4), torch.zeros(1, 3),
        torch.zeros(1, 0, dtype=torch.int64), state, True, backend=backend,
    )  # fmt: skip
    assert y.shape == (2, 0, 3) and torch.equal(after, state)
