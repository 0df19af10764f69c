"""Masks of queries: their products with the features at every place.

Legend: B clips, T frames, Q queries, C channels, h w features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lgrnet.ops.backends import Backend
from lgrnet.ops.cpu import cannot_run, inference_backend
from lgrnet.ops.masks.cpu import mask_logits_cpu
from lgrnet.ops.masks.reference import mask_logits_reference

__all__ = ["mask_logits"]

BACKENDS = {"cpu": Backend(mask_logits_cpu, cannot_run), "reference": Backend(mask_logits_reference)}


def mask_logits(queries: Tensor, features: Tensor, *, backend: str = "auto") -> Tensor:
    """The logits of the masks: queries times features, summed over channels (MaskFormer, arXiv 2107.06278).

    queries   [B, Q, C], the mask embeddings
    features  [B, T, C, h, w]
    backend   "cpu" (compiled, float32, no gradients) or "reference", which is torch's own; "auto" takes the first where
              it can and is faster, as `lgrnet.ops.layer_norm` does

    Returns [B, T, Q, h, w], frame by frame as the features lie in memory. By the kernel the numbers of a place are the
    same whatever stands beside it.
    Raises ValueError for shapes, types or devices that do not fit, and BackendError (a ValueError) for a backend that
    is unknown or cannot do this.
    """
    fits = queries.ndim == 3 and features.ndim == 5
    if not fits or queries.shape[0] != features.shape[0] or queries.shape[2] != features.shape[2]:
        raise ValueError(
            f"queries have shape {tuple(queries.shape)} and features {tuple(features.shape)}, expected [B, Q, C] and "
            "[B, T, C, h, w] of the same B and C"
        )
    if queries.dtype != features.dtype and not torch.is_autocast_enabled(features.device.type):
        raise ValueError(
            f"queries are {queries.dtype}, features {features.dtype}; convert one to the type of the other"
        )
    given = {"queries": queries, "features": features}
    return inference_backend(BACKENDS, backend, given, types=(torch.float32,))(queries, features)
