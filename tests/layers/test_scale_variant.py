"""Scale-variant attention: what it draws once, what at each call, and where windows are uneven."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lgrnet.layers.scale_variant import GuidancePath, ScaleDraw, ScaleVariantAttention


def attention(seed: int = 0, grid: int = 4) -> ScaleVariantAttention:
    torch.manual_seed(0)
    return ScaleVariantAttention((3, 3, 5), 5, grid, seed)


def maps(batch: int = 2) -> list[torch.Tensor]:
    return [torch.rand(batch, 3, 20, 28), torch.rand(batch, 3, 10, 14), torch.rand(batch, 5, 5, 7)]


def test_the_cells_of_a_scale_follow_from_the_seed_and_are_not_saved():
    one, again, other = attention(1), attention(1), attention(2)
    assert torch.equal(one.scale_of_cell, again.scale_of_cell)
    assert not torch.equal(one.scale_of_cell, other.scale_of_cell)
    assert set(one.scale_of_cell.tolist()) == {0, 1, 2} and one.scale_of_cell.dtype == torch.int64
    assert sorted(one.state_dict()) == sorted(f"squeezes.{i}.{part}" for i in range(3) for part in ("weight", "bias"))
    with torch.device("meta"):
        assert torch.equal(attention(1).scale_of_cell, one.scale_of_cell)
    assert one.double().scale_of_cell.dtype == torch.int64


def test_draws_follow_the_global_generator_in_training_only():
    gate, x = attention().train(), maps()

    def outputs(seed):
        torch.manual_seed(seed)
        return torch.stack([gate(x) for _ in range(4)])

    assert torch.equal(outputs(1), outputs(1)) and not torch.equal(outputs(1), outputs(2))
    before = torch.get_rng_state()
    gate.eval()(x)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_reads_every_cell_at_one_scale():
    gate, x = attention().train(), maps()
    order = torch.randperm(16)
    gate.draw = lambda: ScaleDraw(order, (2, 0, 1))
    expected = torch.zeros(2, 5)
    pooled = [F.conv2d(F.adaptive_avg_pool2d(m, 4), s.weight, s.bias) for m, s in zip(x, gate.squeezes, strict=True)]
    for cell in range(16):
        number = gate.scale_of_cell[order[cell]]
        scale = (2, 0, 1).index(number)
        expected += pooled[scale].flatten(2)[..., cell] / 16
    torch.testing.assert_close(gate(x)[..., 0, 0], expected.sigmoid())


def test_evaluation_averages_over_scales_and_uneven_windows():
    gate, x = attention().eval(), maps()
    pooled = [F.adaptive_avg_pool2d(m, 4).mean((2, 3), keepdim=True) for m in x]
    expected = sum(s(m) for m, s in zip(pooled, gate.squeezes, strict=True)) / 3
    torch.testing.assert_close(gate(x), expected.sigmoid())
    plain = sum(s(m.mean((2, 3), keepdim=True)) for m, s in zip(x, gate.squeezes, strict=True)) / 3
    assert (gate(x) - plain.sigmoid()).abs().max() > 1e-5


def test_other_gates_sum_in_training_and_average_in_evaluation():
    path = GuidancePath(3, 5, 2, "average")
    inputs = maps()
    average, total = path.gate.eval()(inputs).logit(), path.gate.train()(inputs).logit()
    torch.testing.assert_close(total, average * 3, atol=1e-4, rtol=0)
    assert len(GuidancePath(3, 5, 2, "source").gate.squeezes) == 1
    assert GuidancePath(3, 5, 2, "none").gate is None


def test_an_unknown_gate_is_named():
    with pytest.raises(ValueError, match="gate is 'mean', expected one of scale_variant"):
        GuidancePath(3, 5, 1, "mean")
