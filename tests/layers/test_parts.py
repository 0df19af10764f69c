"""Large tensors on a CPU go some rows at a time, with the values and gradients of all at once."""

import pytest
import torch
import torch.nn.functional as F

from lgrnet.layers import attention
from lgrnet.layers.attention import FeedForward
from lgrnet.layers.parts import in_parts


@pytest.mark.parametrize(("most", "sizes"), [(12, [4, 4, 2]), (2, [1] * 10), (30, [10]), (29, [9, 1])])
def test_as_many_rows_as_the_limit_lets_in(most, sizes):
    seen = []

    def function(rows):
        seen.append(len(rows))
        return rows * 2

    rows = torch.arange(20.0).view(10, 2)
    assert torch.equal(in_parts(function, rows, 3, most), rows * 2)
    assert seen == sizes


def test_no_rows():
    assert in_parts(lambda rows: rows[:, :1], torch.zeros(0, 3), 0, 8).shape == (0, 1)


def test_elsewhere_all_rows_go_at_once():
    assert in_parts(lambda rows: rows.new_empty(len(rows), 1), torch.empty(10, 2, device="meta"), 3, 3).shape == (10, 1)


def outcome(block, x):
    leaves = [x.clone().requires_grad_(), *block.parameters()]
    out = block(leaves[0])
    return [out, *torch.autograd.grad(out.square().sum(), leaves)]


def plain(block, x):
    return block.norm(x + block.linear2(F.relu(block.linear1(x))))


@pytest.mark.parametrize("at_once", [1, 7 * 48, 2**21])
def test_feed_forward_block_in_parts(at_once, monkeypatch):
    monkeypatch.setattr(attention, "AT_ONCE", at_once)
    torch.manual_seed(0)
    block, x = FeedForward(16, 48).double(), torch.randn(2, 3, 5, 16, dtype=torch.double)
    got = outcome(block, x)
    monkeypatch.setattr(FeedForward, "forward", plain)
    whole = outcome(block, x)
    for part, expected in zip(got, whole, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-12)


def test_a_recorded_graph_holds_for_other_sizes(monkeypatch):
    monkeypatch.setattr(attention, "AT_ONCE", 48)
    torch.manual_seed(0)
    block, x = FeedForward(16, 48), torch.randn(2, 5, 16)
    seen = []

    def backend(graph, inputs):
        seen.append(sum(node.op == "call_function" and "linear" in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    torch.testing.assert_close(torch.compile(block, backend=backend, fullgraph=True)(x), block(x))
    assert seen == [2]
