"""Which of an op's implementations runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def choose(backends: Mapping[str, Callable], wanted: str) -> Callable:
    """The implementation named `wanted`, or for "auto" the first of `backends`, which lists the fastest first.

    Raises ValueError for a name that is not there.
    """
    if wanted == "auto":
        return next(iter(backends.values()))
    if wanted not in backends:
        raise ValueError(f"backend is {wanted!r}, expected auto or one of {', '.join(backends)}")
    return backends[wanted]
