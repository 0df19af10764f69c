"""Masks of queries: the compiled kernel against torch's products in float64."""

from __future__ import annotations

import pytest
import torch

from lgrnet.models.video_decoder import VideoDecoder
from lgrnet.ops import cpu, mask_logits
from lgrnet.ops.backends import Backend, BackendError
from lgrnet.ops.masks import BACKENDS
from tests.ops.errors import relative

compiled = pytest.mark.skipif(cpu.missing() is not None, reason=f"compiled CPU kernels: {cpu.missing()}")
SIZES = {  # B, T, Q, C, h, w
    "one of each": (1, 1, 1, 1, 1, 1),
    "odd numbers": (2, 3, 7, 5, 3, 11),
    "LGRNet's, smaller": (1, 2, 10, 64, 12, 16),
    "a place more than a block": (1, 1, 20, 8, 3, 11),
    "more places than a task takes": (1, 2, 3, 4, 33, 34),
    "queries that are left in all groups": (2, 1, 18, 3, 6, 6),
    "many": (1, 1, 100, 33, 5, 13),
}


def inputs(name, dtype=torch.float32):
    clips, frames, count, channels, height, width = SIZES[name]
    generator = torch.Generator().manual_seed(count + channels)
    shapes = (clips, count, channels), (clips, frames, channels, height, width)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def exactly(queries, features):
    return torch.einsum("bqc,btchw->btqhw", queries.double(), features.double())


@compiled
@pytest.mark.parametrize("name", SIZES)
def test_value_on_any_number_of_threads(name, monkeypatch):
    queries, features = inputs(name)
    got, expected = mask_logits(queries, features, backend="cpu"), exactly(queries, features)
    assert got.shape == expected.shape and got.is_contiguous() and relative(got, expected) < 1e-6
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(mask_logits(queries, features, backend="cpu"), got)


@pytest.mark.skipif(not cpu.is_faster(torch.float32), reason="torch's own is the faster one here")
def test_auto_takes_the_kernel_where_nothing_is_recorded(monkeypatch):
    queries, features = inputs("LGRNet's, smaller")
    calls, kernel = [], BACKENDS["cpu"]
    monkeypatch.setitem(BACKENDS, "cpu", Backend(lambda *given: calls.append(1) or kernel.run(*given), kernel.why_not))
    decoder = VideoDecoder(dim=64)
    for leaf in (queries.clone().requires_grad_(), queries):
        decoder.requires_grad_(leaf.requires_grad).heads(leaf, features)
        mask_logits(leaf, features)
        assert len(calls) == (0 if leaf.requires_grad else 2)


@compiled
def test_a_place_is_the_same_whatever_stands_beside_it_and_where_it_lies():
    queries, features = inputs("odd numbers")
    whole = mask_logits(queries, features, backend="cpu")
    alone = [mask_logits(queries, features[..., y, :][..., None, :], backend="cpu") for y in range(features.shape[3])]
    assert torch.equal(torch.cat(alone, 3), whole)
    frames = [mask_logits(queries, frame, backend="cpu") for frame in features.split(1, 1)]
    assert torch.equal(torch.cat(frames, 1), whole)
    single = [mask_logits(query, features, backend="cpu") for query in queries.split(1, 1)]
    assert torch.equal(torch.cat(single, 2), whole)
    wider = torch.cat((features, features), 2)[:, :, : features.shape[2]]
    crooked = features.mT.contiguous().mT
    last = features.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    for other in (wider, crooked, last):
        assert not other.is_contiguous() and torch.equal(mask_logits(queries, other, backend="cpu"), whole)
    for other in (features[:, :1].expand(-1, 4, -1, -1, -1), features[:1].expand(2, -1, -1, -1, -1)):
        assert 0 in other.stride()
        expected = mask_logits(queries, other.contiguous(), backend="cpu")
        assert torch.equal(mask_logits(queries, other, backend="cpu"), expected)
    turned = queries.mT.contiguous().mT
    assert torch.equal(mask_logits(turned, features, backend="cpu"), whole)


@compiled
def test_axes_of_one_element_have_any_stride():
    many = torch.randn(50)
    features = many.as_strided((2, 1, 1, 1, 1), (3, 999, 777, 555, 333))
    queries = torch.randn(2, 3, 1)
    assert relative(mask_logits(queries, features, backend="cpu"), exactly(queries, features)) < 1e-6


