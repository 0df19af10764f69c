"""The compiled scan against the reference in float64: value, every gradient, odd sizes, streams and bad input."""

from __future__ import annotations

import pytest
import torch

from lgrnet.ops import cpu, selective_scan
from lgrnet.ops.scan.cpu import scan_forward, selective_scan_cpu
from lgrnet.ops.scan.reference import selective_scan_reference
from tests.ops.errors import relative
from tests.ops.test_scan import inputs

pytestmark = pytest.mark.skipif(cpu.missing() is not None, reason=f"compiled CPU kernels: {cpu.missing()}")

SIZES = [
    {},
    {"length": 1},
    {"dim": 1, "directions": 1, "states": 1, "rank": 1},
    {"length": 65, "dim": 37, "rank": 3, "states": 5, "directions": 3},
    {"length": 70, "dim": 64, "rank": 4, "states": 16, "batch": 1},
    {"length": 33, "dim": 20, "rank": 4, "states": 16, "directions": 4},
]


def both(arguments, dtype=torch.float32):
    """The same values for the kernel and, in float64, for the reference."""
    order = arguments.pop("order")
    low = [t.to(dtype) for t in arguments.values()]
    return [t.requires_grad_() for t in low], [t.detach().double().requires_grad_() for t in low], order


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_value_and_every_gradient(sizes, with_state):
    tensors, truth, order = both(inputs(**sizes))
    if with_state:
        state = torch.randn(len(tensors[0]), *tensors[6].shape, generator=torch.Generator().manual_seed(1))
        tensors.append(state.requires_grad_())
        truth.append(state.detach().double().requires_grad_())
    got = selective_scan_cpu(*tensors[:8], order, *tensors[8:], return_state=True)
    expected = selective_scan_reference(*truth[:8], order, *truth[8:], return_state=True)
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(t.shape, generator=generator) for t in got]
    for found, true in zip(got, expected, strict=True):
        assert relative(found, true) < 2e-6
    gradients = torch.autograd.grad(sum((t * w).sum() for t, w in zip(got, weights, strict=True)), tensors)
    true_gradients = torch.autograd.grad(sum((t * w).sum() for t, w in zip(expected, weights, strict=True)), truth)
    for found, true in zip(gradients, true_gradients, strict=True):
        assert relative(found, true) < 1e-5


def test_without_gradients_nothing_is_kept():
    tensors, _, order = both(inputs(length=40))
    assert scan_forward(*(t.detach() for t in tensors), order, None, False)[2].numel() == 0
    assert not selective_scan_cpu(*(t.detach() for t in tensors), order).requires_grad


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_half_precision_comes_and_goes_with_float32_inside(dtype, tolerance):
    tensors, truth, order = both(inputs(length=50, dim=16, states=16), dtype)
    got = selective_scan_cpu(*tensors, order)
    assert got.dtype == dtype
    assert relative(got, selective_scan_reference(*truth, order)) < tolerance
    got.float().sum().backward()
    assert all(t.grad.dtype == dtype and t.grad.isfinite().all() for t in tensors)


@pytest.mark.parametrize("states", [4, 16])
def test_a_stream_in_chunks_is_bit_equal_to_one_shot(states):
    sizes = {"length": 101, "dim": 40, "states": states}
    arguments = {k: v.float() if v.is_floating_point() else v for k, v in inputs(**sizes).items()}
    arguments["dt"][:, 20:60:9] *= 1e4  # some steps so long that exp(delta A) is 0: another way through the kernel
    arguments["order"] = torch.stack([torch.arange(101), torch.arange(101)]).int()
    whole, last = selective_scan(**arguments, return_state=True, backend="cpu")
    parts, state, start = [], None, 0
    for size in (1, 33, 40, 27):
        part = {k: v[:, start : start + size] if k in ("x", "dt", "B", "C") else v for k, v in arguments.items()}
        part["order"] = torch.stack([torch.arange(size)] * 2).int()
        y, state = selective_scan(**part, initial_state=state, return_state=True, backend="cpu")
        parts.append(y)
        start += size
    assert torch.equal(torch.cat(parts, 1), whole) and torch.equal(state, last)


