"""Attention to keys that come in chunks, against all keys at once."""

from __future__ import annotations

from functools import reduce

import pytest
import torch

from lgrnet.layers.attention import Attention, Gathered, free_rows


def drawn(keys=600, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = Attention(32, 4).eval()
    query, key, value = (torch.randn(2, n, 32, generator=generator) * scale for n in (5, keys, keys))
    blocked = free_rows(torch.rand(2, 1, 5, keys, generator=generator) > 0.5)
    return attention, query, key, value, blocked


def in_chunks(attention, query, key, value, blocked, size):
    parts = [
        attention.gather(query, *(t[:, i : i + size] for t in (key, value)), None if blocked is None else b)
        for i, b in zip(range(0, key.shape[1], size), _split(blocked, key.shape[1], size), strict=True)
    ]
    return attention.finish(reduce(Gathered.merge, parts))


def _split(blocked, keys, size):
    return [None] * (keys // size) if blocked is None else blocked.split(size, dim=-1)


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 3, 600])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
def test_hundreds_of_chunks_are_as_exact_as_one(size, dtype, masked):
    attention, *given, blocked = drawn()
    blocked = blocked if masked else None
    attention, given = attention.to(dtype), [t.to(dtype) for t in given]
    exact = attention.double()(*(t.double() for t in given), blocked)
    attention.to(dtype)
    found = in_chunks(attention, *given, blocked, size)
    limit = {torch.float64: 1e-13, torch.float32: 5e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    assert found.dtype == dtype and (found.double() - exact).norm() < limit * exact.norm()


@torch.no_grad()
def test_large_products_in_half_precision_stay_finite():
    attention, *given, _ = drawn(scale=100.0)
    attention, given = attention.half(), [t.half() for t in given]
    exact = attention.double()(*(t.double() for t in given))
    attention.half()
    found = in_chunks(attention, *given, None, 60)
    assert (found.double() - exact).norm() < 2e-3 * exact.norm()


@torch.no_grad()
def test_autocast_leaves_the_sums_in_float32():
    attention, *given, blocked = drawn()
    with torch.autocast("cpu", torch.bfloat16):
        gathered = attention.gather(*given, blocked)
        assert gathered.value.dtype == gathered.log_weight.dtype == torch.float32
        found = in_chunks(attention, *given, blocked, 2)
    exact = attention(*given, blocked)
    assert (found - exact).norm() < 2e-2 * exact.norm()


@torch.no_grad()
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(wrong):
    attention, query, key, value, blocked = drawn()
    key[:, 7, 3] = wrong
    for mask in (None, blocked):
        assert not in_chunks(attention, query, key, value, mask, 60).isfinite().all()


@torch.no_grad()
def test_a_row_that_is_blocked_in_some_chunks():
    attention, *given, blocked = drawn()
    blocked[:, :, 2, :400] = True
    found = in_chunks(attention, *given, blocked, 100)
    torch.testing.assert_close(found, attention(*given, blocked), rtol=1e-5, atol=1e-6)