@compiled
@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
def test_not_a_number_stays_at_its_place_or_in_its_query(strange):
    queries, features = inputs("odd numbers")
    features[1, 2, 3, 1, 4] = strange
    spoilt = ~mask_logits(queries, features, backend="cpu").isfinite()
    assert spoilt[1, 2, :, 1, 4].all() and spoilt.sum() == queries.shape[1]
    queries, features = inputs("odd numbers")
    queries[0, 6, 2] = strange
    spoilt = ~mask_logits(queries, features, backend="cpu").isfinite()
    assert spoilt[0, :, 6].all() and spoilt.sum() == spoilt[0, :, 6].numel()


@pytest.mark.parametrize("backend", ["auto", "reference", pytest.param("cpu", marks=compiled)])
@pytest.mark.parametrize("empty", range(5))
def test_of_nothing(backend, empty):
    sizes = [1, 2, 3, 4, 5]  # B, T, Q, C, and h = w
    sizes[empty] = 0
    clips, frames, count, channels, side = sizes
    features = torch.zeros(clips, frames, channels, side, side)
    got = mask_logits(torch.zeros(clips, count, channels), features, backend=backend)
    assert torch.equal(got, torch.zeros(clips, frames, count, side, side))


def test_gradients_other_types_and_autocast_take_torchs_own():
    queries, features = inputs("odd numbers")
    expected = exactly(queries, features)
    for leaves in ((queries.clone().requires_grad_(), features), (queries, features.clone().requires_grad_())):
        got = mask_logits(*leaves)
        assert got.requires_grad and relative(got.detach(), expected) < 1e-6
    with torch.no_grad():
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
            got = mask_logits(queries.to(dtype), features.to(dtype))
            assert got.dtype == dtype and relative(got, expected) < tolerance
        with torch.autocast("cpu", torch.bfloat16):
            got = mask_logits(queries, features.bfloat16())
            assert got.dtype == torch.bfloat16 and relative(got, expected) < 2e-2


class Product(torch.nn.Module):
    def forward(self, queries, features):
        return mask_logits(queries, features)


def test_recorded_graphs():
    low = inputs("odd numbers")
    for graph in (torch.export.export(Product(), tuple(low)).module(), torch.compile(Product())):
        assert relative(graph(*low), exactly(*low)) < 1e-6


def test_the_decoders_masks_with_and_without_gradients():
    decoder, features = VideoDecoder(dim=64), inputs("LGRNet's, smaller")[1]
    queries = torch.randn(1, 10, 64)
    recorded = decoder.heads(queries, features).mask_logits
    with torch.no_grad():
        torch.testing.assert_close(decoder.heads(queries, features).mask_logits, recorded)
    assert recorded.requires_grad and recorded.shape == (1, 10, 2, 12, 16)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: mask_logits(torch.ones(2, 3), torch.ones(1, 1, 3, 2, 2)), r"\(2, 3\) .* expected \[B, Q, C\]"),
        (lambda: mask_logits(torch.ones(1, 2, 3), torch.ones(1, 3, 2, 2)), r"features \(1, 3, 2, 2\), expected"),
        (lambda: mask_logits(torch.ones(1, 2, 3), torch.ones(1, 1, 4, 2, 2)), r"\(1, 1, 4, 2, 2\), .* same B and C"),
        (lambda: mask_logits(torch.ones(1, 2, 3), torch.ones(2, 1, 3, 2, 2)), r"\(2, 1, 3, 2, 2\), .* same B and C"),
        (
            lambda: mask_logits(torch.ones(1, 2, 3, dtype=torch.bfloat16), torch.ones(1, 1, 3, 2, 2)),
            "queries are torch.bfloat16, features torch.float32; convert one",
        ),
        (
            lambda: mask_logits(torch.ones(1, 2, 3), torch.ones(1, 1, 3, 2, 2, device="meta")),
            "features is on meta, queries on cpu",
        ),
        (lambda: mask_logits(torch.ones(1, 2, 3), torch.ones(1, 1, 3, 2, 2), backend="mkl"), "backend is 'mkl'"),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@compiled
def test_the_kernel_by_name_says_what_it_cannot():
    queries, features = inputs("odd numbers")
    with pytest.raises(BackendError, match="takes float32, not bfloat16"):
        mask_logits(queries.bfloat16(), features.bfloat16(), backend="cpu")
    with pytest.raises(BackendError, match="it has no gradients"):
        mask_logits(queries.requires_grad_(), features, backend="cpu")
