"""Modules as peers: one network, in whatever type its input has."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn


def in_type_of_input(
    net: nn.Module, change: Callable[[nn.Module], Callable[..., object]] = lambda net: net
) -> Callable[..., object]:
    """Calls a copy of `net` in the type of the first argument; each is made once.

    change  what is done to the copy: compile it, change its memory format
    """
    ready: dict[torch.dtype, Callable[..., object]] = {}

    def call(first: Tensor, *others: Tensor) -> object:
        if first.dtype not in ready:
            ready[first.dtype] = change(copy.deepcopy(net).to(first.dtype))
        return ready[first.dtype](first, *others)

    return call
