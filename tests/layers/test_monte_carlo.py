"""What Monte Carlo attention draws, and on whom its draws depend."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

from lgrnet.layers.conv_unit import ConvUnit, make_divisible
from lgrnet.layers.monte_carlo import MonteCarloAttention, PoolDraw, attention_width, channel_attention


def test_sizes_and_cells_are_drawn_evenly():
    torch.manual_seed(0)
    attention = MonteCarloAttention(8)
    draws = [attention.draw(4) for _ in range(3000)]
    sizes = Counter(draw.size for draw in draws)
    assert set(sizes) == {1, 2, 3} and min(sizes.values()) > 900
    cells = Counter(draw.cell for draw in draws if draw.size == 3)
    assert set(cells) == set(range(9)) and min(cells.values()) > 70
    orders = Counter(tuple(draw.order.tolist()) for draw in draws if draw.size == 2)
    assert len(orders) == 24


def test_draws_follow_the_global_generator_and_nothing_else():
    attention = MonteCarloAttention(8).train()
    x = torch.rand(2, 8, 5, 7)

    def outputs(seed):
        torch.manual_seed(seed)
        return torch.stack([attention(x) for _ in range(6)])

    assert torch.equal(outputs(1), outputs(1)) and not torch.equal(outputs(1), outputs(2))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    attention.eval()(x)
    assert torch.equal(torch.get_rng_state(), before)


def test_in_training_the_whole_batch_has_one_draw():
    attention = MonteCarloAttention(8, pool_sizes=(3,)).train()
    x = torch.rand(1, 8, 6, 6).expand(3, -1, -1, -1)
    out = attention(x)
    assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])


def test_the_description_is_the_mean_of_the_drawn_cell_and_gradients_reach_it():
    attention = MonteCarloAttention(8, shuffle=False).train()
    attention.draw = lambda positions: PoolDraw(2, cell=1)
    x = torch.rand(1, 8, 5, 4, requires_grad=True)
    described = []
    attention.reduce.register_forward_pre_hook(lambda _module, inputs: described.append(inputs[0]))
    attention(x)
    # adaptive windows of an odd size overlap: rows 0..2 of 5
    torch.testing.assert_close(described[0], x[..., :3, 2:].mean((2, 3), keepdim=True))
    gradient = torch.autograd.grad(described[0].sum(), x)[0]
    assert gradient[..., :3, 2:].count_nonzero() == 8 * 6 == gradient.count_nonzero()


def test_one_pool_of_everything_is_squeeze_and_excitation():
    ours, theirs = MonteCarloAttention(64, pool_sizes=(1,)), SqueezeExcitation(64, 32)
    theirs.load_state_dict(
        {name.replace("reduce", "fc1").replace("expand", "fc2"): v for name, v in ours.state_dict().items()}
    )
    x = torch.rand(2, 64, 5, 3)
    torch.testing.assert_close(ours.train()(x), theirs(x))
    torch.testing.assert_close(ours.eval()(x), theirs(x))


@pytest.mark.parametrize(("channels", "width"), [(32, 32), (128, 32), (512, 128), (2048, 512), (200, 48)])
def test_width_inside(channels, width):
    assert attention_width(channels) == width


@pytest.mark.parametrize(("value", "divisor", "result"), [(40, 16, 48), (10, 8, 16), (128, 8, 128), (3, 8, 8)])
def test_make_divisible(value, divisor, result):
    assert make_divisible(value, divisor) == result


def test_kinds():
    assert isinstance(channel_attention("squeeze")(64), SqueezeExcitation)
    assert isinstance(channel_attention("none")(64), nn.Identity)
    assert channel_attention("monte_carlo", (1, 4), shuffle=False)(64).pool_sizes == (1, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: channel_attention("se"), "channel attention is 'se', expected one of monte_carlo"),
        (lambda: MonteCarloAttention(8, ()), r"pool_sizes are \(\), expected at least one"),
        (lambda: MonteCarloAttention(8, (0, 1)), "each 1 or more"),
        (lambda: ConvUnit(3, 3, activation="gelu"), "activation is 'gelu', expected one of relu"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
