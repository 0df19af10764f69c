"""Masks of queries by torch's own products: the truth that the kernel is tested against."""

from __future__ import annotations

from torch import Tensor


def mask_logits_reference(queries: Tensor, features: Tensor) -> Tensor:
    """See `lgrnet.ops.mask_logits`."""
    # Frame by frame, as the features lie in memory: no copy of them is made.
    return (queries[:, None] @ features.flatten(3)).unflatten(-1, features.shape[-2:])
