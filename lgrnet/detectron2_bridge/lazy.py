"""What a lazy config of detectron2 needs beside the classes that it names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial


def deferred(function: Callable, **arguments: object) -> Callable:
    """`function` with some of its arguments, for whoever calls it with the rest.

    LGRNet makes its encoder when it knows the backbone's channels: LazyCall(deferred)(function=LGREncoder, dim=64).
    """
    return partial(function, **arguments)
