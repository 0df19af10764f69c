"""Multi-head attention by torch's own function: the truth that the kernel is tested against."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def multi_head_attention_reference(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """See `lgrnet.ops.multi_head_attention`."""
    q, k, v = (t.unflatten(-1, (heads, t.shape[-1] // heads)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
