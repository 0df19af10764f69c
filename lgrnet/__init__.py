"""lgrnet: lesion segmentation in medical video. `lgrnet.load(weights)` gives a model; importing loads nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lgrnet.checkpoint import load, load_model

__all__ = ["__version__", "load", "load_model"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("load", "load_model"):
        from lgrnet import checkpoint

        return getattr(checkpoint, name)
    raise AttributeError(f"module 'lgrnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "load", "load_model"])
