"""Neighborhood attention: against the golden numbers, its definition written out, its gradients."""

import pytest
import torch

from lgrnet.ops import neighborhood_attention
from lgrnet.ops.neighborhood.reference import window_starts


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_golden_maps(golden):
    micro = torch.load(golden / "lgrnet" / "micro.pt", weights_only=True)
    cases = [name for name in micro if name.startswith("na_")]
    assert len(cases) >= 5
    for name in cases:
        _, size, window, dilation = name.split("_")
        height, width = map(int, size.split("x"))
        q, k, v = (
            micro[name][key].permute(0, 2, 3, 1, 4).flatten(1, 2)[:, None] for key in "qkv"
        )  # [B, 1, S, heads, c]
        out = neighborhood_attention(q, k, v, [(height, width)], int(window[1:]), int(dilation[1:]), frame_shift=0)
        expected = micro[name]["out"].permute(0, 2, 3, 1, 4).flatten(1, 2)[:, None]
        assert (out - expected).abs().max() < 2e-5 * expected.abs().max(), name


def written_out(q, k, v, shapes, window, dilation, shift):
    """One query at a time, with the window rule in its own words."""
    out = torch.zeros_like(q)
    frames, start = q.shape[1], 0
    for height, width in shapes:
        rows, columns = max(height, window * dilation), max(width, window * dilation)
        for t in range(frames):
            for y in range(height):
                for x in range(width):
                    keys, values = [], []
                    for j in near(y, rows, window, dilation):
                        for i in near(x, columns, window, dilation):
                            inside = j < height and i < width
                            token, past = start + j * width + i, (t - shift) % frames
                            keys.append(k[:, past, token] if inside else torch.zeros_like(k[:, 0, 0]))
                            values.append(v[:, past, token] if inside else torch.zeros_like(v[:, 0, 0]))
                    place = start + y * width + x
                    weights = (torch.stack(keys, 1) * q[:, t, place, None]).sum(-1).softmax(1)
                    out[:, t, place] = (weights[..., None] * torch.stack(values, 1)).sum(1)
        start += height * width
    return out


def near(i, length, window, dilation):
    """The window nearest to i among the positions of its own residue, fully inside the axis."""
    line = [p for p in range(length) if p % dilation == i % dilation]
    windows = [line[a : a + window] for a in range(len(line) - window + 1)]
    return min(windows, key=lambda w: (abs(w[window // 2] - i), w))


@pytest.mark.parametrize(
    ("shapes", "window", "dilation", "frames", "shift"),
    [
        (((2, 3), (4, 6), (7, 5)), 5, 1, 3, 1),
        (((3, 3), (11, 4)), 3, 2, 2, 1),
        (((4, 4),), 3, 1, 4, 3),
        (((5, 4),), 3, 1, 1, 1),
        (((1, 1),), 5, 1, 2, 0),
        (((4, 5),), 3, 1, 2, 5),
    ],
)
def test_value(shapes, window, dilation, frames, shift):
    tokens = sum(h * w for h, w in shapes)
    q, k, v = (draw(2, frames, tokens, 2, 3, seed=i) for i in range(3))
    ours = neighborhood_attention(q, k, v, shapes, window, dilation, shift)
    torch.testing.assert_close(ours, written_out(q, k, v, shapes, window, dilation, shift), rtol=1e-12, atol=1e-12)


def test_every_gradient():
    q, k, v = (draw(1, 2, 10, 2, 2, seed=i).requires_grad_() for i in range(3))
    assert torch.autograd.gradcheck(lambda *t: neighborhood_attention(*t, [(1, 1), (3, 3)], 3), (q, k, v))


@pytest.mark.parametrize(("length", "window", "dilation"), [(5, 5, 1), (9, 3, 2), (13, 5, 2), (40, 9, 4)])
def test_windows_are_shifted_never_shrunk(length, window, dilation):
    for i, start in enumerate(window_starts(length, window, dilation).tolist()):
        assert [start + dilation * n for n in range(window)] == near(i, length, window, dilation)


def test_half_precision_keeps_its_type():
    q, k, v = (draw(1, 2, 16, 2, 8, seed=i).float() for i in range(3))
    exact = neighborhood_attention(q, k, v, [(4, 4)], 3)
    half = neighborhood_attention(*(t.bfloat16() for t in (q, k, v)), [(4, 4)], 3)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0, atol=5e-2)


def test_bad_input():
    q = torch.zeros(1, 2, 16, 2, 3)
    with pytest.raises(ValueError, match=r"expected three times \[B, T, 20, heads, d\]"):
        neighborhood_attention(q, q, q, [(4, 5)], 3)
    with pytest.raises(ValueError, match="expected an odd window"):
        neighborhood_attention(q, q, q, [(4, 4)], 4)
    with pytest.raises(ValueError, match="one of .*reference"):
        neighborhood_attention(q, q, q, [(4, 4)], 3, backend="abacus")


@pytest.mark.parametrize("clips, frames, levels", [(0, 2, 1), (1, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_nothing_gives_nothing(clips, frames, levels, backend):
    q = torch.randn(clips, frames, 6 * levels, 2, 4)
    assert neighborhood_attention(q, q, q, ((2, 3),) * levels, 3, backend=backend).shape == q.shape


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.trace` is deprecated")
def test_a_trace_is_the_same_with_and_without_gradients():
    q = torch.randn(1, 2, 6, 2, 4)
    traced = torch.jit.trace(lambda x: neighborhood_attention(x, x, x, ((2, 3),), 3), q)
    torch.testing.assert_close(traced(2 * q), neighborhood_attention(2 * q, 2 * q, 2 * q, ((2, 3),), 3))


def test_types_may_differ_and_that_of_the_queries_is_the_results():
    q = torch.randn(1, 2, 6, 2, 4)
    for backend in ("auto", "reference"):
        out = neighborhood_attention(q.bfloat16(), q, q, ((2, 3),), 3, backend=backend)
        assert (
            out.dtype == torch.bfloat16
            and neighborhood_attention(q.double(), q, q, ((2, 3),), 3).dtype == torch.float64
        )


@pytest.mark.parametrize("window, dilation", [(3, 2**61), (3, 2**31), (2**31 + 1, 1), (100_001, 11)])
def test_a_window_beyond_every_map_is_refused(window, dilation):
    q = torch.zeros(1, 1, 6, 1, 2)
    with pytest.raises(ValueError, match="expected a product of at most"):
        neighborhood_attention(q, q, q, ((2, 3),), window, dilation)
