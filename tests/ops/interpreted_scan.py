"""The scan's Triton kernels in Triton's interpreter; test_scan_triton.py runs this file where TRITON_INTERPRET=1.

The interpreter works element by element, so everything is tiny.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from lgrnet.ops import selective_scan
from lgrnet.ops.scan import triton_kernels as kernels
from lgrnet.ops.scan.reference import selective_scan_reference
from tests.ops.errors import relative
from tests.ops.test_scan import inputs

CASES = {
    "two directions, odd sizes": {"length": 9, "dim": 3, "states": 3, "rank": 3, "batch": 1},
    "one token": {"length": 1, "dim": 2, "states": 2},
    "three directions, more tokens than a tile": {"length": 17, "dim": 2, "states": 1, "rank": 1, "directions": 3},
    "more channels than a block": {"length": 3, "dim": 5, "states": 1, "directions": 1, "batch": 1},
    "rank above what the kernels project": {"length": 4, "dim": 2, "states": 2, "rank": 17, "batch": 1},
    "more directions than go side by side": {"length": 3, "dim": 1, "states": 1, "directions": 9, "batch": 1},
    "many states": {"length": 3, "dim": 1, "states": 40, "directions": 1, "batch": 1},
}


def both(arguments, dtype=torch.float32):
    """The same values for the kernels and, in float64, for the reference."""
    order = arguments.pop("order")
    low = [t.to(dtype) for t in arguments.values()]
    return [t.requires_grad_() for t in low], [t.detach().double().requires_grad_() for t in low], order


def compare(arguments, with_state, dtype=torch.float32, tolerances=(2e-6, 1e-5)):
    """Value, last state and every gradient against the reference in float64."""
    tensors, truth, order = both(arguments, dtype)
    if with_state:
        shape = (len(tensors[0]), *tensors[6].shape)
        state = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        tensors.append(state.requires_grad_())
        truth.append(state.detach().double().requires_grad_())
    got = kernels.selective_scan_triton(*tensors[:8], order, *tensors[8:], return_state=True)
    expected = selective_scan_reference(*truth[:8], order, *truth[8:], return_state=True)
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(t.shape, generator=generator) for t in got]
    for found, true in zip(got, expected, strict=True):
        assert relative(found, true) < tolerances[0]
    loss = sum((t.float() * w).sum() for t, w in zip(got, weights, strict=True))
    gradients = torch.autograd.grad(loss, tensors)
    true = torch.autograd.grad(sum((t * w).sum() for t, w in zip(expected, weights, strict=True)), truth)
    for found, exact, tensor in zip(gradients, true, tensors, strict=True):
        assert found.dtype == tensor.dtype and relative(found, exact) < tolerances[1]


@pytest.mark.parametrize("name", CASES)
def test_value_and_every_gradient(name):
    compare(inputs(**CASES[name]), with_state="odd" in name)


def test_no_product_of_a_high_rank_is_rounded_to_tf32():
    """Products of float32 follow a setting of the process, forward and backward."""
    seen = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm):
                seen.extend(t.dtype for t in args)
            return function(*args, **(kwargs or {}))

    tensors, _, order = both(inputs(length=3, dim=2, states=1, rank=17, batch=1))
    with Products():
        y = selective_scan(*tensors, order, backend="triton")
        torch.autograd.grad(y.sum(), tensors)
    assert len(seen) == 6 and set(seen) == {torch.float64}


def test_under_activation_checkpointing():
    """It lets what was kept be read once."""
    (x, *others), _, order = both(inputs(length=5, dim=2, states=2, rank=1, batch=1))

    def scanned(x):
        return selective_scan(x, *others, order, backend="triton")

    plain = torch.autograd.grad(scanned(x).sum(), (x, *others))
    again = torch.autograd.grad(checkpoint(scanned, x, use_reentrant=False).sum(), (x, *others))
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_gradients_of_the_last_state_alone_and_of_the_output_alone():
    tensors, truth, order = both(inputs(length=5, dim=2, states=2, rank=1, batch=1))
    for part in (0, 1):
        found = kernels.selective_scan_triton(*tensors, order, return_state=True)[part]
        true = selective_scan_reference(*truth, order, return_state=True)[part]
        gradients = torch.autograd.grad(found.sum(), tensors, allow_unused=True)
        exact = torch.autograd.grad(true.sum(), truth, allow_unused=True)
        for one, wanted in zip(gradients, exact, strict=True):
            assert (one is None or not one.any()) if wanted is None else relative(one, wanted) < 1e-5


@pytest.mark.parametrize("length, directions", [(33, 2), (48, 1)])
def test_chunks_with_a_carried_state(monkeypatch, length, directions):
    monkeypatch.setattr(kernels, "SHORT", 16)
    monkeypatch.setattr(kernels, "_multiprocessors", lambda like: 8)
    sizes = {"length": length, "dim": 2, "states": 1, "rank": 1, "batch": 1, "directions": directions}
    assert kernels._chunk(inputs(**sizes)["x"], directions, 1) == 16  # three chunks, the last of 1 or 16 tokens
    compare(inputs(**sizes), with_state=True)


@pytest.mark.parametrize("with_state", [False, True])
def test_more_clips_than_one_launch_takes(monkeypatch, with_state):
    monkeypatch.setattr(kernels, "CLIPS", 2)
    compare(inputs(length=3, dim=2, states=1, rank=1, batch=3), with_state)


def test_bfloat16_comes_and_goes_with_float32_inside():
    compare(inputs(length=10, dim=3, states=2, batch=1), False, torch.bfloat16, (1e-2, 2e-2))


def test_without_gradients_nothing_is_kept():
    tensors, truth, order = both(inputs(length=9, dim=2, states=2, batch=1))
    y, _, kept = kernels.scan_forward(*(t.detach() for t in tensors), order, None, False)
    assert kept.numel() == 0 and relative(y, selective_scan_reference(*truth, order)) < 2e-6


def test_parts_of_one_projection_and_other_strides_are_read_where_they_are():
    arguments = {k: v.float() if v.is_floating_point() else v for k, v in inputs(length=5, batch=1).items()}
    mixed = torch.cat([arguments[k] for k in ("dt", "B", "C")], -1)
    whole = kernels.selective_scan_triton(**arguments)
    parts = dict(zip(("dt", "B", "C"), mixed.split((2, 4, 4), -1), strict=True))
    crooked = {"x": arguments["x"].mT.contiguous().mT, "A": arguments["A"].mT.contiguous().mT}
    assert torch.equal(kernels.selective_scan_triton(**arguments | parts | crooked), whole)


def test_the_state_carries_a_sequence_on():
    arguments = {k: v.float() for k, v in inputs(length=19, directions=1, states=2, dim=2, batch=1).items()}
    arguments["order"] = torch.arange(19)[None]
    whole, last = selective_scan(**arguments, return_state=True, backend="triton")
    parts, state = [], None
    for start, stop in ((0, 1), (1, 17), (17, 19)):
        part = {k: v[:, start:stop] if k in ("x", "dt", "B", "C") else v for k, v in arguments.items()}
        part["order"] = torch.arange(stop - start)[None]
        y, state = selective_scan(**part, initial_state=state, return_state=True, backend="triton")
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-5)


def test_entries_of_the_order_outside_the_grid_are_skipped():
    arguments = inputs(length=4, directions=1, batch=1) | {"order": torch.tensor([[2, 9, 0, -1]])}
    tensors, truth, order = both(arguments)
    y = kernels.selective_scan_triton(*(t.detach() for t in tensors), order)
    there = [t[:, [2, 0]] for t in truth[:4]]
    expected = selective_scan_reference(*there, *truth[4:], torch.tensor([[0, 1]]))
    assert relative(y[:, [2, 0]], expected) < 2e-6


@pytest.mark.parametrize("bias", [-1e4, -20.0, 40.0, 1e30])
def test_extreme_time_steps(bias):
    arguments = inputs(length=5, states=2, batch=1) | {"dt_bias": torch.full((2, 3), bias, dtype=torch.float64)}
    arguments["x"] = arguments["x"] * min(1.0, 1 / abs(bias))
    tensors, truth, order = both(arguments)
    got = kernels.selective_scan_triton(*tensors, order)
    assert got.isfinite().all() and relative(got, selective_scan_reference(*truth, order)) < 1e-5
    if bias == 1e30:
        assert all(g.isfinite().all() for g in torch.autograd.grad(got.sum(), tensors[:6]))


def test_not_a_number_stays_in_its_channel_and_its_future():
    arguments = {k: v.float() for k, v in inputs(length=6, directions=1, batch=1).items()}
    arguments["order"] = torch.arange(6)[None]
    arguments["x"][0, 3, 1] = float("nan")
    y = kernels.selective_scan_triton(**arguments)
    assert y[0, 3:, 1].isnan().all()
    y[0, 3:, 1] = 0
    assert not y.isnan().any()


@pytest.mark.parametrize("length, batch", [(0, 2), (3, 0)])
def test_nothing_gives_nothing(length, batch):
    tensors, _, order = both(inputs(length=length, batch=batch))
    y, state = kernels.selective_scan_triton(*tensors, order, return_state=True)
    assert y.shape == tensors[0].shape and state.shape == (batch, 2, 3, 4)
    (y.sum() + state.sum()).backward()
    assert all(not t.grad.any() for t in tensors)


def test_the_ops_keep_torchs_rules():
    tensors, _, order = both(inputs(length=3, dim=2, states=2, batch=1))
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(kernels.scan_forward, (*tensors, order, None, True), test_utils=checks)
    kept = kernels.scan_forward(*(t.detach() for t in tensors), order, None, True)[2]
    given = [t.detach() for t in tensors]
    adjoint = (torch.ones(1, 3, 2), torch.zeros(1, 2, 2, 2))
    torch.library.opcheck(kernels.scan_backward, (*given, order, kept, *adjoint), test_utils=checks)


def test_torch_compile_takes_it_whole():
    arguments = {k: v.float() for k, v in inputs(length=3, dim=2, states=1, batch=1).items()}
    arguments["order"] = arguments["order"].int()
    compiled = torch.compile(lambda **given: selective_scan(**given, backend="triton"), backend="eager", fullgraph=True)
    assert torch.equal(compiled(**arguments), selective_scan(**arguments, backend="triton"))
