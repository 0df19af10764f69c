"""Arguments of modules that mean nothing, in words."""

from __future__ import annotations


def at_least(least: int, **numbers: int) -> None:
    """Raises ValueError for the first of the named numbers that is smaller."""
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name} is {number}, expected at least {least}")


def check_heads(dim: int, heads: int) -> None:
    """Raises ValueError unless every head of an attention gets equally many of the channels."""
    if heads < 1 or dim % heads:
        raise ValueError(f"dim is {dim}, expected a multiple of heads = {heads}")
