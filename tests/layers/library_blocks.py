"""A block of ours against that of its library, from the same weights."""

from __future__ import annotations

import torch
from torch import nn


def assert_same_names(ours: nn.Module, theirs: nn.Module) -> None:
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in theirs.named_modules()]


def assert_same_step(ours: nn.Module, theirs: nn.Module, *inputs, seed: int = 0) -> torch.Tensor:
    """Value and the gradients of all parameters, with the same random draws; returns their value."""
    results = []
    for block in (ours, theirs):
        torch.manual_seed(seed)
        results.append(block(*inputs))
        results[-1].square().sum().backward()
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4 * float(other.grad.abs().max()))
    return results[-1].detach()
