"""Weights in and out, training checkpoints, and models that are built from what their weights say.

Importing the room loads none of it: the names of published weights (`official`) are then there without the packages
that read configs and weights files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lgrnet.checkpoint.checkpointer import load_weights
    from lgrnet.checkpoint.described import ALLOWED, PACKAGED, input_facts, load, load_model, resolve

__all__ = ["ALLOWED", "PACKAGED", "input_facts", "load", "load_model", "load_weights", "resolve"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from lgrnet.checkpoint import described

        return getattr(described, name)
    raise AttributeError(f"module 'lgrnet.checkpoint' has no attribute {name!r}")