def test_the_number_of_threads_changes_no_bit():
    tensors, _, order = both(inputs(length=50, dim=70))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            y = selective_scan_cpu(*tensors, order)
            results.append([y, *torch.autograd.grad(y.square().sum(), tensors)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_hundred_thousand_tokens():
    arguments = inputs(batch=1, length=100_000, dim=2, states=2)
    exact = selective_scan_reference(**arguments)
    tensors, _, order = both(arguments)
    assert relative(selective_scan_cpu(*tensors, order), exact) < 1e-5


@pytest.mark.parametrize("bias", [-1e4, -40.0, 40.0, 1e4, 1e30])
def test_extreme_time_steps(bias):
    arguments = inputs(length=20) | {"dt_bias": torch.full((2, 3), bias, dtype=torch.float64)}
    arguments["x"] = arguments["x"] * min(1.0, 1 / abs(bias))
    tensors, truth, order = both(arguments)
    got, expected = selective_scan_cpu(*tensors, order), selective_scan_reference(*truth, order)
    assert got.isfinite().all()
    assert relative(got, expected) < 1e-5
    assert all(g.isfinite().all() for g in torch.autograd.grad(got.sum(), tensors[:6]))


def test_growing_states_overflow_to_infinity_as_in_torch():
    arguments = inputs(length=400, directions=1)
    arguments["A"] = -arguments["A"]
    arguments["dt_bias"] = arguments["dt_bias"] + 30
    tensors, _, order = both(arguments)
    got, expected = selective_scan_cpu(*tensors, order), selective_scan_reference(*tensors, order)
    assert torch.equal(got.isfinite(), expected.isfinite()) and not got.isfinite().all()


def test_not_a_number_stays_in_its_channel_and_its_future():
    arguments = {k: v.float() if v.is_floating_point() else v for k, v in inputs(length=12, directions=1).items()}
    arguments["order"] = torch.arange(12).int()[None]
    arguments["x"][0, 5, 1] = float("nan")
    y = selective_scan(**arguments, backend="cpu")
    assert y[0, 5:, 1].isnan().all()
    y[0, 5:, 1] = 0
    assert not y.isnan().any()


@pytest.mark.parametrize("length, batch", [(0, 2), (3, 0)])
def test_nothing_gives_nothing(length, batch):
    tensors, _, order = both(inputs(length=length, batch=batch))
    y, state = selective_scan_cpu(*tensors, order, return_state=True)
    assert y.shape == tensors[0].shape and state.shape == (batch, 2, 3, 4)
    (y.sum() + state.sum()).backward()
    assert all(t.grad is None or not t.grad.isnan().any() for t in tensors)


def test_no_direction_gives_zeros():
    arguments = {k: v if k == "x" else v[:, :, :0] if v.ndim == 4 else v[:0] for k, v in inputs(directions=1).items()}
    tensors, _, order = both(arguments)
    y = selective_scan_cpu(*tensors, order)
    y.sum().backward()
    assert y.shape == tensors[0].shape and not y.any()
    assert torch.equal(tensors[0].grad, torch.zeros_like(tensors[0]))


WRONG = {torch.int32: [[0, 1, 1], [0, 1, 3], [-1, 0, 1]], torch.int64: [[0, 1, 1], [2**32, 1, 2], [-(2**32), 1, 2]]}


@pytest.mark.parametrize("dtype, order", [(dtype, order) for dtype, orders in WRONG.items() for order in orders])
def test_an_order_that_is_no_permutation_is_refused(dtype, order):
    arguments = inputs(length=3, directions=1) | {"order": torch.tensor([order], dtype=dtype)}
    tensors, _, wrong = both(arguments)
    with pytest.raises(ValueError, match="no permutation"):
        selective_scan_cpu(*tensors, wrong)


def test_more_states_than_the_kernel_does():
    tensors, _, order = both(inputs(states=300))
    with pytest.raises(ValueError, match="300 states"):
        selective_scan_cpu(*tensors, order)


def test_inputs_that_are_not_contiguous():
    tensors, truth, order = both(inputs(length=30, dim=8))
    crooked = [t.detach().transpose(0, -1).contiguous().transpose(0, -1) for t in tensors]
    assert (
        relative(selective_scan_cpu(*crooked, order.T.contiguous().T), selective_scan_reference(*truth, order)) < 2e-6
    )


@pytest.mark.parametrize(("states", "rank"), [(300, 3), (2, 300)])
def test_more_states_than_the_kernel_keeps(states, rank):
    """By itself the reference is taken; asked for by name the kernel refuses."""
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (1, 3, 2),
        (1, 3, 1, rank),
        (1, 3, 1, states),
        (1, 3, 1, states),
        (1, 2, rank),
        (1, 2),
        (1, 2, states),
        (1, 2),
    ]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    tensors[6] = -tensors[6].abs()
    order = torch.arange(3)[None]
    assert torch.equal(selective_scan(*tensors, order), selective_scan(*tensors, order, backend="reference"))
    with pytest.raises(ValueError, match=f"{states} states and rank {rank}; the kernel does up to 256 of both"):
        selective_scan(*tensors, order, backend="cpu")


def test_the_op_keeps_torchs_rules():
    tensors, _, order = both(inputs(length=9))
    torch.library.opcheck(scan_forward, (*tensors, order, None, True), test_utils=("test_schema", "test_faketensor"))
